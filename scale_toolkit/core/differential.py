"""Differential accessibility: is a peak open more often in one group of cells than in the others of
the same depth?

y_ij is 1 if peak j is open in cell i, x_i is the log of the cell's number of open peaks, and the
model is logistic:

    logit P(y_ij = 1) = a_j + b_j x_i + c_jk [cell i in group k],        c_jk = 0 under the null
    hypothesis.

**Test.** Rao's score test of c_jk = 0: the null model (a_j, b_j) is the same for all groups and is
fitted once a peak. With m_ij its fitted probabilities and v = m (1 − m), the score and its variance
given the two fitted parameters are

    U = Σ_{i in k} (y_ij − m_ij) = Σ_i g_i (y_ij − m_ij),   g = [in k] − α − β x,   V = Σ_i v_i
    g_i²,   z = U / √V

where (α, β) is the weighted regression of [in k] on (1, x). Up to |z| = 2 the p-value is that of a
normal z. Beyond, where the normal law is far from the truth for rare peaks and small groups, it is
the saddlepoint approximation to the tails of U as a sum of independent Bernoulli variables
(Lugannani & Rice 1980 in Barndorff-Nielsen's form, as Dey et al. 2017, AJHG 101:37, do for
case-control studies), both tails added.

**Effect.** exp(c_jk), the odds ratio at equal depth, is the maximum-likelihood estimate after half
an open and half a closed cell are added to either side at its mean depth, so that it is finite
where a peak is open in no cell or in all.

**Cost.** Everything depends on a cell by its depth and group alone, so cells are counted in narrow
bins of depth, at most `MAX_BINS`: a step of a peak and group costs the number of bins, not of
cells, and the counts y one pass over the open peaks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from scale_toolkit.core.compiled import compiled
from scale_toolkit.core.logistic import expit, fit_log_odds_ratio, fit_null, softplus
from scale_toolkit.core.rows import index_chunks
from scale_toolkit.threads import available_cores

Array = np.ndarray[Any, Any]

#: Bins of log depth at most, and their least width: cells of a bin differ by 5 % in depth.
MAX_BINS = 128
BIN_WIDTH = 0.05
_BLOCK = 2048  # peaks a thread takes at a time
_NORMAL_UP_TO = 2.0  # |z| up to which the normal law is near enough


@dataclass(frozen=True)
class Bins:
    """Cells counted by depth.

    Attributes
    ----------
    of_cell
        Bin of each cell.
    x
        Covariate of each bin: mean log depth of its cells, scaled to mean 0 and standard deviation
        1 over the cells.
    """

    of_cell: np.ndarray
    x: np.ndarray


@dataclass(frozen=True)
class Difference:
    """Groups against the rest; all arrays are peaks × groups, float64.

    Attributes
    ----------
    score
        z: positive where the peak is open more often in the group.
    p_value
        Two-sided.
    odds_ratio
        Odds of being open in the group over those in the other cells, at equal depth.
    """

    score: np.ndarray
    p_value: np.ndarray
    odds_ratio: np.ndarray


def depth_bins(depth: np.ndarray) -> Bins:
    """Count cells in bins of log depth, `BIN_WIDTH` wide, or wider if there would be more than
    `MAX_BINS`.

    Parameters
    ----------
    depth
        Open peaks of each cell, above 0.
    """
    logs = np.log(depth)
    low, span = logs.min(), np.ptp(logs)
    # wider only if the deepest cell has over 570 times the open peaks of the shallowest
    width = max(BIN_WIDTH, span / (MAX_BINS - 1))
    _, of_cell = np.unique(np.floor((logs - low) / width), return_inverse=True)
    x = np.bincount(of_cell, weights=logs) / np.bincount(of_cell)
    spread = x[of_cell].std()
    # a single bin has no spread: depth then explains nothing
    x = (x - x[of_cell].mean()) / spread if spread > 1e-9 else np.zeros_like(x)
    return Bins(of_cell, x)


@dataclass(frozen=True)
class Counts:
    """Sums over open peaks that are sufficient for the test.

    Attributes
    ----------
    open_cells
        Open cells of each peak in each group (peaks × groups, float64).
    weighted
        Sum of the covariate over the open cells of each peak.
    """

    open_cells: np.ndarray
    weighted: np.ndarray


def count(is_open: sparse.csr_matrix, groups: np.ndarray, n_groups: int, bins: Bins) -> Counts:
    """Pass once over the open peaks.

    Parameters
    ----------
    is_open
        Cells × peaks; every stored entry is an open peak.
    groups
        Group of each cell, 0 to `n_groups` − 1.
    n_groups
        Number of groups.
    bins
        What `depth_bins` gives for the cells.
    """
    open_cells, weighted = np.zeros((is_open.shape[1], n_groups)), np.zeros(is_open.shape[1])
    groups, x = groups.astype(np.int64), bins.x[bins.of_cell]
    for cells, indptr, indices in index_chunks(is_open):
        _count(indptr, indices, groups[cells], x[cells], open_cells, weighted)
    return Counts(open_cells, weighted)


def compare(
    counts: Counts,
    groups: np.ndarray,
    bins: Bins,
    *,
    n_threads: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Difference:
    """Test every peak in every group against the other cells.

    Parameters
    ----------
    counts
        What `count` gives, of all peaks or some.
    groups, bins
        As for `count`.
    n_threads
        0 for all cores the job may use.
    progress
        Called with the number of peaks done.
    """
    open_cells, weighted = counts.open_cells, counts.weighted
    n_groups = open_cells.shape[1]
    cells = np.bincount(bins.of_cell).astype(np.float64)
    cells_in = np.zeros((n_groups, len(cells)))
    np.add.at(cells_in, (groups, bins.of_cell), 1)
    score, p_value, log_odds = np.zeros((3, *open_cells.shape))

    def work(start: int) -> int:
        peaks = slice(start, start + _BLOCK)
        _compare(
            open_cells[peaks],
            weighted[peaks],
            cells,
            cells_in,
            bins.x,
            score[peaks],
            p_value[peaks],
            log_odds[peaks],
        )
        return len(open_cells[peaks])

    done = 0
    with ThreadPoolExecutor(n_threads or available_cores()) as pool:
        for number in pool.map(work, range(0, len(open_cells), _BLOCK)):
            done += number
            if progress is not None:
                progress(done)
    return Difference(score, p_value, np.exp(log_odds))


@compiled("void(int64[::1], int32[::1], int64[::1], float64[::1], float64[:,::1], float64[::1])")
def _count(
    indptr: Array, indices: Array, groups: Array, x: Array, open_cells: Array, weighted: Array
) -> None:
    for i in range(len(groups)):
        for entry in range(indptr[i], indptr[i + 1]):
            open_cells[indices[entry], groups[i]] += 1
            weighted[indices[entry]] += x[i]


@compiled(
    "float64(float64[::1], float64[::1], float64[::1], float64[::1], float64, float64, "
    "float64, float64)"
)
def _tail(
    cells: Array,
    inside: Array,
    eta: Array,
    x: Array,
    alpha: float,
    beta: float,
    sign: float,
    u: float,
) -> float:
    """P(sign · U ≥ u), u > 0, by the saddlepoint: K'(t) = u with K the cumulant generating
    function of sign · U.
    """
    top = 0.0  # the largest value that sign · U can take
    for i in range(len(x)):
        m = expit(eta[i])
        for g, n in (
            (sign * (1 - alpha - beta * x[i]), inside[i]),
            (-sign * (alpha + beta * x[i]), cells[i] - inside[i]),
        ):
            top += n * (max(g, 0.0) - g * m)
    # beyond the largest value by more than rounding: impossible without a difference
    if u > top * (1 + 1e-12):
        return 0.0
    low, high, t = 0.0, math.inf, 0.0
    value, curvature = 0.0, 0.0
    for _ in range(100):
        value, slope, curvature = 0.0, 0.0, 0.0
        for i in range(len(x)):
            m, base = expit(eta[i]), softplus(eta[i])
            for g, n in (
                (sign * (1 - alpha - beta * x[i]), inside[i]),
                (-sign * (alpha + beta * x[i]), cells[i] - inside[i]),
            ):
                if n > 0:
                    q = expit(eta[i] + g * t)
                    value += n * (softplus(eta[i] + g * t) - base - g * m * t)
                    slope += n * g * (q - m)
                    curvature += n * g * g * q * (1 - q)
        miss = u - slope
        if abs(miss) < 1e-9 * (1 + u):
            break
        if miss > 0:
            low = t
        else:
            high = t
        ahead = t + miss / curvature if curvature > 0 else math.inf
        # outside the bracket: double t while it has no upper end, else bisect
        if not low < ahead < high:
            ahead = 2 * low + 1 if high == math.inf else (low + high) / 2
        if ahead > 500:  # u is all but the largest value there is
            return math.exp(value - t * u)
        t = ahead
    w2 = 2 * (t * u - value)
    v = t * math.sqrt(curvature)
    # too near the mean for the formula below: the Chernoff bound
    if w2 <= 0 or v <= 0:
        return math.exp(value - t * u)
    w = math.sqrt(w2)
    # Barndorff-Nielsen's r* = w + log(v / w) / w is nearly standard normal
    return 0.5 * math.erfc((w + math.log(v / w) / w) / math.sqrt(2.0))


@compiled(
    "void(float64[:,::1], float64[::1], float64[::1], float64[:,::1], float64[::1],"
    " float64[:,::1], float64[:,::1], float64[:,::1])"
)
def _compare(
    counts: Array,
    weighted: Array,
    cells: Array,
    cells_in: Array,
    x: Array,
    score: Array,
    p_value: Array,
    log_odds: Array,
) -> None:
    """Fill score, p-value and log odds ratio (peaks × groups) from open cells, the sum of x over
    them, and cells by bin.
    """
    n = cells.sum()
    eta = np.empty(len(x))
    for j in range(len(counts)):
        total = counts[j].sum()
        a, b = fit_null(total, weighted[j], cells, x)
        h00, h01, h11 = 0.0, 0.0, 0.0
        for i in range(len(x)):
            eta[i] = a + b * x[i]
            m = expit(eta[i])
            v = cells[i] * m * (1 - m)
            h00 += v
            h01 += v * x[i]
            h11 += v * x[i] * x[i]
        det = h00 * h11 - h01 * h01
        for k in range(counts.shape[1]):
            inside, u, i0, i1, n_in = cells_in[k], counts[j, k], 0.0, 0.0, 0.0
            for i in range(len(x)):
                m = expit(eta[i])
                n_in += inside[i]
                u -= inside[i] * m
                i0 += inside[i] * m * (1 - m)
                i1 += inside[i] * m * (1 - m) * x[i]
            score[j, k], p_value[j, k] = 0.0, 1.0
            # a peak open in none or in all cells has nothing to compare
            if 0 < total < n:
                if det > 1e-12 * h00 * h11:
                    alpha, beta = (i0 * h11 - i1 * h01) / det, (i1 * h00 - i0 * h01) / det
                else:
                    alpha, beta = i0 / h00, 0.0
                variance = i0 - alpha * i0 - beta * i1
                # below, what the group adds to depth is rounding
                if variance > 1e-12 * i0:
                    z = u / math.sqrt(variance)
                    score[j, k] = z
                    if abs(z) <= _NORMAL_UP_TO:
                        p_value[j, k] = math.erfc(abs(z) / math.sqrt(2.0))
                    else:
                        up = _tail(cells, inside, eta, x, alpha, beta, 1.0, abs(u))
                        down = _tail(cells, inside, eta, x, alpha, beta, -1.0, abs(u))
                        p_value[j, k] = min(1.0, up + down)
            log_odds[j, k] = fit_log_odds_ratio(
                a, b, total, counts[j, k], weighted[j], n_in, cells, inside, x
            )
