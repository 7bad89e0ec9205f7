"""Read the receipts that every stage leaves in ``uns['scale']``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scale_toolkit import keys

if TYPE_CHECKING:
    from anndata import AnnData


def entries(adata: AnnData, slot: keys.Slot = keys.RECEIPTS) -> list[dict[str, Any]]:
    """Return the receipts (or the run times, ``keys.RUNTIME``), oldest first.

    A slot that is not the JSON of this package gives none.
    """
    if not slot.found_in(adata):
        return []
    try:
        stored = json.loads(str(slot.get(adata)))
    except ValueError:
        return []
    return (
        [entry for entry in stored if isinstance(entry, dict)] if isinstance(stored, list) else []
    )


def last(adata: AnnData, stage: str) -> dict[str, Any]:
    """Return the last receipt of a stage, or an empty dict."""
    return next((entry for entry in reversed(entries(adata)) if entry.get("stage") == stage), {})
