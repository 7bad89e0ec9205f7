"""A place for what numba and matplotlib keep between calls, where the usual one cannot be
written.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

_NOWHERE = Path(os.devnull)  # no folder, and none can be made in it


def give_caches_a_place() -> None:
    """Point numba's and matplotlib's caches to a folder of this process where theirs cannot be
    written.

    With a read-only installation and a read-only home folder (a container, a module of a cluster)
    scanpy does not even import: numba ends with "no locator available". The folder lies in the
    temporary folder and goes with the process.

    Where the image brings what it compiled when it was built (``SCALE_COMPILED``), numba is given a
    copy: it wants a folder to write in, and reads pickles from it, so that no other user may write
    there. The copy serves processors of the same kind.
    """
    home = Path(os.environ.get("HOME") or _NOWHERE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    ready, chosen = os.environ.get("SCALE_COMPILED"), os.environ.get("NUMBA_CACHE_DIR")
    numba = (
        []
        if ready and not chosen
        else [_installed("scanpy"), cache, *([Path(chosen)] if chosen else [])]
    )
    matplotlib = [Path(os.environ.get("MPLCONFIGDIR") or config)]
    places = {"NUMBA_CACHE_DIR": numba, "MPLCONFIGDIR": matplotlib}
    lacking = [name for name, folders in places.items() if not any(map(_can_be_written, folders))]
    if not lacking:
        return
    with contextlib.suppress(OSError):  # nowhere at all: whoever needs a cache says so
        private = Path(tempfile.mkdtemp(prefix="scale-caches-"))
        atexit.register(shutil.rmtree, private, ignore_errors=True)
        os.environ.update({name: str(private / name.lower()) for name in lacking})
        if ready and "NUMBA_CACHE_DIR" in lacking:
            shutil.copytree(ready, os.environ["NUMBA_CACHE_DIR"])


def _installed(package: str) -> Path:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else _NOWHERE


def _can_be_written(folder: Path) -> bool:
    """Whether `folder` can be written, or made where it is not there yet."""
    while not os.access(folder, os.F_OK) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)
