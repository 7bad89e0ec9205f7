"""Libraries that only some of the work needs."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from scale_toolkit.errors import InputError

_EXTRA = {"lightmotif": "motifs", "pyfaidx": "motifs"}


def library(name: str) -> ModuleType:
    """Import an optional library, or raise `InputError` that names the extra it comes with."""
    try:
        return import_module(name)
    except ImportError:
        extra = _EXTRA[name]
        raise InputError(f"{name} is not installed", f"the extra {extra!r}", f"pip install 'scale-toolkit[{extra}]'") from None
