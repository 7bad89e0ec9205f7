"""Open peaks of all cells in 4 bytes each, and products of their weights with narrow matrices.

Weights follow from the peak, or from the peak and the number of open peaks of the cell, so they
are computed as they are needed: a pass over all cells reads the column indices and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit import scratch
from scale_toolkit.core import sparse_products
from scale_toolkit.core.batch_effects import BatchEffects
from scale_toolkit.core.compiled import compiled
from scale_toolkit.core.rows import RowSource, binarise, blocks, row_chunks

Array = np.ndarray[Any, Any]

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Up to this many logarithms are computed once and kept, in 4 bytes each; more are computed in
#: every pass.
KEPT_WEIGHTS = 40_000_000
#: Logarithms computed at a time in a pass that does not keep them.
ENTRIES_AT_A_TIME = 16_000_000
_NO_WEIGHTS = np.empty(0, np.float32)


@compiled("void(i4[::1], i8[::1], i8, i8, f4[::1], i8, f4[::1])")
def _inside_logs(
    peaks: Array, pointers: Array, first: int, stop: int, column: Array, origin: int, out: Array
) -> None:
    """Write 1 + 10⁴ / open peaks of the cell · weight of the peak of the cells from `first` to
    `stop` into `out`, which begins with entry `origin`.
    """
    for i in range(first, stop):
        share = np.float32(1e4 / max(pointers[i + 1] - pointers[i], 1))
        for entry in range(pointers[i], pointers[i + 1]):
            out[entry - origin] = np.float32(1) + column[peaks[entry]] * share


class OpenPeaks:
    """Which peaks are open in which cell: column indices and row pointers, 4 bytes an open peak.

    Parameters
    ----------
    indices, indptr
        As in a CSR matrix with ascending indices in each row, int32 and int64.
    n_peaks
        Columns.
    n_threads
        Threads of all products; any number gives the same results bit for bit.
    """

    def __init__(
        self, indices: np.ndarray, indptr: np.ndarray, n_peaks: int, n_threads: int
    ) -> None:
        self.indices, self.indptr, self.n_threads = indices, indptr, max(n_threads, 1)
        self.n_cells, self.n_peaks = len(indptr) - 1, n_peaks
        self._bounds: np.ndarray | None = None

    @classmethod
    def of_source(cls, source: RowSource, n_threads: int) -> OpenPeaks:
        """Gather the open peaks of all cells, block by block."""
        lengths = np.zeros(source.n_cells, np.int64)
        for cells, rows in blocks(source):
            lengths[cells] = np.diff(binarise(rows).indptr)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        indices = scratch.empty(int(indptr[-1]), np.int32)
        for cells, rows in blocks(source):
            opened = binarise(rows)
            if not opened.has_sorted_indices:  # blocks of peaks are found by bisection
                opened = opened.sorted_indices()
            indices[indptr[cells[0]] : indptr[cells[-1] + 1]] = opened.indices
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

    def bounds(self) -> np.ndarray:
        """Where each block of peaks begins in each cell (`sparse_products.block_bounds`)."""
        if self._bounds is None:
            self._bounds = sparse_products.block_bounds(
                self.indices, self.indptr, self.n_peaks, self.n_threads
            )
        return self._bounds

    def row_chunks(self) -> Iterator[tuple[int, int]]:
        """Ranges of cells with about `ENTRIES_AT_A_TIME` open peaks, or one cell."""
        return row_chunks(self.indptr, ENTRIES_AT_A_TIME)


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
    effects
        Divide the weights by the factors of these cells' batches.
    """

    def __init__(
        self,
        opened: OpenPeaks,
        column: np.ndarray,
        *,
        log: bool = False,
        effects: BatchEffects | None = None,
    ) -> None:
        self.opened, self.log, self.effects = opened, log, effects
        self.column = column.astype(np.float32)
        self.shape = (opened.n_cells, opened.n_peaks)
        self._kept: np.ndarray | None = None
        if self._by_entry and len(opened.indices) <= KEPT_WEIGHTS:
            self._kept = self._weights(0, opened.n_cells)

    @property
    def _by_entry(self) -> bool:
        """Whether weights differ between the cells in which a peak is open."""
        return self.log or self.effects is not None

    def times(self, dense: np.ndarray) -> np.ndarray:
        """Rows · dense, (cells, c) float32."""
        opened = self.opened
        if not self.log:
            dense = self.column[:, None] * dense
        dense = np.ascontiguousarray(dense, np.float32)
        products = [
            sparse_products.times(peaks, weights, bounds, dense, opened.n_threads)
            for _, peaks, weights, bounds in self._chunks()
        ]
        return np.concatenate(products) if products else np.empty((0, dense.shape[1]), np.float32)

    def transposed_times(self, dense: np.ndarray) -> np.ndarray:
        """Rowsᵀ · dense, (peaks, c) float32."""
        opened = self.opened
        dense = np.ascontiguousarray(dense, np.float32)
        total = np.zeros((opened.n_peaks, dense.shape[1]), np.float32)
        for cells, peaks, weights, bounds in self._chunks():
            sparse_products.add_transposed_times(
                peaks, weights, bounds, dense[cells], opened.n_threads, total
            )
        if not self.log:
            total *= self.column[:, None]
        return total

    def square_norms(self) -> np.ndarray:
        """Sum of squared weights of each row, (cells,) float64."""
        opened = self.opened
        norms = np.empty(opened.n_cells)
        for first, stop in opened.row_chunks():
            start, end = opened.indptr[first], opened.indptr[stop]
            if self._by_entry:
                weights = self._weights(first, stop)
                if not self.log:
                    weights *= self.column[opened.indices[start:end]]
            else:
                weights = self.column[opened.indices[start:end]]
            squares = np.square(weights, dtype=np.float64)
            sums = np.concatenate([[0.0], np.cumsum(squares)])
            norms[first:stop] = np.diff(sums[opened.indptr[first : stop + 1] - start])
        return norms

    def _chunks(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
        """Yield cells, their entries (peaks and weights; none: ones) and block bounds."""
        opened, bounds = self.opened, self.opened.bounds()
        if not self._by_entry or self._kept is not None:
            weights = _NO_WEIGHTS if self._kept is None else self._kept
            yield slice(0, opened.n_cells), opened.indices, weights, bounds
            return
        for first, stop in opened.row_chunks():
            start, end = opened.indptr[first], opened.indptr[stop]
            weights = self._weights(first, stop)
            yield slice(first, stop), opened.indices[start:end], weights, bounds[first:stop] - start

    def _weights(self, first: int, stop: int) -> np.ndarray:
        """Weights of the entries of some cells, without that of the peak unless it is in the
        logarithm: float32.
        """
        opened = self.opened
        if self.log:
            weights = self._logs(first, stop)
        else:
            weights = np.ones(opened.indptr[stop] - opened.indptr[first], np.float32)
        if self.effects is not None:
            self.effects.divide(opened.indices, opened.indptr, weights, (first, stop))
        return weights

    def _logs(self, first: int, stop: int) -> np.ndarray:
        """Logarithms of the entries of some cells, float32."""
        opened = self.opened
        origin = int(opened.indptr[first])
        out = np.empty(opened.indptr[stop] - origin, np.float32)

        def write(start: int, end: int) -> None:
            rows = first + start, first + end
            _inside_logs(opened.indices, opened.indptr, *rows, self.column, origin, out)
            # NumPy's logarithm of many values takes a fraction of a compiled loop over single ones
            written = out[opened.indptr[rows[0]] - origin : opened.indptr[rows[1]] - origin]
            np.log(written, out=written)

        sparse_products.share_rows(stop - first, opened.n_threads, write)
        return out
