"""A cache folder for numba and matplotlib if the usual one cannot be written."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

# Not a folder, and none can be made in it.
_NO_FOLDER = Path(os.devnull)


def give_caches_a_place() -> None:
    """Set numba's and matplotlib's caches to a folder of this process if theirs cannot be written.

    With a read-only installation and a read-only home folder (a container, a module of a cluster)
    importing scanpy fails: numba raises "no locator available". The folder is a temporary one and
    is removed with the process.

    If the image contains functions that were compiled when it was built (``SCALE_COMPILED``), numba
    receives a copy: it needs a folder that it can write to and reads pickles from it, so no other
    user may write there. The copy is usable on processors of the same kind.
    """
    home = Path(os.environ.get("HOME") or _NO_FOLDER)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    ready, chosen = os.environ.get("SCALE_COMPILED"), os.environ.get("NUMBA_CACHE_DIR")
    numba = (
        []
        if ready and not chosen
        else [_installed("scanpy"), cache, *([Path(chosen)] if chosen else [])]
    )
    matplotlib = [Path(os.environ.get("MPLCONFIGDIR") or config)]
    candidates = {"NUMBA_CACHE_DIR": numba, "MPLCONFIGDIR": matplotlib}
    lacking = [
        name for name, folders in candidates.items() if not any(map(_can_be_written, folders))
    ]
    if not lacking:
        return
    # without any writable folder, the library that needs a cache reports it
    with contextlib.suppress(OSError):
        private = Path(tempfile.mkdtemp(prefix="scale-caches-"))
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        os.environ.update({name: str(private / name.lower()) for name in lacking})
        if ready and "NUMBA_CACHE_DIR" in lacking:
            shutil.copytree(ready, os.environ["NUMBA_CACHE_DIR"])


def _installed(package: str) -> Path:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else _NO_FOLDER


def _can_be_written(folder: Path) -> bool:
    """Return whether `folder` can be written, or made if it does not exist yet."""
    while not os.access(folder, os.F_OK) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)
