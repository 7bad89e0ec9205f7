"""Open peaks of cells that differ in depth alone, drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import types
from scipy.optimize import minimize_scalar

from scale_toolkit.core.compiled import compiled, readonly
from scale_toolkit.core.sparse_products import share_rows

if TYPE_CHECKING:
    from scale_toolkit.core.depth import OneType


def draw_by_depth(depth: OneType, seed: int, n_threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Open each peak of each cell independently with the probability that depth alone gives it.

    A peak is open if a Poisson process of rate −log(1 − p) has a point. A cell's points come from
    the process of the next larger depth that is kept, in rising order, and each is left out with
    the probability by which that rate is too high (Lewis & Shedler 1979, Nav. Res. Logist. Q.
    26:403), so that the work follows the open peaks. Any number of threads draws the same.

    Returns
    -------
    The ascending open peaks of all cells (int32) and the pointers of the rows (int64), as in a CSR
    matrix.
    """
    n_cells, n_peaks = len(depth.shares), depth.probabilities.shape[1]
    # the larger of the two depths that a cell lies between, and its share of the cell
    upper = depth.shares.shape[1] - 1 - np.argmax(depth.shares[:, ::-1] > 0, axis=1)
    upper = np.maximum(upper, 1)
    share = depth.shares[np.arange(n_cells), upper].astype(np.float64)
    chances = np.minimum(depth.probabilities.astype(np.float64), 1 - 1e-7)
    ends = np.cumsum(-np.log1p(-chances), axis=1)
    steps = np.arange(n_peaks) / n_peaks
    first_peaks = np.array([np.searchsorted(end, steps * end[-1], "right") for end in ends])
    first_peaks = first_peaks.astype(np.int32)
    # room for eight standard deviations more than expected: a cell needs more once in 10¹⁵
    expected = depth.shares @ depth.n_open
    room = np.minimum(np.ceil(expected + 8 * np.sqrt(expected) + 16), n_peaks).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(room)])
    drawn, counts = np.empty(starts[-1], np.int32), np.empty(n_cells, np.int64)
    state = np.uint64(seed)
    share_rows(
        n_cells,
        n_threads,
        lambda first, stop: _draw(
            upper, share, chances, ends, first_peaks, state, first, stop, starts, drawn, counts
        ),
    )
    rows = [drawn[start : start + n] for start, n in zip(starts, counts, strict=False)]
    return np.concatenate(rows), np.concatenate([[0], np.cumsum(counts)])


def noise_edge(variances: np.ndarray, n_cells: int) -> float:
    """Return the largest eigenvalue of Σ_j v_j (z_j z_jᵀ − 1), z_j random with mean 0 and variance
    1, in the limit of many cells and peaks.

    It is n · min_α α (1 + 1/n Σ_j v_j / (α − v_j)) − Σ_j v_j over α above the largest v_j
    (Silverstein & Choi 1995, J. Multivar. Anal. 54:295).

    Parameters
    ----------
    variances
        v, (peaks,).
    n_cells
        n, length of the vectors.
    """
    positive = variances[variances > 0].astype(np.float64)
    if not len(positive):
        return 0.0
    largest = positive.max()

    def image(log_excess: float) -> float:
        alpha = largest * (1 + np.exp(log_excess))
        return float(alpha * (1 + (positive / (alpha - positive)).sum() / n_cells))

    grid = np.linspace(-14, 14, 57)
    lowest = grid[np.argmin([image(log_excess) for log_excess in grid])]
    minimum = minimize_scalar(image, bounds=(lowest - 0.5, lowest + 0.5), method="bounded").fun
    return float(n_cells * minimum - positive.sum())


@compiled(
    types.void(
        readonly(types.int64),
        readonly(types.float64),
        readonly(types.float64, 2),
        readonly(types.float64, 2),
        readonly(types.int32, 2),
        types.uint64,
        types.int64,
        types.int64,
        readonly(types.int64),
        types.int32[::1],
        types.int64[::1],
    )
)
def _draw(
    upper: np.ndarray,
    share: np.ndarray,
    chances: np.ndarray,
    ends: np.ndarray,
    first_peaks: np.ndarray,
    seed: np.uint64,
    first: int,
    stop: int,
    starts: np.ndarray,
    drawn: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Draw the open peaks of the cells from `first` to `stop`, each from its own start."""
    n_peaks = ends.shape[1]
    for cell in range(first, stop):
        # splitmix64 of the seed and the cell (Steele et al. 2014) starts xorshift64
        state = seed + np.uint64(0x9E3779B97F4A7C15) * np.uint64(cell + 1)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = (state ^ (state >> np.uint64(31))) | np.uint64(1)
        depth, of_upper = upper[cell], share[cell]
        end, steps = ends[depth], first_peaks[depth]
        start, total = starts[cell], end[n_peaks - 1]
        point, last, n_open = 0.0, np.int64(-1), 0
        scale = n_peaks / total
        while True:
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            point -= np.log(((state >> np.uint64(11)) + 1) * 2.0**-53)
            if point >= total:
                break
            peak = np.int64(steps[min(np.int64(point * scale), n_peaks - 1)])
            while end[peak] <= point:
                peak += 1
            if peak == last:
                continue
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            chance = of_upper * chances[depth, peak] + (1 - of_upper) * chances[depth - 1, peak]
            rate = end[peak] - (end[peak - 1] if peak else 0.0)
            limit = (state >> np.uint64(11)) * 2.0**-53 * rate
            # −log(1 − p) is at least p, which spares most of the logarithms
            if limit < chance or limit < -np.log1p(-chance):
                drawn[start + n_open] = peak
                n_open += 1
                last = peak
                if start + n_open == starts[cell + 1]:
                    break
        counts[cell] = n_open
