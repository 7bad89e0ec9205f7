"""Counts that come in any order, gathered into the rows of a CSR matrix in bounded memory.

Entries are buffered, and sorted into rows whenever the buffer takes a share of the memory that the
job may use. Each such run is stored as the arrays of a CSR matrix, in temporary files if memory is
short; in the end the runs are joined a few rows at a time. A cell and peak that come several times
are summed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit import scratch
from scale_toolkit.core import rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Bytes that a buffered entry takes while it is sorted: two indices and a value, twice, and its
#: row's copy of index and value.
BYTES_OF_AN_ENTRY = 32

Run = tuple[np.ndarray, np.ndarray, np.ndarray]


class RowGatherer:
    """Entries of a matrix (rows × columns) in any order; `matrix` returns them as CSR.

    Parameters
    ----------
    dtype
        Of the values.
    """

    def __init__(self, dtype: Any = np.float32) -> None:
        self._dtype = np.dtype(dtype)
        self._buffer: list[Run] = []
        self._n_buffered = 0
        self._data, self._indices = scratch.Growing(dtype), scratch.Growing(np.int32)
        self._pointers = scratch.Growing(np.int64)
        # entries and pointers of each run
        self._runs: list[tuple[int, int]] = []
        # also if runs must stay in memory: they are smaller where entries repeat
        self._most_buffered = scratch.share_of_memory() // BYTES_OF_AN_ENTRY

    def add(
        self, row_numbers: np.ndarray, columns: np.ndarray, values: np.ndarray | None = None
    ) -> None:
        """Add entries; without values, each is 1. The arrays are copied."""
        if values is None:
            values = np.ones(len(columns), self._dtype)
        entries = np.array(row_numbers, np.int32), np.array(columns, np.int32)
        self._buffer.append((*entries, np.array(values, self._dtype)))
        self._n_buffered += len(columns)
        if self._n_buffered > self._most_buffered:
            self._store_run()

    def matrix(self, shape: tuple[int, int]) -> sparse.csr_matrix:
        """Return all entries as a canonical CSR matrix; nothing may be added afterwards."""
        if not self._runs:
            return self._sorted_buffer(shape)
        if self._buffer:
            self._store_run()
        return _joined(self._stored_runs(), shape, self._dtype)

    def _store_run(self) -> None:
        shape = tuple(
            1 + max((int(run[axis].max()) for run in self._buffer if len(run[axis])), default=0)
            for axis in (0, 1)
        )
        run = self._sorted_buffer((shape[0], shape[1]))
        self._runs.append((run.nnz, len(run.indptr)))
        self._data.append(run.data)
        self._indices.append(run.indices)
        self._pointers.append(run.indptr)

    def _stored_runs(self) -> list[Run]:
        """Return data, indices and pointers of each run, which lie one behind the other."""
        data, indices = self._data.array(), self._indices.array()
        pointers = self._pointers.array()
        entry_ends, pointer_ends = np.cumsum(self._runs, axis=0).T
        return [
            (data[end - n : end], indices[end - n : end], pointers[last - length : last])
            for (n, length), end, last in zip(self._runs, entry_ends, pointer_ends, strict=True)
        ]

    def _sorted_buffer(self, shape: tuple[int, int]) -> sparse.csr_matrix:
        """Return the buffered entries as CSR, and empty the buffer."""
        empty = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, self._dtype))
        arrays = zip(*(self._buffer or [empty]), strict=True)
        self._buffer, self._n_buffered = [], 0
        row_numbers, columns, values = (np.concatenate(array) for array in arrays)
        return sparse.coo_matrix((values, (row_numbers, columns)), shape).tocsr()


def rows_of_columns(matrix: sparse.csc_matrix, dtype: Any) -> sparse.csr_matrix:
    """Return a CSC matrix as CSR: by SciPy if a copy fits into memory, else in bounded memory.

    Parameters
    ----------
    matrix
        In memory, or mapped into it.
    dtype
        Of the values of the result.
    """
    if scratch.fits_in_memory(matrix.nnz * BYTES_OF_AN_ENTRY):
        return matrix.tocsr().astype(dtype, copy=False)
    gatherer = RowGatherer(dtype)
    for first, stop in rows.row_chunks(matrix.indptr):
        entries = slice(matrix.indptr[first], matrix.indptr[stop])
        columns = np.repeat(np.arange(first, stop), np.diff(matrix.indptr[first : stop + 1]))
        gatherer.add(matrix.indices[entries], columns, matrix.data[entries])
    return gatherer.matrix(matrix.shape)


def stacked(
    matrices: Sequence[sparse.csr_matrix], positions: Sequence[np.ndarray], n_columns: int
) -> sparse.csr_matrix:
    """Return the rows of several CSR matrices one below the other, a few rows at a time.

    Parameters
    ----------
    matrices
        In memory, or mapped into it; of one type of values.
    positions
        New number of each column of each matrix, none twice; -1: it is left out.
    n_columns
        Of the result.

    Returns
    -------
    csr_matrix
        With ascending columns in each row; in temporary files if memory is short.
    """

    def blocks() -> Iterator[tuple[sparse.csr_matrix, np.ndarray, np.ndarray]]:
        for matrix, numbers in zip(matrices, positions, strict=True):
            for first, stop in rows.row_chunks(matrix.indptr):
                block = matrix[first:stop]
                columns = numbers[block.indices]
                yield block, columns, columns >= 0

    n_rows = sum(matrix.shape[0] for matrix in matrices)
    if all((numbers >= 0).all() for numbers in positions):
        n_entries = sum(matrix.nnz for matrix in matrices)
    else:
        n_entries = sum(int(np.count_nonzero(keep)) for _, _, keep in blocks())
    filler = _Filler(n_entries, (n_rows, n_columns), matrices[0].dtype)
    for block, columns, keep in blocks():
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        kept_rows = sparse.csr_matrix(
            (block.data[keep], columns[keep], kept_before[block.indptr]),
            (block.shape[0], n_columns),
        )
        kept_rows.sort_indices()
        filler.add(kept_rows)
    return filler.matrix()


class _Filler:
    """A CSR matrix that is filled with blocks of its rows, in order, each with ascending columns.

    Parameters
    ----------
    n_entries
        At least as many as the blocks have.
    shape
        Rows and columns.
    dtype
        Of the values.
    """

    def __init__(self, n_entries: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self._shape, self._row, self._position = shape, 0, 0
        index_type = np.int32 if max(n_entries, *shape) <= rows.MOST_INT32 else np.int64
        self._data, self._indices = (scratch.empty(n_entries, t) for t in (dtype, index_type))
        self._pointers = np.zeros(shape[0] + 1, index_type)

    def add(self, block: sparse.csr_matrix) -> None:
        """Append the rows of a block."""
        entries = slice(self._position, self._position + block.nnz)
        self._data[entries], self._indices[entries] = block.data, block.indices
        ends = block.indptr[1:].astype(np.int64) + self._position
        self._pointers[self._row + 1 : self._row + 1 + block.shape[0]] = ends
        self._row, self._position = self._row + block.shape[0], entries.stop

    def matrix(self) -> sparse.csr_matrix:
        """Return the matrix, without the room that was not used."""
        result = sparse.csr_matrix(self._shape, dtype=self._data.dtype)
        result.data = self._data[: self._position]
        result.indices, result.indptr = self._indices[: self._position], self._pointers
        result.has_sorted_indices = True
        return result


def _joined(runs: list[Run], shape: tuple[int, int], dtype: np.dtype[Any]) -> sparse.csr_matrix:
    """Sum the CSR matrices of all runs, a few rows at a time."""
    ends = np.zeros(shape[0] + 1, np.int64)
    for _, _, pointers in runs:
        ends[: len(pointers)] += pointers
        ends[len(pointers) :] += pointers[-1]
    filler = _Filler(int(ends[-1]), shape, dtype)
    for first, stop in rows.row_chunks(ends):
        entries = _entries_of_rows(runs, first, stop)
        filler.add(sparse.coo_matrix(entries, (stop - first, shape[1])).tocsr())
    joined = filler.matrix()
    joined.has_canonical_format = True
    return joined


def _entries_of_rows(
    runs: list[Run], first: int, stop: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return values, rows (from 0) and columns of some rows of all runs."""

    def runs_of_rows() -> Iterator[Run]:
        for data, indices, pointers in runs:
            # a run ends at its last row with an entry
            ends = pointers[min(first, len(pointers) - 1) : stop + 1]
            entries = slice(ends[0], ends[-1])
            row_numbers = np.repeat(np.arange(len(ends) - 1, dtype=np.int32), np.diff(ends))
            yield data[entries], row_numbers, indices[entries]

    values, row_numbers, columns = (
        np.concatenate(arrays) for arrays in zip(*runs_of_rows(), strict=True)
    )
    return values, (row_numbers, columns)
