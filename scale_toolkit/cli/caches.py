"""A place for what numba and matplotlib keep between calls, where the usual one cannot be written."""

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
    """Point numba's and matplotlib's caches to a folder of this process where theirs cannot be written.

    With a read-only installation and a read-only home folder (a container, a module of a cluster) scanpy does not even import:
    numba ends with "no locator available". The folder lies in the temporary folder and goes with the process.

    What was compiled when the image was built (``SCALE_COMPILED``) is copied to where numba looks, since numba wants a folder
    that can be written. It serves a processor of the same kind, and is passed over by others.
    """
    home = Path(os.environ.get("HOME") or _NOWHERE)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    numba = [_installed("scanpy"), cache, *map(Path, filter(None, [os.environ.get("NUMBA_CACHE_DIR")]))]
    matplotlib = [Path(os.environ.get("MPLCONFIGDIR") or config)]
    places = {"NUMBA_CACHE_DIR": numba, "MPLCONFIGDIR": matplotlib}
    lacking = [name for name, folders in places.items() if not any(map(_can_be_written, folders))]
    with contextlib.suppress(OSError):  # nowhere at all: whoever needs a cache says so
        if lacking:
            folder = tempfile.mkdtemp(prefix="scale-caches-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            os.environ.update({name: str(Path(folder, name.lower())) for name in lacking})
        if os.environ.get("SCALE_COMPILED") and os.environ.get("NUMBA_CACHE_DIR"):
            _copy_whole(Path(os.environ["SCALE_COMPILED"]), Path(os.environ["NUMBA_CACHE_DIR"]))


def _copy_whole(source: Path, destination: Path) -> None:
    """Copy a folder to where nothing is yet; whoever looks sees all of it or nothing."""
    if not destination.exists() and _can_be_written(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        private = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
        try:
            shutil.copytree(source, private / "new")
            (private / "new").replace(destination)  # an error where a neighbour was first
        finally:
            shutil.rmtree(private, ignore_errors=True)


def _installed(package: str) -> Path:
    spec = find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else _NOWHERE


def _can_be_written(folder: Path) -> bool:
    """Whether `folder` can be written, or made where it is not there yet."""
    while not os.access(folder, os.F_OK) and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)
