"""Open peaks of all cells in 2 bytes each, and products of their weights with narrow matrices.

Weights follow from the peak, or from the peak and the number of open peaks of the cell, so they
are computed as they are needed: a pass over all cells reads positions of peaks and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit import scratch
from scale_toolkit.core import tiles
from scale_toolkit.core.batch_effects import BatchEffects
from scale_toolkit.core.columns import copy_back, paired_groups
from scale_toolkit.core.kernels import POOL
from scale_toolkit.core.rows import RowSource, binarise, blocks

Array = np.ndarray[Any, Any]

if TYPE_CHECKING:
    from collections.abc import Callable

#: Up to this many logarithms are computed once and kept, in 4 bytes each; more are computed in
#: every pass.
KEPT_WEIGHTS = 40_000_000
#: Open peaks of a tile: their weights fit into a core's cache.
TILE_ENTRIES = 60_000
#: Cells of a tile, fewest and most: with fewer, calls of the inner loops cost more than their work;
#: more take memory while tiles are cut.
FEWEST_CELLS, MOST_CELLS = 64, 16_384
#: Chunks of cells at least, for as many threads, if that leaves `FEWEST_CELLS` to each.
LEAST_CHUNKS = 16
#: Cells at most whose products are summed block by block: the matrix of a block's peaks stays in a
#: core's cache from one chunk to the next, and 25 sums of these cells take 1.6 MB.
CELLS_OF_A_TASK = 16_384
_NO_WEIGHTS = np.empty(0, np.float32)


class OpenPeaks:
    """Which peaks are open in which cell, in tiles of some cells and some peaks (`core.tiles`).

    Parameters
    ----------
    n_open
        Open peaks of each cell, (cells,) int64.
    n_peaks
        Number of peaks.
    n_threads
        Threads of all products; any number gives the same results bit for bit.
    rows
        The open peaks of the cells from a first one up to a last one: ascending peaks (int32) and
        the pointers of their rows (int64), as in a CSR matrix.
    """

    def __init__(
        self,
        n_open: np.ndarray,
        n_peaks: int,
        n_threads: int,
        rows: Callable[[int, int], tuple[np.ndarray, np.ndarray]],
    ) -> None:
        self.n_open, self.n_peaks, self.n_threads = n_open, n_peaks, max(n_threads, 1)
        self.n_cells = len(n_open)
        self.bits = tiles.block_bits(n_peaks)
        self.n_blocks = max(-(-n_peaks >> self.bits), 1)
        height = TILE_ENTRIES * self.n_blocks * self.n_cells // max(int(n_open.sum()), 1)
        height = min(height, -(-self.n_cells // LEAST_CHUNKS), MOST_CELLS)
        height = max(height, FEWEST_CELLS)
        # the first cell of each chunk, and the number of cells
        self.edges = np.append(np.arange(0, self.n_cells, height), self.n_cells)
        self.n_chunks = len(self.edges) - 1
        self._peaks = scratch.empty(int(n_open.sum()), np.uint16)
        # of each tile one behind the other, as (blocks, cells) of each chunk
        self._lengths = np.empty(self.n_blocks * self.n_cells, np.uint16)
        self._starts = np.zeros((self.n_chunks, self.n_blocks + 1), np.int64)
        end = 0
        for chunk in range(self.n_chunks):
            first, stop = self.edges[chunk : chunk + 2]
            lengths = self._lengths_of(chunk)
            tiles.cut(*rows(first, stop), self.bits, end, lengths, self._starts[chunk], self._peaks)
            end = int(self._starts[chunk, -1])

    @classmethod
    def of_source(cls, source: RowSource, n_threads: int) -> OpenPeaks:
        """Gather the open peaks of all cells, block by block."""
        n_open = np.zeros(source.n_cells, np.int64)
        for cells, counts in blocks(source):
            n_open[cells] = np.diff(binarise(counts).indptr)

        def rows(first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            opened = binarise(source.rows(np.arange(first, stop)))
            if not opened.has_sorted_indices:
                opened = opened.sorted_indices()
            indices = opened.indices.astype(np.int32, copy=False)
            return indices, opened.indptr.astype(np.int64, copy=False)

        return cls(n_open, source.n_peaks, n_threads, rows)

    @classmethod
    def of_rows(
        cls, indices: np.ndarray, pointers: np.ndarray, n_peaks: int, n_threads: int
    ) -> OpenPeaks:
        """Cut rows that are in memory: ascending peaks and pointers as in a CSR matrix."""

        def rows(first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
            start, end = pointers[first], pointers[stop]
            return indices[start:end], pointers[first : stop + 1] - start

        return cls(np.diff(pointers), n_peaks, n_threads, rows)

    def rows(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ascending open peaks of these cells (int32) in their order, and the pointers
        of the rows (int64).
        """
        pointers = np.concatenate([[0], np.cumsum(self.n_open[cells])]).astype(np.int64)
        positions = np.full(self.n_cells, -1, np.int64)
        positions[cells] = pointers[:-1]
        indices = np.empty(int(pointers[-1]), np.int32)
        for chunk in range(self.n_chunks):
            chunk_positions = positions[self.edges[chunk] : self.edges[chunk + 1]]
            if (chunk_positions < 0).all():
                continue
            for block in range(self.n_blocks):
                peaks, lengths = self.tile(chunk, block)
                tiles.uncut(peaks, lengths, block << self.bits, chunk_positions, indices)
        return indices, pointers

    def chosen(self, cells: np.ndarray) -> OpenPeaks:
        """Only these cells, in this order."""
        return self.of_rows(*self.rows(cells), self.n_peaks, self.n_threads)

    def tile(self, chunk: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the peaks of a tile by their position in the block, and how many each cell has."""
        start, end = self._starts[chunk, block : block + 2]
        return self._peaks[start:end], self._lengths_of(chunk)[block]

    def _lengths_of(self, chunk: int) -> np.ndarray:
        """Open peaks of each cell of a chunk in each block, (blocks, cells) uint16."""
        first, stop = self.n_blocks * self.edges[chunk : chunk + 2]
        return self._lengths[first:stop].reshape(self.n_blocks, -1)

    def all_tiles(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Peaks, lengths, starts and edges of all tiles, for the loops of `core.tiles`."""
        return self._peaks, self._lengths, self._starts, self.edges

    def rows_of_tiles(self) -> list[np.ndarray]:
        """Numbers (chunk, block) of the tiles of some chunks, block by block, (tiles, 2) int64: two
        tasks a thread, or more of `CELLS_OF_A_TASK`.
        """
        least = 1 if self.n_threads == 1 else 2 * self.n_threads
        n_tasks = min(max(least, -(-self.n_cells // CELLS_OF_A_TASK)), max(self.n_chunks, 1))
        tasks = np.array_split(np.arange(self.n_chunks), n_tasks)
        return [_pairs(chunks, np.arange(self.n_blocks)) for chunks in tasks]

    def columns_of_tiles(self) -> list[np.ndarray]:
        """Numbers (chunk, block) of the tiles of each block, (chunks, 2) int64."""
        chunks = np.arange(self.n_chunks)
        return [_pairs(chunks, np.array([block])) for block in range(self.n_blocks)]

    def entries(self, chunk: int, block: int) -> slice:
        """Where the entries of a tile are among all."""
        return slice(*self._starts[chunk, block : block + 2])

    def cells(self, chunk: int) -> slice:
        """The cells of a chunk."""
        return slice(*self.edges[chunk : chunk + 2])

    def peaks(self, block: int) -> slice:
        """The peaks of a block."""
        return slice(block << self.bits, min((block + 1) << self.bits, self.n_peaks))

    def peak_sums(self) -> np.ndarray:
        """Number of cells in which each peak is open, (peaks,)."""
        sums = np.zeros(self.n_blocks << self.bits, np.int64)
        for block in range(self.n_blocks):
            total = sums[block << self.bits : (block + 1) << self.bits]
            for chunk in range(self.n_chunks):
                total += np.bincount(self.tile(chunk, block)[0], minlength=len(total))
        return sums[: self.n_peaks]


def _pairs(chunks: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """Every (chunk, block), block by block, (pairs, 2) int64."""
    pairs = np.stack(np.meshgrid(chunks, blocks), 2).reshape(-1, 2)
    return np.ascontiguousarray(pairs, np.int64)


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
        self._shares = (1e4 / np.maximum(opened.n_open, 1)).astype(np.float32)
        self._kept: np.ndarray | None = None
        n_entries = int(opened.n_open.sum())
        if (log or effects is not None) and n_entries <= KEPT_WEIGHTS:
            weights = np.empty(n_entries, np.float32)

            def keep(chunk: int) -> None:
                for block in range(opened.n_blocks):
                    weights[opened.entries(chunk, block)] = self._weights(chunk, block)

            POOL.map(keep, range(opened.n_chunks), opened.n_threads)
            self._kept = weights

    def times(self, dense: np.ndarray) -> np.ndarray:
        """Rows · dense, (cells, c) float32."""
        opened = self.opened
        if not self.log:
            dense = self.column[:, None] * dense
        dense = np.ascontiguousarray(dense, np.float32)
        out = np.zeros((opened.n_cells, dense.shape[1]), np.float32)

        self._add(tiles.gather, dense, out, opened.rows_of_tiles())
        return out

    def transposed_times(self, dense: np.ndarray) -> np.ndarray:
        """Rowsᵀ · dense, (peaks, c) float32."""
        opened = self.opened
        dense = np.ascontiguousarray(dense, np.float32)
        total = np.zeros((opened.n_peaks, dense.shape[1]), np.float32)

        self._add(tiles.scatter, dense, total, opened.columns_of_tiles())
        if not self.log:
            total *= self.column[:, None]
        return total

    def _add(
        self,
        product: Callable[..., None],
        dense: np.ndarray,
        out: np.ndarray,
        tasks: list[np.ndarray],
    ) -> None:
        """Add a product of all tiles to `out`; each task, some tiles in their order, is one
        thread's.
        """
        opened, groups = self.opened, paired_groups(dense, out)
        peaks, lengths, starts, edges = opened.all_tiles()

        def add_tiles(weights: np.ndarray, origin: int, numbers: np.ndarray) -> None:
            for operand, sums in groups:
                product(
                    peaks,
                    weights,
                    origin,
                    lengths,
                    starts,
                    edges,
                    numbers,
                    opened.bits,
                    *operand.flat(),
                    operand.width,
                    *sums.flat(),
                )

        def add(i: int) -> None:
            if self._kept is not None:
                add_tiles(self._kept, 0, tasks[i])
            elif not self.log and self.effects is None:
                add_tiles(_NO_WEIGHTS, 0, tasks[i])
            else:
                for number in tasks[i]:
                    chunk, block = number
                    add_tiles(self._weights(chunk, block), starts[chunk, block], number[None])

        POOL.map(add, range(len(tasks)), opened.n_threads)
        copy_back(groups, out)

    def square_norms(self) -> np.ndarray:
        """Sum of squared weights of each row, (cells,) float64."""
        opened = self.opened
        norms = np.zeros(opened.n_cells)

        def add(chunk: int) -> None:
            for block in range(opened.n_blocks):
                peaks, lengths = opened.tile(chunk, block)
                column = _NO_WEIGHTS if self.log else self.column[opened.peaks(block)]
                rows = norms[opened.cells(chunk)]
                tiles.add_squares(peaks, self._weights(chunk, block), lengths, column, rows)

        POOL.map(add, range(opened.n_chunks), opened.n_threads)
        return norms

    def _weights(self, chunk: int, block: int) -> np.ndarray:
        """Weights of a tile's entries, float32, without that of the peak unless it is in the
        logarithm; none if all are 1.
        """
        if self._kept is not None:
            return self._kept[self.opened.entries(chunk, block)]
        if not self.log and self.effects is None:
            return _NO_WEIGHTS
        opened = self.opened
        peaks, lengths = opened.tile(chunk, block)
        weights = np.ones(len(peaks), np.float32)
        cells = opened.cells(chunk)
        if self.log:
            column = self.column[opened.peaks(block)]
            tiles.inside_logs(peaks, lengths, self._shares[cells], column, weights)
            # NumPy's logarithm of many values takes a fraction of a compiled loop over single ones
            np.log(weights, out=weights)
        if self.effects is not None:
            codes, factors = self.effects.codes[cells], self.effects.factors
            tiles.divide(peaks, lengths, codes, factors, block << opened.bits, weights)
        return weights
