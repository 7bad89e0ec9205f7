"""Inner loops over a tile: the open peaks of some cells within one block of peaks.

A tile lists the open peaks of its cells, cell after cell, by their position in the block (2 bytes
each), and how many each cell has. All loops read it from front to back, and the part of the dense
matrix that they read or write fits into a core's cache.
"""

from __future__ import annotations

import numpy as np
from numba import types

from scale_toolkit.core.columns import gather_row, scatter_row
from scale_toolkit.core.compiled import compiled, readonly

#: Peaks of a block are 2 to the power of this, or fewer: 26 columns of 4,096 peaks take 425 kB.
MOST_BITS = 12
#: There are at least this many blocks, for as many threads.
LEAST_BLOCKS = 16


_UINT16, _INT32, _INT64, _FLOAT = (
    readonly(t) for t in (types.uint16, types.int32, types.int64, types.float32)
)
_MATRIX = readonly(types.float32, 2)


def block_bits(n_peaks: int) -> int:
    """Return the binary logarithm of the peaks of a block."""
    bits = MOST_BITS
    while bits > 0 and -(-n_peaks // (1 << bits)) < LEAST_BLOCKS:
        bits -= 1
    return bits


@compiled(
    types.void(
        _INT32,
        _INT64,
        types.int64,
        types.int64,
        types.uint16[:, ::1],
        types.int64[::1],
        types.uint16[::1],
    )
)
def cut(
    peaks: np.ndarray,
    pointers: np.ndarray,
    bits: int,
    origin: int,
    lengths: np.ndarray,
    starts: np.ndarray,
    out: np.ndarray,
) -> None:
    """Cut rows of ascending peaks into tiles that lie one behind the other in `out` from `origin`.

    `lengths` (blocks, rows) receives the open peaks of each row in each block, `starts`
    (blocks + 1,) where each tile begins, and the last one ends.
    """
    n_blocks, n_rows = lengths.shape
    lengths[:] = 0
    sums = np.zeros(n_blocks, np.int64)
    for row in range(n_rows):
        for entry in range(pointers[row], pointers[row + 1]):
            block = peaks[entry] >> bits
            lengths[block, row] += np.uint16(1)
            sums[block] += 1
    starts[0] = origin
    for block in range(n_blocks):
        starts[block + 1] = starts[block] + sums[block]
    positions = starts[:-1].copy()
    low = (1 << bits) - 1
    for row in range(n_rows):
        for entry in range(pointers[row], pointers[row + 1]):
            block = peaks[entry] >> bits
            out[positions[block]] = peaks[entry] & low
            positions[block] += 1


@compiled(types.void(_UINT16, _UINT16, types.int64, types.int64[::1], types.int32[::1]))
def uncut(
    peaks: np.ndarray, lengths: np.ndarray, origin: int, positions: np.ndarray, out: np.ndarray
) -> None:
    """Write the peaks of a tile's cells into `out` from `positions`, which move on; cells whose
    position is negative are left out. `origin` is the block's first peak.
    """
    entry = 0
    for row in range(len(lengths)):
        position = positions[row]
        if position >= 0:
            for i in range(lengths[row]):
                out[position + i] = origin + peaks[entry + i]
            positions[row] = position + lengths[row]
        entry += lengths[row]


_SIZE = types.uintp
_PRODUCT = types.void(
    _UINT16,
    _FLOAT,
    types.int64,
    _UINT16,
    readonly(types.int64, 2),
    _INT64,
    readonly(types.int64, 2),
    types.int64,
    _FLOAT,
    _SIZE,
    _SIZE,
    _SIZE,
    types.float32[::1],
    _SIZE,
    _SIZE,
)


@compiled(_PRODUCT)
def gather(
    peaks: np.ndarray,
    weights: np.ndarray,
    origin: int,
    lengths: np.ndarray,
    starts: np.ndarray,
    edges: np.ndarray,
    tiles: np.ndarray,
    bits: int,
    dense: np.ndarray,
    pitch: int,
    first: int,
    width: int,
    out: np.ndarray,
    out_pitch: int,
    out_first: int,
) -> None:
    """out[cell] += Σ weight · dense[peak] over some tiles, one after the other.

    Parameters
    ----------
    peaks, lengths, starts, edges
        Of all tiles (`open_peaks.OpenPeaks`).
    weights, origin
        Of the entries from `origin` on; empty: all are 1.
    tiles
        Numbers of the chunk and of the block of each tile, (tiles, 2).
    bits
        Of a block.
    dense, pitch, first, width, out, out_pitch, out_first
        Groups of `width` columns (`columns.Columns`) of peaks and of cells.
    """
    n_blocks = starts.shape[1] - 1
    for tile in range(len(tiles)):
        chunk, block = tiles[tile]
        n_rows = edges[chunk + 1] - edges[chunk]
        lengths_before = n_blocks * edges[chunk] + block * n_rows
        first_peak = first + np.uintp(block << bits) * pitch
        entry = starts[chunk, block]
        weights_of_tile = weights[entry - origin :]
        peaks_of_tile = peaks[entry:]
        entry = np.int64(0)
        for row in range(n_rows):
            end = entry + np.int64(lengths[lengths_before + row])
            position = np.uintp(edges[chunk] + row) * out_pitch + out_first
            gather_row(
                peaks_of_tile,
                weights_of_tile,
                entry,
                end,
                dense,
                pitch,
                first_peak,
                width,
                out,
                position,
            )
            entry = end


@compiled(_PRODUCT)
def scatter(
    peaks: np.ndarray,
    weights: np.ndarray,
    origin: int,
    lengths: np.ndarray,
    starts: np.ndarray,
    edges: np.ndarray,
    tiles: np.ndarray,
    bits: int,
    dense: np.ndarray,
    pitch: int,
    first: int,
    width: int,
    out: np.ndarray,
    out_pitch: int,
    out_first: int,
) -> None:
    """out[peak] += weight · dense[cell] over some tiles, one after the other.

    As in `gather`, with groups of columns of cells and of peaks.
    """
    n_blocks = starts.shape[1] - 1
    for tile in range(len(tiles)):
        chunk, block = tiles[tile]
        n_rows = edges[chunk + 1] - edges[chunk]
        lengths_before = n_blocks * edges[chunk] + block * n_rows
        first_peak = out_first + np.uintp(block << bits) * out_pitch
        entry = starts[chunk, block]
        weights_of_tile = weights[entry - origin :]
        peaks_of_tile = peaks[entry:]
        entry = np.int64(0)
        for row in range(n_rows):
            end = entry + np.int64(lengths[lengths_before + row])
            position = np.uintp(edges[chunk] + row) * pitch + first
            scatter_row(
                peaks_of_tile,
                weights_of_tile,
                entry,
                end,
                dense,
                position,
                width,
                out,
                out_pitch,
                first_peak,
            )
            entry = end


@compiled(types.void(_UINT16, _UINT16, _FLOAT, _FLOAT, types.float32[::1]))
def inside_logs(
    peaks: np.ndarray,
    lengths: np.ndarray,
    shares: np.ndarray,
    column: np.ndarray,
    out: np.ndarray,
) -> None:
    """Write 1 + share of the cell · weight of the peak of a tile's entries into `out`."""
    entry = 0
    for row in range(len(lengths)):
        share = shares[row]
        for i in range(entry, entry + lengths[row]):
            out[i] = np.float32(1) + column[peaks[i]] * share
        entry += lengths[row]


@compiled(types.void(_UINT16, _UINT16, _INT32, _MATRIX, types.int64, types.float32[::1]))
def divide(
    peaks: np.ndarray,
    lengths: np.ndarray,
    codes: np.ndarray,
    factors: np.ndarray,
    origin: int,
    weights: np.ndarray,
) -> None:
    """Divide the weights of a tile's entries by the factors of their cells' groups.

    `codes` is the group of each cell, `factors` (groups, peaks), `origin` the block's first peak.
    """
    entry = 0
    for row in range(len(lengths)):
        code = codes[row]
        for i in range(entry, entry + lengths[row]):
            weights[i] /= factors[code, origin + peaks[i]]
        entry += lengths[row]


@compiled(types.void(_UINT16, _FLOAT, _UINT16, _FLOAT, types.float64[::1]))
def add_squares(
    peaks: np.ndarray,
    weights: np.ndarray,
    lengths: np.ndarray,
    column: np.ndarray,
    out: np.ndarray,
) -> None:
    """out[row] += Σ (weight · weight of the peak)² over a tile; either may be empty: all are 1."""
    entry = 0
    for row in range(len(lengths)):
        total = out[row]
        for i in range(entry, entry + lengths[row]):
            value = np.float32(1)
            if len(weights) > 0:
                value *= weights[i]
            if len(column) > 0:
                value *= column[peaks[i]]
            total += np.float64(value) * np.float64(value)
        out[row] = total
        entry += lengths[row]
