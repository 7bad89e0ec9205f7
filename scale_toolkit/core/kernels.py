"""Inner loops of training on the CPU: packing rows of a batch, and their products with dense
matrices.

Work is cut into row ranges (packing) or blocks of peaks (products), which threads share; no two
threads write to the same place, and the cut does not depend on their number, so neither do the
results. Blocks of peaks also keep the part of the dense matrix that is read or written within a
core's cache.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import types

from scale_toolkit.core.columns import gather_row, scatter_row
from scale_toolkit.core.compiled import compiled, readonly
from scale_toolkit.threads import available_cores

# 10 columns of 100,000 peaks in 16 blocks: 250 kB each, within a second-level cache.
PEAK_BLOCKS = 16
# of a product: partial sums of every block of peaks are kept for this many rows
ROWS_AT_A_TIME = 2048


_INT32, _INT64, _UINT32, _FLOAT = (
    readonly(t) for t in (types.int32, types.int64, types.uint32, types.float32)
)


@compiled("uint32(uint32, uint32)")
def _hash(key: np.uint32, entry: np.uint32) -> np.uint32:
    """The mask's hash (`model.draws.kept`)."""
    x = np.uint32(key ^ entry)
    x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
    x = np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B))
    return np.uint32((x ^ (x >> np.uint32(16))) >> np.uint32(8))


@compiled(types.void(_INT64, _UINT32, types.uint32, types.int64, types.int64, types.int64[::1]))
def count_kept(
    lengths: np.ndarray, keys: np.ndarray, threshold: int, first: int, stop: int, out: np.ndarray
) -> None:
    """Entries of each row that the mask keeps."""
    for row in range(first, stop):
        n_kept: int | np.intp = 0
        for entry in range(lengths[row]):
            n_kept += _hash(keys[row], np.uint32(entry)) >= threshold
        out[row] = n_kept


@compiled(
    types.void(
        _INT32,
        _FLOAT,
        _INT64,
        _INT64,
        _UINT32,
        types.uint32,
        _FLOAT,
        _INT64,
        types.int64,
        types.int64,
        types.int32[::1],
        types.float32[::1],
    )
)
def pack_rows(
    indices: np.ndarray,
    data: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    keys: np.ndarray,
    threshold: int,
    peak_weight: np.ndarray,
    pointers: np.ndarray,
    first: int,
    stop: int,
    peaks_out: np.ndarray,
    weights_out: np.ndarray,
) -> None:
    """Copy the kept entries of some rows, and weigh them by 10⁴ · (value / sum of the row's kept
    values) · weight of the peak.

    `data` empty: every value is 1. `keys` empty: all entries are kept. `peak_weight` empty: values
    as they are.
    """
    masked, valued, weighted = len(keys) > 0, len(data) > 0, len(weights_out) > 0
    longest = 0
    for row in range(first, stop):
        longest = max(longest, lengths[row])
    remaining = np.empty(longest + 1, np.int32)
    for row in range(first, stop):
        n_remaining = lengths[row]
        if masked:
            # the next number is written in any case: a branch on a random bit costs more
            n_remaining = 0
            for entry in range(lengths[row]):
                remaining[n_remaining] = entry
                n_remaining += _hash(keys[row], np.uint32(entry)) >= threshold
        start, position = starts[row], pointers[row]
        total = np.float32(0)
        for number in range(n_remaining):
            entry = start + (remaining[number] if masked else number)
            peaks_out[position + number] = indices[entry]
            if weighted:
                value = data[entry] if valued else np.float32(1)
                weights_out[position + number] = value
                total += value
        if len(peak_weight) > 0:
            share = np.float32(1e4) / max(total, np.float32(1e-30))
            for position in range(pointers[row], pointers[row + 1]):
                weights_out[position] *= share * peak_weight[peaks_out[position]]


@compiled(types.void(_INT32, _INT64, _INT64, types.int64, types.int64, types.int64[:, ::1]))
def find_bounds(
    peaks: np.ndarray,
    pointers: np.ndarray,
    edges: np.ndarray,
    first: int,
    stop: int,
    out: np.ndarray,
) -> None:
    """Where in each row of ascending peaks each block of peaks begins, and the last one ends."""
    for row in range(first, stop):
        position, end = pointers[row], pointers[row + 1]
        for block in range(len(edges)):
            low, high = position, end
            while low < high:
                middle = (low + high) // 2
                if peaks[middle] < edges[block]:
                    low = middle + 1
                else:
                    high = middle
            out[row, block] = position = low


_BOUNDS, _SIZE = readonly(types.int64, 2), types.uintp
_PRODUCT = types.void(
    _INT32,
    _FLOAT,
    _BOUNDS,
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
    bounds: np.ndarray,
    block: int,
    dense: np.ndarray,
    pitch: int,
    first: int,
    width: int,
    out: np.ndarray,
    out_pitch: int,
    out_first: int,
) -> None:
    """out[row] += Σ weight · dense[peak] over the entries of one block of peaks.

    `dense` and `out` are groups of `width` columns (`columns.Columns`).
    """
    for row in range(len(bounds)):
        start, end = bounds[row, block], bounds[row, block + 1]
        position = np.uintp(row) * out_pitch + out_first
        gather_row(peaks, weights, start, end, dense, pitch, first, width, out, position)


@compiled(_PRODUCT)
def scatter(
    peaks: np.ndarray,
    weights: np.ndarray,
    bounds: np.ndarray,
    block: int,
    dense: np.ndarray,
    pitch: int,
    first: int,
    width: int,
    out: np.ndarray,
    out_pitch: int,
    out_first: int,
) -> None:
    """out[peak] += weight · dense[row] over the entries of one block of peaks.

    As in `gather`.
    """
    for row in range(len(bounds)):
        start, end = bounds[row, block], bounds[row, block + 1]
        position = np.uintp(row) * pitch + first
        scatter_row(peaks, weights, start, end, dense, position, width, out, out_pitch, out_first)


class _Pool:
    """Threads that share the work of one process: as many as the stage may use, and at most one a
    core.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._process = 0

    def map(self, task: Callable[[int], None], items: Iterable[int], n_threads: int) -> None:
        """Call `task` on each item; in this thread alone if there is one thread, or one item."""
        items = list(items)
        # more threads than cores would only wait; the results do not depend on the number
        n_threads = min(n_threads, len(items), available_cores())
        if n_threads <= 1:
            _each(task, items)
            return
        with self._lock:
            # threads do not survive a fork
            if self._executor is None or self._process != os.getpid():
                # they start when there is work for them, so that the bound costs nothing
                self._executor = ThreadPoolExecutor(available_cores(), "scale")
                self._process = os.getpid()
            executor = self._executor
        # strided shares, one a thread: a task is short, and so is what handing it over costs
        shares = [items[i::n_threads] for i in range(n_threads)]
        futures = [executor.submit(_each, task, share) for share in shares[1:]]
        _each(task, shares[0])
        for future in futures:
            future.result()


def _each(task: Callable[[int], None], items: list[int]) -> None:
    for item in items:
        task(item)


POOL = _Pool()


def block_edges(n_peaks: int) -> np.ndarray:
    """First peak of each block, and the number of peaks: int64."""
    return np.linspace(0, n_peaks, min(PEAK_BLOCKS, max(n_peaks, 1)) + 1).astype(np.int64)
