"""Large arrays: in memory, or in a temporary file that the system pages in and out.

A matrix that takes more than a small share of the memory that this job may use is stored in an
unlinked file in TMPDIR and mapped into memory. Its pages belong to the system's page cache, which
gives them up when memory is needed, so results are the same and only the speed depends on the
memory. The file vanishes with the array.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from typing import IO, Any

import numpy as np

from scale_toolkit import memory
from scale_toolkit.errors import MemoryLimitError

log = logging.getLogger("scale_toolkit")

#: Arrays of up to this share of the memory that the job may use are in memory: a stage has up to
#: four of them at a time, beside what does not grow with the counts.
SHARE_IN_MEMORY = 1 / 8
#: Smaller arrays are always in memory, in bytes.
SMALL = 1 << 24
_MOUNTS = Path("/proc/mounts")
_IN_MEMORY = ("tmpfs", "ramfs")


def share_of_memory() -> int:
    """Bytes of the largest array that memory takes now if TMPDIR is on a disk."""
    bound = memory.available()
    return sys.maxsize if bound is None else max(int(bound[0] * SHARE_IN_MEMORY), SMALL)


def fits_in_memory(n_bytes: int) -> bool:
    """Whether an array of this size is put into memory."""
    return n_bytes <= SMALL or n_bytes <= share_of_memory() or in_memory(_folder())


def empty(n: int, dtype: Any) -> np.ndarray[Any, Any]:
    """Return an array of `n` values, not initialised: in memory or in a temporary file.

    Raises
    ------
    MemoryLimitError
        TMPDIR has too little room for it, either.
    """
    n_bytes = n * np.dtype(dtype).itemsize
    if fits_in_memory(n_bytes):
        return np.empty(n, dtype)
    return _mapped(n, dtype)


def _mapped(n: int, dtype: Any) -> np.ndarray[Any, Any]:
    """Return an array in an unlinked file of TMPDIR."""
    n_bytes = n * np.dtype(dtype).itemsize
    check_room(n_bytes, "storing counts")
    log.info("%.1f GB of counts in a temporary file in %s", n_bytes / 1e9, _folder())
    with tempfile.TemporaryFile(prefix="scale-") as file:
        # a full disk is an error here; a mapped file without room for it ends the process
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        else:
            file.truncate(n_bytes)
        # SciPy tests the size of an array's base, which a memory map lacks
        return np.memmap(file, dtype, "r+", shape=(n,))[:].view(np.ndarray)


class Growing:
    """A one-dimensional array that is appended to: in memory, or in one temporary file as soon as
    it is too large.

    Parameters
    ----------
    dtype
        Of the values.
    """

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._parts: list[np.ndarray[Any, Any]] = []
        self._file: IO[bytes] | None = None
        self._n = 0

    def append(self, values: np.ndarray[Any, Any]) -> None:
        """Add values to the end."""
        self._parts.append(np.ascontiguousarray(values, self._dtype))
        self._n += len(values)
        if self._file is None and fits_in_memory(self._n * self._dtype.itemsize):
            return
        check_room(sum(array.nbytes for array in self._parts), "storing counts")
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="scale-")  # noqa: SIM115  closed below
            weakref.finalize(self, self._file.close)
        for array in self._parts:
            self._file.write(array.data)
        self._parts = []

    def array(self) -> np.ndarray[Any, Any]:
        """Return all values; nothing may be appended afterwards."""
        if self._file is None:
            return np.concatenate([np.empty(0, self._dtype), *self._parts])
        with self._file as file:
            file.flush()
            return np.memmap(file, self._dtype, "r+", shape=(self._n,))[:].view(np.ndarray)


def check_room(n_bytes: int, what: str) -> None:
    """Refuse work whose temporary files do not fit into TMPDIR.

    Parameters
    ----------
    n_bytes
        Size of its arrays that do not fit into memory.
    what
        The work, for the message: ``reading cells.h5ad``.

    Raises
    ------
    MemoryLimitError
        They do not fit.
    """
    folder = _folder()
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise MemoryLimitError(
            f"{what} takes at least {n_bytes / 1e9:,.1f} GB of memory or temporary files, and "
            f"{free / 1e9:,.1f} GB are free in TMPDIR ({folder})",
            "room in one of the two",
            "ask for more memory, or set TMPDIR to a folder on a larger disk; a file that is small "
            "on disk is damaged",
        )


def in_memory(folder: Path, mounts: Path = _MOUNTS) -> bool:
    """Whether files in this folder take memory: a file there would save nothing."""
    try:
        lines = [line.split()[1:3] for line in mounts.read_text().splitlines() if " " in line]
    except OSError:
        return False
    absolute = folder.resolve()
    inside = [
        (len(Path(mount).parts), kind)
        for mount, kind in lines
        if absolute.is_relative_to(mount.replace("\\040", " "))
    ]
    return bool(inside) and max(inside)[1] in _IN_MEMORY


def _folder() -> Path:
    return Path(tempfile.gettempdir())
