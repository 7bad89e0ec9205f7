"""Matrices in blocks of rows as chunks of a store, and HDF5 chunks compressed by several threads.

HDF5 compresses in the thread that writes, one chunk after the other. Here chunks are compressed by
as many threads as compute the matrix, and passed to HDF5 in compressed form; a reader sees the
ordinary gzip (and shuffle) filter.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from scale_toolkit.core.rows import MOST_INT32
from scale_toolkit.lazy import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import h5py
    from scipy import sparse

    from scale_toolkit.lazy import RowBlocks

# Items of a chunk: 1 MiB of float32.
CHUNK = 1 << 18


def dense_chunks(shape: tuple[int, int]) -> tuple[int, int] | None:
    """Return the chunks of a dense matrix, about 4,096 columns wide; None for an empty matrix."""
    n_rows, n_columns = shape
    if not (n_rows and n_columns):
        return None
    # equal widths up to a few columns: a narrow last chunk would be padded to the full width
    width = -(-n_columns // -(-n_columns // 4096))
    return max(1, min(n_rows, CHUNK // width)), width


def strips(matrix: RowBlocks, height: int) -> Iterator[np.ndarray]:
    """Yield the rows of dense blocks, `height` at a time (the last may have fewer), each time in
    new memory.
    """
    strip, filled = np.empty((height, matrix.shape[1]), matrix.dtype), 0
    for block in matrix.blocks():
        position, n_rows = 0, len(block)
        while position < n_rows:
            take = min(height - filled, n_rows - position)
            strip[filled : filled + take] = block[position : position + take]
            position, filled = position + take, filled + take
            if filled == height:
                if position == n_rows:
                    # frees its memory before the next one is computed
                    del block
                yield strip
                strip, filled = np.empty_like(strip), 0
    if filled:
        yield strip[:filled]


class Runs:
    """The stored values of CSR blocks, `length` at a time: iterate, then ask for the pointers.

    Attributes
    ----------
    dtypes
        What is stored: indices (int32; int64 in the end if `pointers` are), and data unless all of
        it is 1.
    stored
        Values of the blocks read so far.
    """

    def __init__(self, matrix: RowBlocks, length: int) -> None:
        self._matrix, self._length = matrix, length
        self._pointers = [np.zeros(1, np.int64)]
        self.stored = 0
        self.all_ones = getattr(matrix, "all_ones", False)
        self.dtypes = {"indices": np.dtype(np.int32)} | (
            {} if self.all_ones else {"data": np.dtype(matrix.dtype)}
        )

    @property
    def pointers(self) -> np.ndarray:
        """Where each row begins, and the last one ends: int32 like the indices, if that is enough.

        SciPy wants one type for both: with two, taking rows of what was read fails.
        """
        pointers = np.concatenate(self._pointers)
        return pointers.astype(np.int32) if self.stored <= MOST_INT32 else pointers

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        run, filled = self._new(), 0
        for block in cast("Iterator[sparse.csr_matrix]", self._matrix.blocks()):
            block.sort_indices()
            self._pointers.append(block.indptr[1:].astype(np.int64) + self.stored)
            self.stored += int(block.nnz)
            position = 0
            while position < block.nnz:
                take = min(self._length - filled, block.nnz - position)
                for name, values in run.items():
                    values[filled : filled + take] = getattr(block, name)[
                        position : position + take
                    ]
                position, filled = position + take, filled + take
                if filled == self._length:
                    yield run
                    run, filled = self._new(), 0
            # frees its memory before the next one is computed
            del block
        if filled:
            yield {name: values[:filled] for name, values in run.items()}

    def _new(self) -> dict[str, np.ndarray]:
        return {name: np.empty(self._length, dtype) for name, dtype in self.dtypes.items()}


def widened(indices: Any, create: Callable[[np.dtype[Any]], Any], step: int = CHUNK) -> None:
    """Copy stored indices of int32 to an array of int64, a few at a time.

    How many values blocks have in all is known only after the last one.

    Parameters
    ----------
    indices
        A dataset of HDF5 or an array of zarr.
    create
        Makes the new one, of the type it is given.
    step
        Values at a time.
    """
    wide = create(np.dtype(np.int64))
    for start in range(0, indices.shape[0], step):
        wide[start : start + step] = indices[start : start + step].astype(np.int64)


class Hdf5Chunks:
    """The chunks of one HDF5 dataset, compressed by any thread and written by one.

    Parameters
    ----------
    dataset
        Chunked; a one-dimensional one grows with what is written.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset
        self._level: int | None = (
            dataset.compression_opts if dataset.compression == "gzip" else None
        )
        self._strategy = zlib.Z_DEFAULT_STRATEGY
        self._is_chosen = False

    def choose(self, values: np.ndarray) -> None:
        """Choose the gzip strategy that makes these values, the first chunk's, smaller.

        Indices and bits repeat, and gzip's search for repeats shortens them. Probabilities do not:
        without the search gzip is three times as fast, and its codes are shorter too.
        """
        if self._level is None or self._is_chosen:
            return
        plain, level = self._bytes(values), self._level
        strategies = zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY
        self._strategy = min(
            strategies, key=lambda strategy: len(self._deflated(plain, level, strategy))
        )
        self._is_chosen = True

    def made(self, values: np.ndarray) -> Any:
        """Return the bytes of a chunk of these values (fewer at the edge of the dataset); call
        `choose` first.
        """
        plain = self._bytes(values)
        return plain if self._level is None else self._deflated(plain, self._level, self._strategy)

    def write(self, offset: tuple[int, ...], shape: tuple[int, ...], data: Any) -> None:
        """Write the bytes that `made` returned for values of this shape as the chunk at
        `offset`.
        """
        if len(offset) == 1:
            self._dataset.resize((max(self._dataset.shape[0], offset[0] + shape[0]),))
        self._dataset.id.write_direct_chunk(offset, data)

    def _bytes(self, values: np.ndarray) -> np.ndarray:
        chunk = self._dataset.chunks
        if values.shape != chunk:
            padded = np.zeros(chunk, values.dtype)
            padded[tuple(map(slice, values.shape))] = values
            values = padded
        plain = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        if self._dataset.shuffle and values.dtype.itemsize > 1:
            plain = np.ascontiguousarray(plain.reshape(-1, values.dtype.itemsize).T).reshape(-1)
        return plain

    @staticmethod
    def _deflated(plain: np.ndarray, level: int, strategy: int) -> bytes:
        packer = zlib.compressobj(level, zlib.DEFLATED, zlib.MAX_WBITS, 9, strategy)
        return packer.compress(plain.data) + packer.flush()


def write_chunks(
    items: Iterable[tuple[Hdf5Chunks, tuple[int, ...], np.ndarray]], n_threads: int
) -> None:
    """Write chunks (dataset, offset, values) that `n_threads` threads compress."""

    def chosen() -> Iterator[tuple[Hdf5Chunks, tuple[int, ...], np.ndarray]]:
        for item in items:
            item[0].choose(item[2])
            yield item
            del item

    def make(item: tuple[Hdf5Chunks, tuple[int, ...], np.ndarray]) -> tuple[Any, ...]:
        chunks, offset, values = item
        return chunks, offset, values.shape, chunks.made(values)

    for chunks, offset, shape, data in in_order(make, chosen(), n_threads):
        chunks.write(offset, shape, data)
