"""Rows of a cells × peaks matrix as CSR: sources of rows, blocks, and selection of entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import sparse

from scale_toolkit import scratch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# cells at a time in a pass over all: a block is copied several times, so it sets peak memory
BLOCK = 512
#: Stored values at a time in a pass over all of them.
ENTRIES_AT_A_TIME = 1 << 22


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
    """A row source over a matrix (cells × peaks).

    Parameters
    ----------
    matrix
        In memory, or mapped into it.
    as_ones
        Give 1 for every stored value and never read the values: half of a mapped matrix stays on
        disk.
    """

    def __init__(self, matrix: sparse.spmatrix | np.ndarray, *, as_ones: bool = False) -> None:
        self.matrix = with_one_index_type(sparse.csr_matrix(matrix))
        self._as_ones = as_ones
        self.n_cells, self.n_peaks = self.matrix.shape

    def rows(self, index: np.ndarray) -> sparse.csr_matrix:
        """Counts of these cells, CSR."""
        # scipy's own row indexing looks through all indices of the matrix in each call: 50 ms of
        # every step at 3·10⁷ open peaks
        matrix = self.matrix
        pointers = np.zeros(len(index) + 1, matrix.indptr.dtype)
        parts = [slice(*matrix.indptr[cell : cell + 2]) for cell in index]
        np.cumsum([entries.stop - entries.start for entries in parts], out=pointers[1:])

        def joined(values: np.ndarray) -> np.ndarray:
            return np.concatenate([values[entries] for entries in parts]) if parts else values[:0]

        indices = joined(matrix.indices)
        data = np.ones(len(indices), np.float32) if self._as_ones else joined(matrix.data)
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


def compressed(
    data: np.ndarray,
    indices: np.ndarray,
    pointers: np.ndarray,
    shape: tuple[int, int],
    kind: type[Any] = sparse.csr_matrix,
) -> Any:
    """Return the CSR (or CSC) matrix of these arrays, which are not copied.

    SciPy's constructor looks twice through all indices if they are int64, to see whether int32 is
    enough: each time a pass over a file that does not fit into memory. More values than int32 can
    number need int64 anyway.
    """
    if len(indices) <= MOST_INT32:
        return kind((data, indices, pointers), shape, copy=False)
    matrix = kind(shape, dtype=data.dtype)
    matrix.data, matrix.indices, matrix.indptr = data, indices, pointers
    matrix.check_format(full_check=False)
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


def entry_chunks(n: int) -> Iterator[slice]:
    """Yield slices that cover `n` stored values, `ENTRIES_AT_A_TIME` each: a pass over them needs
    no array as large as they are.
    """
    return (slice(first, first + ENTRIES_AT_A_TIME) for first in range(0, n, ENTRIES_AT_A_TIME))


def row_chunks(pointers: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows with about `ENTRIES_AT_A_TIME` stored values, or one row."""
    first, n_rows = 0, len(pointers) - 1
    while first < n_rows:
        end = int(pointers[first]) + ENTRIES_AT_A_TIME
        stop = max(int(np.searchsorted(pointers, end, "right")) - 1, first + 1)
        yield first, stop
        first = stop


def index_chunks(matrix: sparse.csr_matrix) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield ranges of rows with their pointers (int64, from 0) and columns (int32).

    Indices of int64 (of a matrix with more values than int32 counts) become int32 a few rows at a
    time, so that no copy of all of them is in memory.
    """
    for first, stop in row_chunks(matrix.indptr):
        pointers = matrix.indptr[first : stop + 1].astype(np.int64)
        indices = matrix.indices[pointers[0] : pointers[-1]].astype(np.int32, copy=False)
        yield slice(first, stop), pointers - pointers[0], indices


def all_positive(matrix: sparse.csr_matrix) -> bool:
    """Whether every stored value is above 0: those of open peaks alone are stored."""
    return all(bool((matrix.data[chunk] > 0).all()) for chunk in entry_chunks(matrix.nnz))


def column_counts(matrix: sparse.csr_matrix) -> np.ndarray:
    """Number of stored values in each column, (columns,) int64."""
    counts = np.zeros(matrix.shape[1], np.int64)
    for chunk in entry_chunks(matrix.nnz):
        counts += np.bincount(matrix.indices[chunk], minlength=matrix.shape[1])
    return counts


def row_sums(matrix: sparse.csr_matrix) -> np.ndarray:
    """Sum of the stored values in each row, (rows,) float64."""
    sums = np.zeros(matrix.shape[0])
    for first, stop in row_chunks(matrix.indptr):
        sums[first:stop] = np.asarray(matrix[first:stop].sum(axis=1, dtype=np.float64)).ravel()
    return sums


def selected(
    matrix: sparse.csr_matrix,
    rows: np.ndarray | None,
    columns: np.ndarray | None,
    *,
    in_place: bool = False,
) -> sparse.csr_matrix:
    """Return some rows and columns of a CSR matrix in their order, a few rows at a time.

    Parameters
    ----------
    matrix
        CSR.
    rows, columns
        Which are kept, one flag each; None: all.
    in_place
        Write over the matrix, which is then lost: nothing is in memory twice.
    """
    keep_rows = np.ones(matrix.shape[0], bool) if rows is None else rows
    all_columns = columns is None or bool(columns.all())
    if keep_rows.all() and all_columns:
        return matrix if in_place else matrix.copy()
    numbers = np.full(matrix.shape[1], -1, matrix.indices.dtype)
    flags = np.ones(matrix.shape[1], bool) if columns is None else columns
    numbers[flags] = np.arange(flags.sum(), dtype=numbers.dtype)

    def kept_entries(first: int, stop: int) -> np.ndarray:
        pointers = matrix.indptr[first : stop + 1]
        keep = flags[matrix.indices[pointers[0] : pointers[-1]]]
        return keep & np.repeat(keep_rows[first:stop], np.diff(pointers))

    if in_place:
        data, indices = matrix.data, matrix.indices
    else:
        n_kept = sum(
            int(np.count_nonzero(kept_entries(*chunk))) for chunk in row_chunks(matrix.indptr)
        )
        data, indices = (
            scratch.empty(n_kept, array.dtype) for array in (matrix.data, matrix.indices)
        )
    lengths, position = np.zeros(matrix.shape[0], matrix.indptr.dtype), 0
    for first, stop in row_chunks(matrix.indptr):
        entries = slice(matrix.indptr[first], matrix.indptr[stop])
        keep = kept_entries(first, stop)
        destination = slice(position, position + int(np.count_nonzero(keep)))
        # what is written in place lies before what is still to be read
        data[destination] = matrix.data[entries][keep]
        indices[destination] = numbers[matrix.indices[entries][keep]]
        row_starts = matrix.indptr[first:stop] - matrix.indptr[first]
        n_kept_before = np.concatenate([[0], np.cumsum(keep)])
        row_ends = matrix.indptr[first + 1 : stop + 1] - matrix.indptr[first]
        lengths[first:stop] = n_kept_before[row_ends] - n_kept_before[row_starts]
        position = destination.stop
    pointers = np.concatenate([[0], np.cumsum(lengths[keep_rows])]).astype(matrix.indptr.dtype)
    shape = (int(keep_rows.sum()), int(flags.sum()))
    result = sparse.csr_matrix(shape, dtype=data.dtype)
    result.data, result.indices, result.indptr = data[:position], indices[:position], pointers
    if scratch.fits_in_memory(2 * position * data.itemsize):
        # copies what is kept where most was dropped, and so frees the rest
        result.prune()
    return result


def binarise(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return 1 (float32) for each peak with at least one read, the open ones."""
    if all_positive(counts):
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
