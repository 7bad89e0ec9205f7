"""Differential accessibility between two conditions whose replicates are samples, such as donors.

O_js of the n_s cells of sample s are open at peak j, and x_i is a cell's log number of open peaks.
Samples of one condition differ by more than the drawing of cells, so the logit has an effect of the
sample with variance σ² (Williams 1982, Appl Stat 31:144, model III):

    logit P(y_ij = 1) = a_j + b_j x_i + c_j [s in A] + u_js,         var u_js = σ²
    E_js = Σ_{i in s} m_ij,  V_js = Σ_{i in s} m_ij (1 − m_ij),   var O_js = φ_j V_js (1 + σ² V_js)

**Test.** The quasi-likelihood score test of c_j = 0. Samples have the weights w = 1 / (1 + σ² V) of
that variance; a_j and b_j solve the weighted score equations of the model without c; then

    U = Σ_{s in A} w_s (O_s − E_s),     g_i = [s in A] − α − β x_i
    var U = φ Σ_s w_s² (Σ_i v_i g_i² + σ² (Σ_i v_i g_i)²),            t = U / √(var U)

with (α, β) the weighted regression of [s in A] on (1, x). σ² is common to all peaks and solves
mean_j φ_j = 1 (moments). φ_j is Pearson's statistic of the samples within their conditions over its
degrees of freedom d_j, squeezed towards its mean over the peaks with the d₀ degrees of freedom of
an inverse chi-squared prior (Smyth 2004, SAGMB 3:3; for quasi-likelihood Lund et al. 2012, SAGMB
11:5), so that two samples a side suffice; t has d₀ + d_j degrees of freedom. A condition in which
the peak is open in no cell, or in all, says nothing about φ_j and gives no degrees of freedom.

**Effect.** exp(c_j), with half an open and half a closed cell added to either side
(`core.logistic`).

Depth enters by the cells, not by the samples' totals: two samples of unequal depth are compared at
equal depth even if all their cells differ. Cells are counted in bins of depth
(`core.differential.depth_bins`).
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse, stats
from scipy.optimize import brentq
from scipy.special import digamma, polygamma

from scale_toolkit.core.compiled import compiled
from scale_toolkit.core.logistic import expit, fit_log_odds_ratio, fit_null
from scale_toolkit.core.rows import index_chunks
from scale_toolkit.threads import available_cores

if TYPE_CHECKING:
    from scale_toolkit.core.differential import Bins

Array = np.ndarray[Any, Any]

_BLOCK = 1024  # peaks a thread takes at a time
#: Mean binomial variance of a sample from which a peak informs σ² and the prior of φ: below, φ_j is
#: too discrete to be chi-squared.
_INFORMATIVE = 2.0
#: Informative peaks below which all peaks are taken.
_LEAST_PEAKS = 50
#: Largest standard deviation between samples, as a logit, that is looked for.
_LARGEST_SD = 10.0


@dataclass(frozen=True)
class SampleCounts:
    """Sums over open peaks that are sufficient for the test.

    Attributes
    ----------
    open_cells
        Open cells of each peak in each sample, (peaks × samples) float64.
    weighted
        Sum of the covariate over them, (peaks × samples) float64.
    cells
        Cells of each sample in each bin of depth, (samples × bins) float64.
    """

    open_cells: np.ndarray
    weighted: np.ndarray
    cells: np.ndarray

    def of_peaks(self, peaks: np.ndarray) -> SampleCounts:
        """Return the counts of some peaks."""
        return SampleCounts(self.open_cells[peaks], self.weighted[peaks], self.cells)


@dataclass(frozen=True)
class Contrast:
    """Condition A against condition B; arrays have one value a peak, float64.

    Attributes
    ----------
    score
        t (z if `prior_df` is infinite): positive if the peak is open more often in A.
    p_value
        Two-sided.
    odds_ratio
        Odds of being open in A over those in B, at equal depth.
    dispersion
        φ_j after squeezing.
    sample_sd
        σ: standard deviation between samples of a condition, as a logit.
    prior_df
        d₀; infinite if all peaks are equally dispersed.
    """

    score: np.ndarray
    p_value: np.ndarray
    odds_ratio: np.ndarray
    dispersion: np.ndarray
    sample_sd: float
    prior_df: float


@dataclass(frozen=True)
class _Fit:
    """Score tests at one σ², and the samples' residuals within their conditions.

    Attributes
    ----------
    z
        U / √(var U / φ), (peaks,).
    log_odds
        c, (peaks,).
    residual, binomial
        O − E and V of the model with c, (peaks × samples); both 0 if the peak is open in no cell
        of the condition, or in all.
    """

    z: np.ndarray
    log_odds: np.ndarray
    residual: np.ndarray
    binomial: np.ndarray


def count_samples(
    is_open: sparse.csr_matrix, samples: np.ndarray, n_samples: int, bins: Bins
) -> SampleCounts:
    """Pass once over the open peaks.

    Parameters
    ----------
    is_open
        Cells × peaks; every stored entry is an open peak.
    samples
        Sample of each cell, 0 to `n_samples` − 1.
    n_samples
        Number of samples.
    bins
        What `core.differential.depth_bins` gives for the cells.
    """
    open_cells, weighted = np.zeros((2, is_open.shape[1], n_samples))
    x = bins.x[bins.of_cell]
    for rows, indptr, indices in index_chunks(is_open):
        numbers = samples[rows].astype(np.int64)
        _count(indptr, indices, numbers, x[rows], open_cells, weighted)
    cells = np.zeros((n_samples, len(bins.x)))
    np.add.at(cells, (samples, bins.of_cell), 1)
    return SampleCounts(open_cells, weighted, cells)


def compare_samples(
    counts: SampleCounts,
    in_first: np.ndarray,
    bins: Bins,
    *,
    n_threads: int = 0,
) -> Contrast:
    """Test every peak between the samples of two conditions.

    Parameters
    ----------
    counts
        What `count_samples` gives, of all peaks or some.
    in_first
        Whether each sample is of condition A, (samples,) bool; at least two are and two are not.
    bins
        As for `count_samples`.
    n_threads
        0 for all cores the job may use.
    """
    variance = 0.0
    # twice: the residuals of a fit without weights are too large if samples differ in size (σ is
    # then estimated as 0.43 in place of 0.40)
    for _ in range(2):
        fit = _fit(counts, in_first, bins, variance, n_threads)
        variance = _sample_variance(fit, _residual_df(fit.binomial, in_first))
        if variance == 0:
            break
    if variance > 0:
        fit = _fit(counts, in_first, bins, variance, n_threads)
    df = _residual_df(fit.binomial, in_first)
    dispersion = _pearson(fit, variance) / np.maximum(df, 1)
    informative = _informative(fit, df)
    scale, prior_df = _prior(dispersion[informative], df[informative])
    if math.isinf(prior_df):
        squeezed = np.full(len(df), scale)
    else:
        squeezed = (prior_df * scale + df * dispersion) / (prior_df + df)
    score = fit.z / np.sqrt(squeezed)
    p_value = np.minimum(1.0, 2 * stats.t.sf(np.abs(score), prior_df + df))
    return Contrast(
        score, p_value, np.exp(fit.log_odds), squeezed, math.sqrt(variance), float(prior_df)
    )


def _fit(
    counts: SampleCounts,
    in_first: np.ndarray,
    bins: Bins,
    variance: float,
    n_threads: int,
) -> _Fit:
    """Fit every peak at one σ², blocks of peaks in parallel."""
    n_peaks, n_samples = counts.open_cells.shape
    z, log_odds = np.zeros((2, n_peaks))
    residual, binomial = np.zeros((2, n_peaks, n_samples))
    is_first = np.asarray(in_first, np.int64)

    def work(start: int) -> None:
        peaks = slice(start, start + _BLOCK)
        _compare(
            counts.open_cells[peaks],
            counts.weighted[peaks],
            counts.cells,
            is_first,
            bins.x,
            variance,
            z[peaks],
            log_odds[peaks],
            residual[peaks],
            binomial[peaks],
        )

    with ThreadPoolExecutor(n_threads or available_cores()) as pool:
        # a list: an error of a thread is raised here
        list(pool.map(work, range(0, n_peaks, _BLOCK)))
    return _Fit(z, log_odds, residual, binomial)


def _residual_df(binomial: np.ndarray, in_first: np.ndarray) -> np.ndarray:
    """Return the degrees of freedom of φ: samples less one in each condition that informs it."""
    df = np.zeros(len(binomial))
    for side in (in_first, ~in_first):
        df += (side.sum() - 1) * (binomial[:, side].max(axis=1) > 0)
    return df


def _pearson(fit: _Fit, variance: float) -> np.ndarray:
    """Return Pearson's statistic of each peak at σ²."""
    expected = fit.binomial * (1 + variance * fit.binomial)
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = np.where(expected > 0, fit.residual**2 / expected, 0.0)
    return squares.sum(axis=1)


def _informative(fit: _Fit, df: np.ndarray) -> np.ndarray:
    """Return the positions of the peaks with enough open cells in each sample."""
    usable = df == df.max(initial=0)
    enough = usable & (fit.binomial.mean(axis=1) >= _INFORMATIVE)
    return np.flatnonzero(enough if enough.sum() >= _LEAST_PEAKS else df > 0)


def _sample_variance(fit: _Fit, df: np.ndarray) -> float:
    """Return the σ² at which Pearson's statistics are their degrees of freedom in the mean."""
    peaks = _informative(fit, df)
    if not len(peaks):
        return 0.0
    usable = _Fit(fit.z[peaks], fit.log_odds[peaks], fit.residual[peaks], fit.binomial[peaks])
    total = df[peaks].sum()

    def excess(variance: float) -> float:
        return float(_pearson(usable, variance).sum() / total) - 1

    if excess(0.0) <= 0:
        return 0.0
    largest = _LARGEST_SD**2
    return largest if excess(largest) > 0 else float(brentq(excess, 0.0, largest, xtol=1e-9))


def _prior(dispersion: np.ndarray, df: np.ndarray) -> tuple[float, float]:
    """Return scale and degrees of freedom of the prior of φ, by the moments of log φ.

    Smyth 2004, section 6.2: log φ_j has the mean log s₀² + ψ(d_j/2) − log(d_j/2) − ψ(d₀/2) +
    log(d₀/2) and the variance ψ'(d_j/2) + ψ'(d₀/2).
    """
    if len(dispersion) < 2:
        return 1.0, 0.0
    # a peak without residuals has no logarithm
    floor = 1e-5 * np.median(dispersion)
    if floor <= 0:
        return 1.0, np.inf
    logs = np.log(np.maximum(dispersion, floor)) - digamma(df / 2) + np.log(df / 2)
    excess = logs.var(ddof=1) - polygamma(1, df / 2).mean()
    if excess <= 0:
        # samples vary as σ² says: s₀² is the mean, which is 1 unless σ² is at its limit
        return max(1.0, float((dispersion * df).sum() / df.sum())), np.inf
    prior_df = 2 * _trigamma_inverse(float(excess))
    scale = math.exp(logs.mean() + digamma(prior_df / 2) - math.log(prior_df / 2))
    return scale, prior_df


def _trigamma_inverse(value: float) -> float:
    """Return the y with ψ'(y) = value > 0."""
    # ψ'(y) lies between 1/y and 1/y + 1/y²
    low, high = math.log(0.5 / value), math.log(1 / value + 1 / math.sqrt(value) + 1)
    return math.exp(brentq(lambda y: polygamma(1, math.exp(y)) - value, low, high))


@compiled("void(int64[::1], int32[::1], int64[::1], float64[::1], float64[:,::1], float64[:,::1])")
def _count(
    indptr: Array, indices: Array, samples: Array, x: Array, open_cells: Array, weighted: Array
) -> None:
    for i in range(len(samples)):
        for entry in range(indptr[i], indptr[i + 1]):
            open_cells[indices[entry], samples[i]] += 1
            weighted[indices[entry], samples[i]] += x[i]


@compiled("float64(float64, float64[::1], float64[::1], float64)")
def _level(total: float, cells: Array, x: Array, slope: float) -> float:
    """Return the intercept at which `total` cells are expected to be open, 0 < total < cells."""
    n = cells.sum()
    eta = math.log(total / (n - total))
    for _ in range(60):
        miss, v = total, 0.0
        for i in range(len(x)):
            m = expit(eta + slope * x[i])
            miss -= cells[i] * m
            v += cells[i] * m * (1 - m)
        # the curvature vanishes far from the solution, and the step would be too long
        step = min(max(miss / v, -3.0), 3.0) if v > 0 else 0.0
        eta += step
        if abs(step) < 1e-10:
            break
    return eta


@compiled(
    "void(float64[:,::1], float64[:,::1], float64[:,::1], int64[::1], float64[::1], float64,"
    " float64[::1], float64[::1], float64[:,::1], float64[:,::1])"
)
def _compare(
    open_cells: Array,
    weighted: Array,
    cells: Array,
    is_first: Array,
    x: Array,
    variance: float,
    z: Array,
    log_odds: Array,
    residual: Array,
    binomial: Array,
) -> None:
    """Fill z, log odds ratio (peaks), residual and binomial variance (peaks × samples)."""
    n_samples, n_bins = cells.shape
    n_cells = np.zeros(n_samples)
    for s in range(n_samples):
        n_cells[s] = cells[s].sum()
    n = n_cells.sum()
    weight = np.empty(n_samples)
    cells_by_side, all_cells, v = np.empty((2, n_bins)), np.empty(n_bins), np.empty(n_bins)
    for j in range(len(open_cells)):
        total = open_cells[j].sum()
        # a peak open in none or in all cells has nothing to compare
        if total <= 0 or total >= n:
            continue
        weight[:] = 1.0
        a, b = 0.0, 0.0
        n_in, total_in, weighted_total = 0.0, 0.0, 0.0
        # the weights follow from the fit without them
        for step in range(1 if variance == 0 else 2):
            if step == 1:
                scale = 0.0
                for s in range(n_samples):
                    value = 0.0
                    for i in range(n_bins):
                        m = expit(a + b * x[i])
                        value += cells[s, i] * m * (1 - m)
                    weight[s] = 1 / (1 + variance * value)
                    scale += weight[s] * n_cells[s] / n
                # as many weighted cells as there are, so that the half cells below stay halves
                weight /= scale
            cells_by_side[:] = 0.0
            total, n_in, total_in, weighted_total = 0.0, 0.0, 0.0, 0.0
            for s in range(n_samples):
                total += weight[s] * open_cells[j, s]
                weighted_total += weight[s] * weighted[j, s]
                if is_first[s]:
                    n_in += weight[s] * n_cells[s]
                    total_in += weight[s] * open_cells[j, s]
                for i in range(n_bins):
                    cells_by_side[is_first[s], i] += weight[s] * cells[s, i]
            all_cells[:] = cells_by_side[0] + cells_by_side[1]
            a, b = fit_null(total, weighted_total, all_cells, x)

        u, h00, h01, h11, i0, i1 = total_in, 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(n_bins):
            m = expit(a + b * x[i])
            v[i] = m * (1 - m)
            u -= cells_by_side[1, i] * m
            h00 += all_cells[i] * v[i]
            h01 += all_cells[i] * v[i] * x[i]
            h11 += all_cells[i] * v[i] * x[i] * x[i]
            i0 += cells_by_side[1, i] * v[i]
            i1 += cells_by_side[1, i] * v[i] * x[i]
        det = h00 * h11 - h01 * h01
        # below, what depth adds is rounding
        if det > 1e-12 * h00 * h11:
            alpha, beta = (i0 * h11 - i1 * h01) / det, (i1 * h00 - i0 * h01) / det
        else:
            alpha, beta = i0 / h00, 0.0
        var_u = 0.0
        for s in range(n_samples):
            squares, shift = 0.0, 0.0
            for i in range(n_bins):
                g = is_first[s] - alpha - beta * x[i]
                squares += cells[s, i] * v[i] * g * g
                shift += cells[s, i] * v[i] * g
            var_u += weight[s] * weight[s] * (squares + variance * shift * shift)
        # below, what the condition adds to depth is rounding
        if var_u > 1e-12 * i0:
            z[j] = u / math.sqrt(var_u)
        log_odds[j] = fit_log_odds_ratio(
            a, b, total, total_in, weighted_total, n_in, all_cells, cells_by_side[1], x
        )
        for side in range(2):
            side_total = total_in if side == 1 else total - total_in
            side_cells = n_in if side == 1 else all_cells.sum() - n_in
            # rounding of weighted sums
            if not 1e-9 < side_total < side_cells * (1 - 1e-12):
                continue
            eta = _level(side_total, cells_by_side[side], x, b)
            for s in range(n_samples):
                if is_first[s] == side:
                    expected, value = 0.0, 0.0
                    for i in range(n_bins):
                        m = expit(eta + b * x[i])
                        expected += cells[s, i] * m
                        value += cells[s, i] * m * (1 - m)
                    residual[j, s] = open_cells[j, s] - expected
                    binomial[j, s] = value
