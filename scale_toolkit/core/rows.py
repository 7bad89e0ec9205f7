"""Rows of a cells × peaks matrix as CSR: sources of rows, blocks, and selection of entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# cells at a time in a pass over all: a block is copied several times, so it sets peak memory
BLOCK = 512


class RowSource(Protocol):
    """Source of cells: a matrix in memory, or a file that is read in blocks. Callers may not
    assume that all cells are in memory.
    """

    n_cells: int
    n_peaks: int

    def rows(self, index: np.ndarray) -> sparse.csr_matrix:
        """Counts of these cells, (len(index), n_peaks) CSR, in this order."""
        ...


class MatrixRows:
    """A row source over a matrix in memory (cells × peaks)."""

    def __init__(self, matrix: sparse.spmatrix | np.ndarray) -> None:
        self.matrix = with_one_index_type(sparse.csr_matrix(matrix))
        self.n_cells, self.n_peaks = self.matrix.shape

    def rows(self, index: np.ndarray) -> sparse.csr_matrix:
        """Counts of these cells, CSR."""
        # scipy's own row indexing looks through all indices of the matrix in each call: 50 ms of
        # every step at 3·10⁷ open peaks
        matrix = self.matrix
        pointers = np.zeros(len(index) + 1, matrix.indptr.dtype)
        parts = [slice(*matrix.indptr[cell : cell + 2]) for cell in index]
        np.cumsum([entries.stop - entries.start for entries in parts], out=pointers[1:])
        data, indices = (
            np.concatenate([array[entries] for entries in parts]) if parts else array[:0]
            for array in (matrix.data, matrix.indices)
        )
        return sparse.csr_matrix((data, indices, pointers), (len(index), self.n_peaks))


#: Most stored values that row pointers of int32 can count.
MOST_INT32 = int(np.iinfo(np.int32).max)


def with_one_index_type(matrix: sparse.csr_matrix | sparse.csc_matrix) -> Any:
    """Give both index arrays of a CSR or CSC matrix one type, in place, and return the matrix.

    anndata reads what a file holds, for instance int32 indices with int64 pointers; SciPy then
    fails in ``matrix[::2]`` and ``eliminate_zeros``. Pointers become int32 if they fit, because
    they are few; else the indices become int64.
    """
    if matrix.indices.dtype != matrix.indptr.dtype:
        fits = max(matrix.indptr[-1], *matrix.shape) <= MOST_INT32
        dtype = np.int32 if fits else np.int64
        matrix.indptr = matrix.indptr.astype(dtype, copy=False)
        matrix.indices = matrix.indices.astype(dtype, copy=False)
    return matrix


def blocks(
    source: RowSource, size: int = BLOCK, cells: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
    """Yield ``(index, rows)`` over all cells in order, or over `cells`, `size` of them at a
    time.
    """
    cells = np.arange(source.n_cells) if cells is None else cells
    for start in range(0, len(cells), size):
        index = cells[start : start + size]
        yield index, source.rows(index)


def stack(
    parts: Iterable[sparse.csr_matrix], shape: tuple[int, int], nnz: int
) -> sparse.csr_matrix:
    """Stack blocks of rows into one CSR matrix of at most `nnz` entries.

    The matrix is filled block by block, so that its entries are never in memory twice.
    """
    data, indices = np.empty(nnz, np.float32), np.empty(nnz, np.int32)
    pointers, row = np.zeros(shape[0] + 1, np.int64), 0
    for block in parts:
        start, stop = pointers[row], pointers[row] + block.nnz
        data[start:stop], indices[start:stop] = block.data, block.indices
        pointers[row + 1 : row + 1 + block.shape[0]] = start + block.indptr[1:]
        row += block.shape[0]
    nnz = pointers[row]
    return sparse.csr_matrix((data[:nnz], indices[:nnz], pointers), shape)


def binarise(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return 1 (float32) for each peak with at least one read, the open ones."""
    if (counts.data > 0).all():
        return sparse.csr_matrix(
            (np.ones(counts.nnz, np.float32), counts.indices, counts.indptr), counts.shape
        )
    opened = counts.copy()
    opened.data = (opened.data > 0).astype(np.float32)
    opened.eliminate_zeros()
    return opened


def keep_entries(rows: sparse.csr_matrix, keep: np.ndarray) -> sparse.csr_matrix:
    """Return the entries of `rows` for which `keep` (one flag a stored value) is true."""
    positions = np.flatnonzero(keep)
    pointers = np.searchsorted(positions, rows.indptr).astype(rows.indptr.dtype)
    return sparse.csr_matrix((rows.data[positions], rows.indices[positions], pointers), rows.shape)
