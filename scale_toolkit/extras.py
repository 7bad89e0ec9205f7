"""Libraries that only some of the work needs."""

from __future__ import annotations

import shlex
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from scale_toolkit.errors import InputError

_EXTRA = {"lightmotif": "motifs", "pyfaidx": "motifs"}


def library(name: str) -> ModuleType:
    """Import an optional library, or raise `InputError` with the command that installs it."""
    try:
        return import_module(name)
    except ImportError:
        extra = _EXTRA[name]
        command = f"run: {install_command(extra)}"
        raise InputError(f"{name} is not installed", f"the extra {extra!r}", command) from None


def install_command(extra: str) -> str:
    """Return the command that adds an extra to the Python that runs.

    The package is on no index, so that its name alone cannot be installed: an extra of a checkout
    is installed from the checkout, and elsewhere the libraries themselves are named.
    """
    python = shlex.quote(sys.executable or "python")
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        return f"{python} -m pip install {shlex.quote(f'{checkout}[{extra}]')}"
    return (
        f"{python} -m pip install {' '.join(name for name, key in _EXTRA.items() if key == extra)}"
    )
