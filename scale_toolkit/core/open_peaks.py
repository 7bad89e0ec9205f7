"""Open peaks of all cells in 4 bytes each, and products of their weights with narrow matrices.

Weights follow from the peak, or from the peak and the number of open peaks of the cell, so they
are computed as they are needed: a pass over all cells reads the column indices and nothing else.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit.core.compiled import compiled
from scale_toolkit.core.rows import RowSource, binarise, blocks

Array = np.ndarray[Any, Any]

if TYPE_CHECKING:
    from collections.abc import Callable

#: Up to this many logarithms are computed once and kept, in 4 bytes each; more are computed in
#: every pass.
KEPT_WEIGHTS = 40_000_000


@compiled("f4(i4, i8, f4, f4[::1], f4[::1], b1)")
def _weight(peak: int, entry: int, share: Any, column: Array, data: Array, log: Any) -> Any:
    """Return the weight of one open peak: that of the peak, or its logarithm as `WeightedRows`
    says.
    """
    if log:
        return data[entry] if len(data) else np.log1p(column[peak] * share)
    return column[peak]


@compiled("void(i4[::1], i8[::1], i8, i8, f4[::1], f4[::1], b1, f4[:, ::1], f4[:, ::1])")
def _multiply(
    indices: Array,
    indptr: Array,
    start: int,
    stop: int,
    column: Array,
    data: Array,
    log: Any,
    dense: Array,
    product: Array,
) -> None:
    """Write weights · dense of the cells from `start` to `stop` into `product`."""
    for i in range(start, stop):
        row = product[i]
        row[:] = 0
        first, last = indptr[i], indptr[i + 1]
        share = np.float32(1e4 / max(last - first, 1))
        for entry in range(first, last):
            value = _weight(indices[entry], entry, share, column, data, log)
            loading = dense[indices[entry]]
            for c in range(row.shape[0]):
                row[c] += value * loading[c]


@compiled("void(i4[::1], i8[::1], i8, i8, f4[::1], f4[::1], b1, f4[:, ::1], f4[:, ::1])")
def _multiply_transposed(
    indices: Array,
    indptr: Array,
    start: int,
    stop: int,
    column: Array,
    data: Array,
    log: Any,
    dense: Array,
    total: Array,
) -> None:
    """Add weightsᵀ · dense of the cells from `start` to `stop` to `total`."""
    for i in range(start, stop):
        row = dense[i]
        first, last = indptr[i], indptr[i + 1]
        share = np.float32(1e4 / max(last - first, 1))
        for entry in range(first, last):
            value = _weight(indices[entry], entry, share, column, data, log)
            loading = total[indices[entry]]
            for c in range(row.shape[0]):
                loading[c] += value * row[c]


@compiled("void(i4[::1], i8[::1], i8, i8, f4[::1], f4[::1], b1, f8[::1])")
def _square_norms(
    indices: Array,
    indptr: Array,
    start: int,
    stop: int,
    column: Array,
    data: Array,
    log: Any,
    norms: Array,
) -> None:
    """Write the sum of squared weights of the cells from `start` to `stop` into `norms`."""
    for i in range(start, stop):
        first, last = indptr[i], indptr[i + 1]
        share = np.float32(1e4 / max(last - first, 1))
        norm = 0.0
        for entry in range(first, last):
            value = _weight(indices[entry], entry, share, column, data, log)
            norm += value * value
        norms[i] = norm


class OpenPeaks:
    """Which peaks are open in which cell: column indices and row pointers, 4 bytes an open peak.

    Parameters
    ----------
    indices, indptr
        As in a CSR matrix, int32 and int64.
    n_peaks
        Columns.
    n_threads
        Threads of all products; the same number gives the same results bit for bit.
    """

    def __init__(
        self, indices: np.ndarray, indptr: np.ndarray, n_peaks: int, n_threads: int
    ) -> None:
        self.indices, self.indptr, self.n_threads = indices, indptr, max(n_threads, 1)
        self.n_cells, self.n_peaks = len(indptr) - 1, n_peaks

    @classmethod
    def of_source(cls, source: RowSource, n_threads: int) -> OpenPeaks:
        """Gather the open peaks of all cells, block by block."""
        lengths = np.zeros(source.n_cells, np.int64)
        for cells, rows in blocks(source):
            lengths[cells] = np.diff(binarise(rows).indptr)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        indices = np.empty(indptr[-1], np.int32)
        for cells, rows in blocks(source):
            indices[indptr[cells[0]] : indptr[cells[-1] + 1]] = binarise(rows).indices
        return cls(indices, indptr, source.n_peaks, n_threads)

    def chosen(self, cells: np.ndarray) -> OpenPeaks:
        """Only these cells, in this order."""
        lengths = np.diff(self.indptr)[cells]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        entries = np.repeat(self.indptr[cells] - indptr[:-1], lengths) + np.arange(indptr[-1])
        return OpenPeaks(self.indices[entries], indptr, self.n_peaks, self.n_threads)

    def shuffled(self, rng: np.random.Generator) -> OpenPeaks:
        """Deal the open peaks out again at random: sums of cells and peaks stay, kinship goes.

        A peak dealt twice to a cell is kept once, so sums shrink by a few per cent in very dense
        cells (configuration model of a bipartite graph; Newman, Strogatz & Watts 2001).
        """
        shape = (self.n_cells, self.n_peaks)
        values = np.ones(len(self.indices), np.float32)
        dealt = (values, rng.permutation(self.indices), self.indptr.copy())
        matrix = sparse.csr_matrix(dealt, shape)
        matrix.sum_duplicates()
        indptr = matrix.indptr.astype(np.int64, copy=False)
        return OpenPeaks(matrix.indices.astype(np.int32), indptr, self.n_peaks, self.n_threads)

    def peak_sums(self) -> np.ndarray:
        """Number of cells in which each peak is open, (peaks,)."""
        return np.bincount(self.indices, minlength=self.n_peaks)

    def ranges(self) -> list[tuple[int, int]]:
        """Ranges of cells with about equal numbers of open peaks, one for each thread."""
        # equal numbers of open peaks, not of cells: the work follows the peaks
        share = np.linspace(0, self.indptr[-1], self.n_threads + 1)
        ends = np.searchsorted(self.indptr, share)
        ends[0], ends[-1] = 0, self.n_cells
        return list(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True))


class WeightedRows:
    """Open peaks times weights (cells × peaks), for products with narrow dense matrices.

    Parameters
    ----------
    opened
        The open peaks.
    column
        Weight of each peak, (peaks,).
    log
        The weight is log1p(10⁴ / open peaks of the cell · weight of the peak) instead.
    """

    def __init__(self, opened: OpenPeaks, column: np.ndarray, *, log: Any = False) -> None:
        self.opened, self.log = opened, log
        self.column = column.astype(np.float32)
        self.shape = (opened.n_cells, opened.n_peaks)
        self.data = np.empty(0, np.float32)
        if log and len(opened.indices) <= KEPT_WEIGHTS:
            lengths = np.diff(opened.indptr)
            self.data = self.column[opened.indices]
            self.data *= np.repeat((1e4 / np.maximum(lengths, 1)).astype(np.float32), lengths)
            np.log1p(self.data, out=self.data)

    def _in_threads(self, kernel: Callable[..., None], *arrays: list[np.ndarray]) -> None:
        """Call the kernel for each range of cells with its own item of each list."""
        opened = self.opened

        def work(cells: tuple[int, int], *own_arrays: np.ndarray) -> None:
            fixed = (opened.indices, opened.indptr, *cells, self.column, self.data, self.log)
            kernel(*fixed, *own_arrays)

        if opened.n_threads == 1:
            work((0, opened.n_cells), *(array[0] for array in arrays))
            return
        with ThreadPoolExecutor(opened.n_threads) as pool:
            list(pool.map(work, opened.ranges(), *arrays))

    def times(self, dense: np.ndarray) -> np.ndarray:
        """Rows · dense, (cells, c) float32."""
        dense = np.ascontiguousarray(dense, np.float32)
        product = np.empty((self.opened.n_cells, dense.shape[1]), np.float32)
        n = self.opened.n_threads
        self._in_threads(_multiply, [dense] * n, [product] * n)
        return product

    def transposed_times(self, dense: np.ndarray) -> np.ndarray:
        """Rowsᵀ · dense, (peaks, c) float32."""
        dense = np.ascontiguousarray(dense, np.float32)
        shape, n = (self.opened.n_peaks, dense.shape[1]), self.opened.n_threads
        # one sum for each thread, added up in their order: the bytes depend on the number of
        # threads alone
        totals = [np.zeros(shape, np.float32) for _ in range(n)]
        self._in_threads(_multiply_transposed, [dense] * n, totals)
        return sum(totals[1:], totals[0])

    def square_norms(self) -> np.ndarray:
        """Sum of squared weights of each row, (cells,) float64."""
        norms = np.empty(self.opened.n_cells)
        self._in_threads(_square_norms, [norms] * self.opened.n_threads)
        return norms
