"""Products of sparse rows (cells × peaks) with narrow dense matrices, shared among threads.

Work is cut into ranges of rows and blocks of peaks (`core.kernels`). The cut does not depend on
the number of threads, so neither do the results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scale_toolkit.core import kernels
from scale_toolkit.core.columns import Columns, copy_back, paired_groups

if TYPE_CHECKING:
    from collections.abc import Callable


def share_rows(
    n_rows: int, n_threads: int, work: Callable[[int, int], None], *, at_least: int = 64
) -> None:
    """Call ``work(first, stop)`` on ranges that cover all rows, shared among `n_threads`."""
    size = max(-(-n_rows // (4 * n_threads)), at_least) if n_threads > 1 else max(n_rows, 1)
    kernels.POOL.map(
        lambda i: work(i * size, min((i + 1) * size, n_rows)), range(-(-n_rows // size)), n_threads
    )


def block_bounds(
    peaks: np.ndarray, pointers: np.ndarray, n_peaks: int, n_threads: int
) -> np.ndarray:
    """Return where each block of peaks begins in each row, (rows, blocks + 1) int64.

    Parameters
    ----------
    peaks, pointers
        As in a CSR matrix with ascending peaks in each row, int32 and int64.
    """
    edges = kernels.block_edges(n_peaks)
    bounds = np.empty((len(pointers) - 1, len(edges)), np.int64)
    share_rows(
        len(bounds),
        n_threads,
        lambda first, stop: kernels.find_bounds(peaks, pointers, edges, first, stop, bounds),
    )
    return bounds


def times(
    peaks: np.ndarray, weights: np.ndarray, bounds: np.ndarray, dense: np.ndarray, n_threads: int
) -> np.ndarray:
    """Return rows · dense, (rows, c) float32.

    Parameters
    ----------
    peaks, weights
        Entries of the rows, int32 and float32; `weights` empty: all ones.
    bounds
        Of `block_bounds`.
    dense
        (peaks, c) float32, contiguous.
    """
    n_rows, n_blocks = len(bounds), bounds.shape[1] - 1
    out = np.zeros((n_rows, dense.shape[1]), np.float32)
    height = min(n_rows, kernels.ROWS_AT_A_TIME)
    groups = paired_groups(dense, out)
    for operand, total in groups:
        columns = slice(total.first, total.first + total.width)
        sums = np.empty((n_blocks, height, total.width), np.float32)
        for first in range(0, n_rows, kernels.ROWS_AT_A_TIME):
            chunk = bounds[first : first + kernels.ROWS_AT_A_TIME]

            def add(
                block: int,
                chunk: np.ndarray = chunk,
                operand: Columns = operand,
                sums: np.ndarray = sums,
            ) -> None:
                sums[block] = 0
                partial_sums = sums[block].reshape(-1), operand.width, 0
                kernels.gather(
                    peaks, weights, chunk, block, *operand.flat(), operand.width, *partial_sums
                )

            kernels.POOL.map(add, range(n_blocks), n_threads)
            rows = total.matrix[first : first + len(chunk), columns]
            np.sum(sums[:, : len(chunk)], 0, out=rows)
    copy_back(groups, out)
    return out


def add_transposed_times(
    peaks: np.ndarray,
    weights: np.ndarray,
    bounds: np.ndarray,
    dense: np.ndarray,
    n_threads: int,
    out: np.ndarray,
) -> None:
    """Add rowsᵀ · dense, (peaks, c), to `out`; `dense` is (rows, c), both float32 and
    contiguous.
    """
    groups = paired_groups(dense, out)

    def add(block: int) -> None:
        for operand, total in groups:
            columns = (*operand.flat(), operand.width, *total.flat())
            kernels.scatter(peaks, weights, bounds, block, *columns)

    kernels.POOL.map(add, range(bounds.shape[1] - 1), n_threads)
    copy_back(groups, out)
