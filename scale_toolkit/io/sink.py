"""A new HDF5 file that survives a full disk: HDF5 itself does not."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import h5py

from scale_toolkit.errors import ScaleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from scipy import sparse

    from scale_toolkit.lazy import RowBlocks


class CheckedBlocks:
    """Row blocks that stop being made when the disk is full."""

    def __init__(self, matrix: RowBlocks, sink: Sink) -> None:
        self._matrix, self._sink = matrix, sink
        self.shape, self.dtype, self.format = matrix.shape, matrix.dtype, matrix.format
        self.n_threads = getattr(matrix, "n_threads", 1)
        self.all_ones = getattr(matrix, "all_ones", False)

    def blocks(self) -> Iterator[np.ndarray | sparse.csr_matrix]:
        """Yield the blocks of the matrix, after making sure that the disk took the one before."""
        for block in self._matrix.blocks():
            self._sink.check()
            yield block
            # frees its memory before the next one is computed
            del block


class Sink:
    """The file HDF5 writes to. If the disk refuses a write, it and all later ones are kept in
    memory.

    HDF5 does not survive a failed write: it reports it again for every object it closes, past any
    `except`, and may crash. So every write succeeds as far as HDF5 can see, HDF5 reads back what it
    wrote, and `check` stops the work after the current piece.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._position = 0
        self._kept: list[tuple[int, bytes]] = []
        self.failure: OSError | None = None

    def check(self) -> None:
        """Raise what the disk refused."""
        if self.failure is not None:
            raise self.failure

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, as a file does."""
        if whence == os.SEEK_END:
            ends = [start + len(data) for start, data in self._kept]
            offset += max([self._file.seek(0, os.SEEK_END), *ends])
        self._position = offset + (self._position if whence == os.SEEK_CUR else 0)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def write(self, data: Any) -> int:
        """Write to the disk, or to memory after the disk has refused a write."""
        view = memoryview(data).cast("B")
        if self.failure is None:
            try:
                self._file.seek(self._position)
                done = 0
                # One call writes 2 GiB at most, and less if the disk is about to be full.
                while done < len(view):
                    done += self._file.write(view[done:])
            except OSError as error:
                self.failure = error
        if self.failure is not None:
            self._kept.append((self._position, bytes(view)))
        self._position += len(view)
        return len(view)

    def read(self, size: int) -> bytes:
        """Read `size` bytes."""
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the disk, then from what memory holds instead; zeros beyond the
        end.
        """
        view = memoryview(buffer).cast("B")
        self._file.seek(self._position)
        filled = 0
        while count := self._file.readinto(view[filled:]):  # type: ignore[attr-defined]
            filled += count
        view[filled:] = bytes(len(view) - filled)
        end = self._position + len(view)
        for start, data in self._kept:
            first, last = max(start, self._position), min(start + len(data), end)
            if first < last:
                target = slice(first - self._position, last - self._position)
                view[target] = data[first - start : last - start]
        self._position = end
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Cut or extend the file."""
        if self.failure is None:
            self._file.truncate(size)
        return self._position if size is None else size

    def flush(self) -> None:
        """Flush to the disk."""
        if self.failure is None:
            self._file.flush()


@contextmanager
def new_hdf5(file: IO[bytes], name: str) -> Iterator[tuple[h5py.File, Sink]]:
    """Yield a new HDF5 file inside an unbuffered open one; a full disk raises a `ScaleError`."""
    sink = Sink(file)
    try:
        with h5py.File(sink, "w") as root:
            yield root, sink
        sink.check()
    except OSError as error:
        if error is not sink.failure:
            raise
        raise ScaleError(
            f"{name} cannot be written ({error.strerror})",
            "",
            "free some space or choose another place",
        ) from error
