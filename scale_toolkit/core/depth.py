"""The depth-only (Rasch) model logit p_ij = s_i + b_j, fitted from row and column sums (Rasch
1960).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numba import types
from scipy.special import expit, logit

from scale_toolkit.core.compiled import compiled, readonly
from scale_toolkit.core.rows import RowSource, binarise, blocks

#: Equations that are solved together: their sums stay in a core's cache.
EQUATIONS = 256
_DOUBLE = readonly(types.float64)
#: Depths at which `OneType` keeps the probabilities of all peaks. With 6 or 40 the start of the
#: labelled sets is the same to a hundredth.
N_DEPTHS = 12
#: About a cell's slope, the inverse of its variance.
LEAST_INFORMATION = 1e-6


def open_sums(source: RowSource) -> tuple[np.ndarray, np.ndarray]:
    """Count the open peaks of each cell (cells,) and the open cells of each peak (peaks,),
    int64.
    """
    cells, peaks = np.zeros(source.n_cells, np.int64), np.zeros(source.n_peaks, np.int64)
    for index, rows in blocks(source):
        opened = binarise(rows)
        cells[index] = np.diff(opened.indptr)
        peaks += np.bincount(opened.indices, minlength=source.n_peaks)
    return cells, peaks


def rasch(
    cell_sums: np.ndarray,
    peak_sums: np.ndarray,
    *,
    groups: int = 1000,
    tolerance: float = 1e-8,
    max_iter: int = 500,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the depth-only model logit p_ij = s_i + b_j by maximum likelihood.

    The likelihood depends on the sums only (Rasch 1960), so cells with equal sums share one s and
    peaks with equal sums share one b. If there are more than `groups` distinct sums, neighbouring
    sums share one value during the iterations; a last step solves for each sum separately.

    Returns
    -------
    s (cells,) and b (peaks,), float64; s has mean 0.
    """
    n_cells, n_peaks = len(cell_sums), len(peak_sums)
    # A sum of 0 or of all would have an infinite offset: it is moved half a count inwards.
    cell_values, cell_of, cell_counts = np.unique(
        np.clip(cell_sums, 0.5, n_peaks - 0.5), return_inverse=True, return_counts=True
    )
    peak_values, peak_of, peak_counts = np.unique(
        np.clip(peak_sums, 0.5, n_cells - 0.5), return_inverse=True, return_counts=True
    )
    row_sum, row_weight = merge_values(cell_values, cell_counts, groups)
    col_sum, col_weight = merge_values(peak_values, peak_counts, groups)
    s = np.zeros(len(row_sum))
    # the solution if all cells had the same depth
    b = logit(col_sum / n_cells)
    for _ in range(max_iter):
        old = s
        s = _solve(row_sum, b, col_weight, s)
        b = _solve(col_sum, s, row_weight, b)
        # only s + b is determined: s gets mean 0
        s, b = s - np.average(s, weights=row_weight), b + np.average(s, weights=row_weight)
        if np.abs(s - old).max() < tolerance:
            break
    # One step without merging, so that equal sums and only equal sums share an offset.
    cell_s = _solve(cell_values, b, col_weight, np.interp(cell_values, row_sum, s))
    peak_b = _solve(peak_values, s, row_weight, np.interp(peak_values, col_sum, b))
    shift = np.average(cell_s, weights=cell_counts)
    return (cell_s - shift)[cell_of], (peak_b + shift)[peak_of]


def cell_offsets(cell_sums: np.ndarray, b: np.ndarray, groups: int = 1000) -> np.ndarray:
    """Return the s of cells, (cells,) float64, from their open peaks and the b of `rasch`.

    It solves Σ_j expit(s + b_j) = `cell_sums`.
    """
    values, value_index = np.unique(np.clip(cell_sums, 0.5, len(b) - 0.5), return_inverse=True)
    peak_b, counts = np.unique(b, return_counts=True)
    peak_b, weight = merge_values(peak_b, counts, groups)
    # the solution if all probabilities were small: they are then proportional to exp(s)
    start = np.log(values) - np.log(expit(peak_b) @ weight)
    return _solve(values, peak_b, weight, start)[value_index]


@dataclass(frozen=True)
class OneType:
    """What cells would open if only their depth, their signal-to-noise ratio and the peaks'
    frequencies mattered.

    The probabilities of `rasch` at a few depths; those of a cell lie on the line between the two
    depths next to its own.

    Attributes
    ----------
    probabilities
        Of the peaks at each depth, (depths, peaks) float32.
    n_open
        Expected open peaks at each depth, (depths,) float64.
    shares
        Of each cell, what it has of each depth, at most two of them above 0: (cells, depths)
        float32.
    logits
        b of `rasch`, (peaks,) float64.
    slopes
        t of each cell, (cells,) float64, in logit p_ij = s_i + b_j + t_i (b_j − b̄_i); 0 if depth
        alone matters.
    """

    probabilities: np.ndarray
    n_open: np.ndarray
    shares: np.ndarray
    logits: np.ndarray
    slopes: np.ndarray

    def chosen(self, cells: np.ndarray) -> OneType:
        """Only these cells."""
        return replace(self, shares=self.shares[cells], slopes=self.slopes[cells])

    def with_slopes(self, cell_sums: np.ndarray, logit_sums: np.ndarray) -> OneType:
        """The same with each cell's slope, one Newton step of the likelihood from 0.

        A cell with more background in it, by a worse signal-to-noise ratio, opens rare peaks more
        often and frequent ones less often than its depth lets expect: t < 0. b̄ is the mean of b
        weighted by p (1 − p), so that t changes no cell's expected number of open peaks.

        Parameters
        ----------
        cell_sums, logit_sums
            Σ_j x_ij and Σ_j x_ij b_j of the cells' open peaks x, (cells,).
        """
        probabilities, shares = self.probabilities.astype(np.float64), self.shares
        changes, means = self._changes()
        # Σ p (1 − p) (b − b̄)², for Σ p (1 − p) (b − b̄) is 0
        information = shares @ (changes @ self.logits)
        score = logit_sums - shares @ (probabilities @ self.logits)
        score -= (shares @ means) * (cell_sums - shares @ probabilities.sum(1))
        # peaks of one frequency show no slope
        is_known = information > LEAST_INFORMATION
        slopes = np.divide(score, information, out=np.zeros_like(score), where=is_known)
        return replace(self, slopes=slopes)

    def terms(self) -> tuple[np.ndarray, np.ndarray]:
        """Coefficients (cells, 2 · depths) float32 and profiles (2 · depths, peaks) float64, whose
        product are the probabilities p + t ∂p/∂t.
        """
        by_slope = self.shares * self.slopes[:, None].astype(np.float32)
        profiles = np.vstack([self.probabilities, self._changes()[0]])
        return np.hstack([self.shares, by_slope]), profiles

    def _changes(self) -> tuple[np.ndarray, np.ndarray]:
        """∂p/∂t = p (1 − p) (b − b̄) at each depth, (depths, peaks), and b̄, (depths,)."""
        probabilities = self.probabilities.astype(np.float64)
        variances = probabilities * (1 - probabilities)
        means = variances @ self.logits / np.maximum(variances.sum(1), 1e-300)
        return variances * (self.logits - means[:, None]), means


def depth_alone(cell_sums: np.ndarray, peak_sums: np.ndarray, n_depths: int = N_DEPTHS) -> OneType:
    """Fit `OneType` to the open peaks of cells (cells,) and the open cells of peaks (peaks,)."""
    s, b = rasch(cell_sums, peak_sums)
    depths = np.linspace(s.min(), s.max() + 1e-6, n_depths)
    probabilities = expit(depths[:, None] + b)
    position = (s - depths[0]) / (depths[1] - depths[0])
    lower = np.clip(position.astype(np.int64), 0, n_depths - 2)
    shares = np.zeros((len(s), n_depths), np.float32)
    cells = np.arange(len(s))
    shares[cells, lower] = 1 - (position - lower)
    shares[cells, lower + 1] = position - lower
    n_open = probabilities.sum(1)
    return OneType(probabilities.astype(np.float32), n_open, shares, b, np.zeros(len(s)))


def merge_values(
    values: np.ndarray, counts: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge neighbouring values into at most `groups`, with their mean value and total count."""
    if len(values) <= groups:
        return values, counts.astype(float)
    group = np.minimum(np.arange(len(values)) * groups // len(values), groups - 1)
    weight = np.bincount(group, counts)
    return np.bincount(group, values * counts) / weight, weight


def _solve(
    sums: np.ndarray, other: np.ndarray, weight: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """Solve Σ_g weight_g · expit(x + other_g) = sums for x, one equation for each entry of
    `sums`.
    """
    x, odds = np.array(start, np.float64), np.exp(other)
    sums, weight = np.asarray(sums, np.float64), np.asarray(weight, np.float64)

    for first in range(0, len(x), EQUATIONS):
        equations = slice(first, first + EQUATIONS)
        unknown, goal = x[equations], sums[equations]
        expected, information = np.empty_like(unknown), np.empty_like(unknown)
        for _ in range(50):
            _expected_sums(np.exp(unknown), odds, weight, expected, information)
            step = (expected - goal) / np.maximum(information, 1e-12)
            # Newton's method; steps are bounded because the curvature vanishes far from the
            # solution
            unknown -= np.clip(step, -2, 2)
            if np.abs(step).max() < 1e-10:
                break
    return x


@compiled(types.void(_DOUBLE, _DOUBLE, _DOUBLE, types.float64[::1], types.float64[::1]))
def _expected_sums(
    factors: np.ndarray,
    odds: np.ndarray,
    weight: np.ndarray,
    expected: np.ndarray,
    information: np.ndarray,
) -> None:
    """Σ_g weight_g p_ig and Σ_g weight_g p_ig (1 − p_ig) with odds factor_i · odds_g: one
    exponential an equation and a group, not one a pair.
    """
    expected[:] = 0
    information[:] = 0
    for group in range(len(odds)):
        for equation in range(len(factors)):
            value = odds[group] * factors[equation]
            closed = 1 / (1 + value)
            term = weight[group] * value * closed
            expected[equation] += term
            information[equation] += term * closed
