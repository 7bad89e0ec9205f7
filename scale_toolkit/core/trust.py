"""Which peaks are recovered better than their frequency alone predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.special import expit, gammaln, gdtr, logsumexp

from scale_toolkit.core.recovery import contains

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Score = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[Any]]

# Hidden entries a peak is judged by.
MAX_HIDDEN_A_PEAK = 30
# Cells of like depth, on either side in the order of depth.
NEAR_CELLS = 10
# Closed entries that a rank needs.
FEWEST_CLOSED = 3
# Pseudo-observations of a peak that is not recovered, as in Stephens 2017.
NULL_PEAKS = 10
# Entries worked on at a time.
_CHUNK = 1_000_000


def within_peak_ranks(
    hidden: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]],
    opened: sparse.csr_matrix,
    depth: npt.NDArray[np.int64],
    score: Score,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Rank hidden entries among closed entries of the *same peak* in cells of like depth.

    The peak's frequency is the same in all of them and depth nearly so: if openness of a peak does
    not depend on the kind of a cell, the hidden entry and the closed ones are exchangeable, and its
    rank is uniform.

    Parameters
    ----------
    hidden
        Cells and peaks of hidden entries.
    opened
        Every open entry, hidden or not, indices sorted.
    depth
        Open peaks of each cell that were not hidden; up to `NEAR_CELLS` on either side in its order
        are compared.
    score
        ``score(cells, peaks)``, of entries.

    Returns
    -------
    below
        Share of the closed entries that score less, equal ones by half, in [0, 1]; NaN if there are
        fewer than `FEWEST_CLOSED`.
    rank
        The rank with equal ones put in a random order and spread over (0, 1): uniform if the score
        says nothing.
    """
    n_cells = len(depth)
    # cells of equal depth in random order
    order = np.lexsort((rng.random(n_cells), depth))
    position = np.empty(n_cells, np.int64)
    position[order] = np.arange(n_cells)
    steps = np.concatenate([np.arange(-NEAR_CELLS, 0), np.arange(1, NEAR_CELLS + 1)])
    below, rank = (np.full(len(hidden[0]), np.nan) for _ in range(2))
    height = max(1, _CHUNK // len(steps))
    for start in range(0, len(below), height):
        cells, peaks = (values[start : start + height] for values in hidden)
        neighbour_positions = position[cells][:, None] + steps  # (entries, 2 NEAR_CELLS)
        inside = (neighbour_positions >= 0) & (neighbour_positions < n_cells)
        neighbours = order[np.clip(neighbour_positions, 0, n_cells - 1)]
        columns = np.repeat(peaks, len(steps))
        is_open = contains(opened, neighbours.ravel(), columns).reshape(neighbours.shape)
        is_closed = inside & ~is_open
        scores = score(neighbours.ravel(), columns).reshape(neighbours.shape)
        hidden_score = score(cells, peaks)[:, None]
        n_less = ((scores < hidden_score) & is_closed).sum(1)
        n_equal = ((scores == hidden_score) & is_closed).sum(1)
        n_closed = is_closed.sum(1)
        enough = n_closed >= FEWEST_CLOSED
        rows = slice(start, start + len(cells))
        below[rows] = np.where(enough, (n_less + n_equal / 2) / np.maximum(n_closed, 1), np.nan)
        random_order = rng.random(len(cells)) * (n_equal + 1)
        rank[rows] = np.where(enough, (n_less + random_order) / (n_closed + 1), np.nan)
    return below, rank


def false_sign_rates(
    peaks: npt.NDArray[np.int64], rank: npt.NDArray[np.float64], group: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the chance that a peak is recovered *no* better than by its frequency.

    A rank u of a hidden entry (`within_peak_ranks`) has the density α_j u^(α_j − 1) (Lehmann 1953):
    α_j = 1 says nothing beyond frequency, and α_j / (1 + α_j) is the AUROC within the peak. Among
    the peaks of a group, a share π has α_j = 1 and the others a gamma distribution of mean above 1;
    the three numbers are found by maximum likelihood (empirical Bayes), with the weight of
    `NULL_PEAKS` peaks in favour of π. The gamma is conjugate to −log u, so the rest is exact: a
    peak with many hidden entries is judged by them, one with few or none leans on its group. The
    result is P(α_j ≤ 1 | all), the local false sign rate of Stephens 2017 (Biostatistics 18:275).

    Parameters
    ----------
    peaks, rank
        Peak and rank of each hidden entry; NaN ranks are left out.
    group
        Group of each peak, (peaks,) int.

    Returns
    -------
    (peaks,) float64, in [0, 1].
    """
    known = np.isfinite(rank)
    # a rank of 0 would be infinitely surprising
    surprise = -np.log(np.clip(rank[known], 1e-12, 1))
    n_hidden = np.bincount(peaks[known], minlength=len(group)).astype(np.float64)
    total = np.bincount(peaks[known], surprise, len(group)).astype(np.float64)
    rates = np.ones(len(group))
    for number in np.unique(group):
        members = np.flatnonzero(group == number)
        if n_hidden[members].sum() > 0:
            rates[members] = _false_sign_rates(n_hidden[members], total[members])
    return rates


def _false_sign_rates(
    n_hidden: npt.NDArray[np.float64], total: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    from scipy.optimize import minimize

    def split(x: npt.NDArray[np.float64]) -> tuple[float, float, float]:
        # any three numbers become a share, a mean above 1 and a positive shape
        null, mean, shape = expit(x[0]), 1 + np.exp(x[1]), np.exp(x[2])
        return null, shape, shape / mean

    def loss(x: npt.NDArray[np.float64]) -> float:
        log_null, log_slab = _log_weights(n_hidden, total, *split(x))
        likelihood = np.logaddexp(log_null, log_slab).sum()
        # the last term keeps the three finite where the entries do not determine them
        return float(-likelihood - NULL_PEAKS * np.log(split(x)[0]) + 1e-3 * (x**2).sum())

    # shares 0.0003 to 0.9997, means 1.007 to 21, shapes 0.14 to 400
    bounds = [(-8, 8), (-5, 3), (-2, 6)]
    # few and many null peaks: the likelihood can have a maximum at either
    starts = [np.array([start, -0.7, 2.0]) for start in (-1.0, 1.0)]
    fits = [minimize(loss, x, method="L-BFGS-B", bounds=bounds) for x in starts]
    best = min(fits, key=lambda fit: float(fit.fun)).x
    return no_better(n_hidden, total, *split(best))


def _log_weights(
    n_hidden: npt.NDArray[np.float64],
    total: npt.NDArray[np.float64],
    null: float,
    shape: float,
    rate: float,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the log of share times likelihood, for α = 1 and for the gamma distribution."""
    slab = shape * np.log(rate) - gammaln(shape) + gammaln(shape + n_hidden)
    slab = slab - (shape + n_hidden) * np.log(rate + total)
    return np.log(null) - total, np.log1p(-null) + slab


def no_better(
    n_hidden: npt.NDArray[np.float64],
    total: npt.NDArray[np.float64],
    null: float,
    shape: float,
    rate: float,
) -> npt.NDArray[np.float64]:
    """Return P(α ≤ 1) of peaks with `n_hidden` hidden entries and Σ −log u = `total`.

    α is 1 with chance `null`, else gamma distributed with `shape` and `rate`.
    """
    log_null, log_slab = _log_weights(n_hidden, total, null, shape, rate)
    in_slab = np.exp(log_slab - logsumexp([log_null, log_slab], axis=0))
    return np.asarray(1 - in_slab * (1 - gdtr(rate + total, shape + n_hidden, 1.0)))


def trusted(rates: npt.NDArray[np.float64], level: float) -> npt.NDArray[np.bool_]:
    """Return which peaks are trusted, (peaks,) bool.

    They are the surest ones, as many as have a mean false sign rate of at most `level`.
    """
    order = np.argsort(rates, kind="stable")
    running = np.cumsum(rates[order]) / np.arange(1, len(rates) + 1)
    # the running mean of a rising series rises
    n_trusted = int(np.searchsorted(running > level, 1))
    result = np.zeros(len(rates), bool)
    result[order[:n_trusted]] = True
    return result


def like_peaks(
    frequency: npt.NDArray[np.int64],
    spread: npt.NDArray[np.float64],
    size: int = 200,
    most: int = 5,
) -> npt.NDArray[np.int64]:
    """Return groups of peaks of like frequency and like spread of their logits over cells.

    A group has at least `size` peaks; there are at most `most` groups of frequency, and in each at
    most `most` of spread.
    """
    n_outer = int(np.clip(len(frequency) // size, 1, most))
    outer = _quantile_groups(frequency, n_outer)
    group = np.zeros(len(frequency), np.int64)
    for number in range(n_outer):
        members = outer == number
        n_inner = int(np.clip(members.sum() // size, 1, most))
        group[members] = number * most + _quantile_groups(spread[members], n_inner)
    return group


def _quantile_groups(values: npt.NDArray[Any], n_groups: int) -> npt.NDArray[np.int64]:
    order = np.argsort(values, kind="stable")
    group = np.empty(len(values), np.int64)
    group[order] = np.arange(len(values)) * n_groups // max(len(values), 1)
    return group
