"""Words for messages."""

from __future__ import annotations

from collections.abc import Iterable


def first_names(names: Iterable[object], n: int = 5) -> str:
    """Return the first `n` names, and how many follow: ``a, b and 3 more``."""
    listed = [str(name) for name in names]
    text = ", ".join(listed[:n])
    return text if len(listed) <= n else f"{text} and {len(listed) - n:,} more"
