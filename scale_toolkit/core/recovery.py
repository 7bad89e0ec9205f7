"""How well hidden open peaks are recovered, and how far a probability can be taken at its word.

Some open entries (cell, peak) are hidden before a model is trained or shown its cells; afterwards an entry that looks closed is
either hidden or truly closed, and a good model gives the hidden ones more. Everything here is computed at sampled entries,
never on a dense cells × peaks array.

**Matched sets.** Hidden entries are mostly those of frequent peaks, so the frequency of a peak alone tells them from random
closed ones. *Matched*, each hidden entry meets `SET_SIZE` closed ones of the same cell at peaks of the same frequency (counted
on what is left, which holds none of them), and a score only has to order the set: AUROC is the share of closed entries below
the hidden one, AUPRC the average precision, which with one hidden entry is 1 / its rank. Both are means over sets. Pooling the
sets into one ranking would bring frequency back: a calibrated probability sorts all entries by frequency and depth first, so
the top of one long list holds as many closed as hidden entries however well each set is ordered.

**Calibration.** Let X be open (1) or closed (0), and X' what is left when each open entry is hidden with probability q. A model
of X' says p' = P(X' = 1) = (1 − q) P, P = P(X = 1). What can be observed at an entry with X' = 0 is whether it was hidden:

    P(hidden | X' = 0) = P(X = 1, X' = 0) / P(X' = 0) = q P / (1 − (1 − q) P) = q/(1 − q) · p' / (1 − p')

so the chance to be a hidden one is the odds of p' times q/(1 − q): not p' and not P. Its logit is close to that of p' where
peaks are rarely open, and a model whose loadings are too large or too small shows as a slope other than 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.special import expit, gammaln, gdtr, logsumexp

from scale_toolkit.core.rows import keep_entries
from scale_toolkit.core.weighting import fit_weighting

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_CELLS = 10_000  # cells that are scored: random ones where there are more
MAX_HIDDEN = 200_000  # hidden entries scored against closed ones: random ones where there are more
SET_SIZE = 9  # closed entries each of them is compared with
CHANCE_AUPRC = float(np.mean(1 / np.arange(1, SET_SIZE + 2)))  # of a score that says nothing: mean of 1 / rank
MAX_CLOSED = 2_000_000  # random closed entries the calibration is judged on
MAX_HIDDEN_A_PEAK = 30  # hidden entries a peak is judged by
NEAR_PEAKS = 50  # peaks of one frequency: so many neighbours in its order; a hundredth of few peaks, but ten
NEAR_CELLS = 10  # and a cell of like depth in the order of depth
FEWEST = 5  # hidden entries of a cell or a cluster below which it gets no figure of its own
BINS = 10
_CHUNK = 1_000_000  # entries worked on at a time


@dataclass(frozen=True)
class Entries:
    """Sampled entries of a cells × peaks matrix that look closed.

    Attributes
    ----------
    cells, peaks
        Row and column of each entry, int64.
    hidden
        Whether the entry is open and was hidden; else it is closed.
    weight
        How many entries it stands for.
    """

    cells: np.ndarray
    peaks: np.ndarray
    hidden: np.ndarray
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.cells)


def thin_counts(counts: sparse.csr_matrix, share: float, rng: np.random.Generator) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Take out each read with probability `share`: the counts left, and which of the stored entries vanished."""
    left = rng.binomial(counts.data.astype(np.int64), 1 - share)
    whole = sparse.csr_matrix((left.astype(counts.dtype), counts.indices, counts.indptr), counts.shape)
    return keep_entries(whole, left > 0), left == 0


def contains(rows: sparse.csr_matrix, cells: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Whether each (cell, peak) is a stored entry of `rows`, whose indices must be sorted: bool, by bisection."""
    low, high = rows.indptr[cells].astype(np.int64), rows.indptr[cells + 1].astype(np.int64)
    end = high.copy()
    while (open_ := low < high).any():
        middle = (low + high) // 2
        below = np.zeros(len(low), bool)
        below[open_] = rows.indices[middle[open_]] < peaks[open_]
        low, high = np.where(open_ & below, middle + 1, low), np.where(open_ & ~below, middle, high)
    found = low < end
    found[found] = rows.indices[low[found]] == peaks[found]
    return found


def entries_of(rows: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every stored entry, int64."""
    return np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr)), rows.indices.astype(np.int64)


@dataclass(frozen=True)
class Sets:
    """Hidden entries, each with `SET_SIZE` closed ones of the same cell.

    Attributes
    ----------
    cells
        Cell of each set, (sets,).
    peaks
        Peaks of its entries, (sets, 1 + SET_SIZE); the hidden one is the first.
    """

    cells: np.ndarray
    peaks: np.ndarray

    def __len__(self) -> int:
        return len(self.cells)

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Cell and peak of every entry, a set after the other."""
        return np.repeat(self.cells, self.peaks.shape[1]), self.peaks.ravel()


def matched(
    hidden: tuple[np.ndarray, np.ndarray], opened: sparse.csr_matrix, frequency: np.ndarray, rng: np.random.Generator
) -> Sets:
    """Each hidden entry with closed ones of the same cell, at peaks of the same or nearly the same frequency.

    Parameters
    ----------
    hidden
        Cells and peaks of hidden entries.
    opened
        Every open entry, hidden or not, indices sorted.
    frequency
        Open cells of each peak in what is left, (peaks,). In their order, equal ones at random, peaks fall into groups of
        `NEAR_PEAKS` (fewer of few peaks), and matches are drawn from a peak's own group, with replacement. A hidden entry for
        which none is found there is left out.
    """
    n_peaks = opened.shape[1]
    order = np.lexsort((rng.random(n_peaks), frequency))
    place = np.empty(n_peaks, np.int64)
    place[order] = np.arange(n_peaks)

    # fixed groups, not the nearest on either side: a hidden peak in the middle of its set would be known by its frequency
    n_groups = max(n_peaks // int(np.clip(n_peaks // 100, 10, NEAR_PEAKS)), 1)
    first = np.arange(n_groups + 1) * n_peaks // n_groups
    group = np.searchsorted(first, place, side="right") - 1

    def draw(peaks: np.ndarray) -> np.ndarray:
        of = group[peaks]
        return order[rng.integers(first[of], first[of + 1])]

    return _sets(hidden, opened, draw)


def unmatched(hidden: tuple[np.ndarray, np.ndarray], opened: sparse.csr_matrix, rng: np.random.Generator) -> Sets:
    """Each hidden entry with closed ones of the same cell, at any peaks."""
    return _sets(hidden, opened, lambda peaks: rng.integers(0, opened.shape[1], len(peaks)))


def _sets(hidden, opened: sparse.csr_matrix, draw: Callable[[np.ndarray], np.ndarray], tries: int = 50) -> Sets:
    cells, own = (np.repeat(part, SET_SIZE) for part in hidden)
    closed = np.full(len(cells), -1, np.int64)
    left = np.arange(len(cells))
    for _ in range(tries):
        if len(left) == 0:
            break
        drawn = draw(own[left])
        good = ~contains(opened, cells[left], drawn)
        closed[left[good]] = drawn[good]
        left = left[~good]
    closed = closed.reshape(-1, SET_SIZE)
    found = (closed >= 0).all(1)
    return Sets(hidden[0][found], np.column_stack([hidden[1], closed])[found])


def random_closed(
    opened: sparse.csr_matrix, n: int, rng: np.random.Generator, tries: int = 50
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """About `n` random closed entries, as many of each cell: cells, peaks, and how many each stands for.

    Drawn with replacement; a cell without a closed entry has none.
    """
    n_cells, n_peaks = opened.shape
    cells = np.repeat(np.arange(n_cells), max(n // n_cells, 1))
    peaks = rng.integers(0, n_peaks, len(cells))
    left = np.arange(len(cells))
    for _ in range(tries):
        left = left[contains(opened, cells[left], peaks[left])]
        if len(left) == 0:
            break
        peaks[left] = rng.integers(0, n_peaks, len(left))
    keep = np.ones(len(cells), bool)
    keep[left[contains(opened, cells[left], peaks[left])]] = False
    cells, peaks = cells[keep], peaks[keep]
    per_cell = np.bincount(cells, minlength=n_cells)
    closed = n_peaks - np.diff(opened.indptr)
    return cells, peaks, (closed / np.maximum(per_cell, 1))[cells]


def natural(
    hidden: tuple[np.ndarray, np.ndarray, np.ndarray], opened: sparse.csr_matrix, n_closed: int, rng: np.random.Generator
) -> Entries:
    """Hidden entries (cells, peaks, weight) beside random closed ones, weighted to stand for all that look closed."""
    cells, peaks, weight = random_closed(opened, n_closed, rng)
    return Entries(
        np.concatenate([hidden[0], cells]),
        np.concatenate([hidden[1], peaks]),
        np.repeat([True, False], [len(hidden[0]), len(cells)]),
        np.concatenate([hidden[2], weight]),
    )


# ---- scores of entries


def model_logits(
    hidden: np.ndarray, weights: np.ndarray, bias: np.ndarray, offset: np.ndarray, cells: np.ndarray, peaks: np.ndarray
) -> np.ndarray:
    """w_j · h_i + b_j + s_i at entries (cells, peaks), float64; arrays as in `decode.Decoder`."""
    return bias[peaks].astype(np.float64) + offset[cells] + products(hidden, weights, cells, peaks)


def products(left: np.ndarray, right: np.ndarray, cells: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Entries of ``left @ right.T`` at (cells, peaks), float64."""
    result = np.empty(len(cells))
    for start in range(0, len(cells), _CHUNK):
        part = slice(start, start + _CHUNK)
        result[part] = np.einsum("nd,nd->n", left[cells[part]], right[peaks[part]], dtype=np.float64)
    return result


def neighbour_average(
    rows: sparse.csr_matrix,
    latent: np.ndarray,
    scored: np.ndarray,
    n_neighbors: int,
    entries: list[tuple[np.ndarray, np.ndarray]],
) -> list[np.ndarray]:
    """Share of a cell's nearest cells in latent space that have the peak open, itself left out.

    Parameters
    ----------
    rows
        What is left open, all cells × peaks, ones.
    latent
        All cells × latent.
    scored
        Which cells those of `entries` are, by their number.
    n_neighbors
        So many, where there are as many others.
    entries
        Cells (numbers of `scored`) and peaks where the averages are wanted.
    """
    from sklearn.neighbors import NearestNeighbors

    n = min(n_neighbors, len(latent) - 1)
    near = NearestNeighbors(n_neighbors=n + 1).fit(latent).kneighbors(latent[scored], return_distance=False)
    others = near != scored[:, None]
    others &= np.cumsum(others, 1) <= n  # a cell that is not its own nearest, by ties, loses the farthest
    which = near[others]
    lengths = others.sum(1)
    average = sparse.csr_matrix(
        (np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32), which, np.concatenate([[0], np.cumsum(lengths)])),
        (len(scored), len(latent)),
    )
    orders = [np.argsort(cells, kind="stable") for cells, _ in entries]
    bounds = [
        np.searchsorted(cells[order], np.arange(len(scored) + 1)) for (cells, _), order in zip(entries, orders, strict=True)
    ]
    results = [np.zeros(len(cells), np.float32) for cells, _ in entries]
    height = max(1, 4_000_000 // rows.shape[1])
    for start in range(0, len(scored), height):
        stop = min(start + height, len(scored))
        dense = (average[start:stop] @ rows).toarray()
        for (cells, peaks), order, bound, result in zip(entries, orders, bounds, results, strict=True):
            here = order[bound[start] : bound[stop]]
            result[here] = dense[cells[here] - start, peaks[here]]
    return results


def tfidf_svd(rows: sparse.csr_matrix, n_components: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors (cells, n), (peaks, n) of the truncated SVD of log1p(10⁴ · tf · idf) of open peaks; their product rebuilds it."""
    from sklearn.utils.extmath import randomized_svd

    weighted = fit_weighting(rows.shape[0], np.bincount(rows.indices, minlength=rows.shape[1]))(rows)
    n = min(n_components, min(rows.shape) - 1)
    left, size, right = randomized_svd(weighted, max(n, 1), n_iter=4, random_state=seed)
    return left * size, right.T


# ---- figures


def set_ranks(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUPRC and AUROC of each set: average precision of its hidden entry, share of its closed entries below.

    Equal scores are in every order: a mean over them, so that a constant score has exactly the figures of chance.

    Parameters
    ----------
    scores
        (sets, 1 + closed), that of the hidden entry first.
    """
    own, others = scores[:, :1], scores[:, 1:]
    above, equal = (others > own).sum(1), (others == own).sum(1)
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, scores.shape[1] + 1))])
    auprc = (harmonic[above + equal + 1] - harmonic[above]) / (equal + 1)
    return auprc, 1 - (above + equal / 2) / others.shape[1]


def means_by(group: np.ndarray, n_groups: int, values: np.ndarray, fewest: int = FEWEST) -> np.ndarray:
    """Mean of `values` in each group, (n_groups,); NaN where there are fewer than `fewest`. Negative groups are left out."""
    chosen = (group >= 0) & np.isfinite(values)
    n = np.bincount(group[chosen], minlength=n_groups)
    total = np.bincount(group[chosen], values[chosen], n_groups)
    return np.where(n >= fewest, total / np.maximum(n, 1), np.nan)


def hidden_log_odds(logits: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """Log of the predicted chance that an entry that looks closed is a hidden one: log(q/(1 − q)) + logit(p'), at most 0."""
    return np.minimum(np.log(share) - np.log1p(-np.asarray(share)) + logits, -1e-6)


def calibration(chance: np.ndarray, hidden: np.ndarray, weight: np.ndarray, n_bins: int = BINS) -> dict[str, Any]:
    """Reliability of predicted chances: what was seen in bins of equal mass, the calibration error, slope and intercept.

    Parameters
    ----------
    chance
        Predicted chance of each entry to be hidden, in (0, 1).
    hidden, weight
        What it was, and how many entries it stands for.
    n_bins
        Bins in the order of chance, each holding an equal part of the *predicted hidden peaks* Σ weight · chance: bins of
        equally many entries would be all but empty of hidden ones below the median.

    Returns
    -------
    ``predicted`` and ``observed``: mean chance and share of hidden entries in each bin; ``ratio``, the second over the first;
    ``error``, the standard error of that ratio by the number of hidden entries; ``ece``, Σ |observed − predicted| over bins,
    weighted by entries; ``relative_ece``, the same by predicted hidden peaks, relative to the prediction; ``slope`` and
    ``intercept`` of the logistic regression of what was seen on the logit of the chance (Cox 1958): 1 and 0 if calibrated.
    """
    order = np.argsort(chance, kind="stable")
    chance, hidden, weight = chance[order], hidden[order].astype(np.float64), weight[order]
    mass = np.cumsum(weight * chance)
    of = np.minimum((mass - weight * chance / 2) / mass[-1] * n_bins, n_bins - 1e-9).astype(int)
    entries, expected = np.bincount(of, weight, n_bins), np.bincount(of, weight * chance, n_bins)
    seen = np.bincount(of, weight * hidden, n_bins)
    squares = np.bincount(of, (weight * hidden) ** 2, n_bins)
    filled = entries > 0
    entries, expected, seen, squares = entries[filled], expected[filled], seen[filled], squares[filled]
    slope, intercept = cox(np.log(chance) - np.log1p(-chance), hidden, weight)
    return {
        "predicted": (expected / entries).tolist(),
        "observed": (seen / entries).tolist(),
        "ratio": (seen / expected).tolist(),
        "error": (np.sqrt(squares) / expected).tolist(),
        "ece": float(np.abs(seen - expected).sum() / entries.sum()),
        "relative_ece": float(np.abs(seen - expected).sum() / expected.sum()),
        "slope": slope,
        "intercept": intercept,
    }


def cox(logits: np.ndarray, hidden: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of a weighted logistic regression of `hidden` on `logits`, by Newton steps."""
    if not 0 < (weight * hidden).sum() < weight.sum() or np.ptp(logits) == 0:
        return float("nan"), float("nan")
    centre = np.average(logits, weights=weight)
    x = np.stack([logits - centre, np.ones(len(logits))])
    beta = np.array([1.0, centre])
    for _ in range(50):
        p = expit(beta @ x)
        gradient = x @ (weight * (hidden - p))
        step = np.linalg.solve((x * (weight * p * (1 - p))) @ x.T, gradient)
        beta += np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-9:
            break
    return float(beta[0]), float(beta[1] - beta[0] * centre)


# ---- trust in single peaks


def within_peak_ranks(
    hidden: tuple[np.ndarray, np.ndarray],
    opened: sparse.csr_matrix,
    depth: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Where does a hidden entry rank among closed entries of the *same peak* in cells of like depth?

    The peak's frequency is the same in all of them and depth nearly so: where openness of a peak does not depend on the kind
    of a cell, the hidden entry and the closed ones are exchangeable, and its rank is uniform.

    Parameters
    ----------
    hidden
        Cells and peaks of hidden entries.
    opened
        Every open entry, hidden or not, indices sorted.
    depth
        Open peaks of each cell in what is left; up to `NEAR_CELLS` on either side in its order are compared.
    score
        ``score(cells, peaks)``, of entries.

    Returns
    -------
    below
        Share of the closed entries that score less, equal ones by half, in [0, 1]; NaN where there are fewer than three.
    rank
        The rank with equal ones put in a random order and spread over (0, 1): uniform where the score says nothing.
    """
    n_cells = len(depth)
    order = np.lexsort((rng.random(n_cells), depth))
    place = np.empty(n_cells, np.int64)
    place[order] = np.arange(n_cells)
    steps = np.concatenate([np.arange(-NEAR_CELLS, 0), np.arange(1, NEAR_CELLS + 1)])
    below, rank = (np.full(len(hidden[0]), np.nan) for _ in range(2))
    height = max(1, _CHUNK // len(steps))
    for start in range(0, len(below), height):
        cells, peaks = (part[start : start + height] for part in hidden)
        at = place[cells][:, None] + steps
        inside = (at >= 0) & (at < n_cells)
        others = order[np.clip(at, 0, n_cells - 1)]
        column = np.repeat(peaks, len(steps))
        closed = inside & ~contains(opened, others.ravel(), column).reshape(others.shape)
        scores = score(others.ravel(), column).reshape(others.shape)
        own = score(cells, peaks)[:, None]
        less, equal, total = ((part & closed).sum(1) for part in (scores < own, scores == own, np.ones_like(closed)))
        enough = total >= 3
        part = slice(start, start + len(cells))
        below[part] = np.where(enough, (less + equal / 2) / np.maximum(total, 1), np.nan)
        rank[part] = np.where(enough, (less + rng.random(len(cells)) * (equal + 1)) / (total + 1), np.nan)
    return below, rank


def false_sign_rates(peaks: np.ndarray, rank: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Chance that a peak is recovered *no* better than by its frequency, given its hidden entries and those of like peaks.

    A rank u of a hidden entry (`within_peak_ranks`) has the density α_j u^(α_j − 1) (Lehmann 1953): α_j = 1 says nothing
    beyond frequency, and α_j / (1 + α_j) is the AUROC within the peak. Among the peaks of a group, a share π has α_j = 1 and
    the others a gamma distribution of mean above 1; the three numbers are found by maximum likelihood (empirical Bayes), with
    the weight of ten peaks in favour of π. The gamma is conjugate to −log u, so the rest is exact: a peak with many hidden
    entries is judged by them, one with few or none leans on its group. The result is P(α_j ≤ 1 | all), the local false sign
    rate of Stephens 2017 (Biostatistics 18:275).

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
    surprise = -np.log(np.clip(rank[known], 1e-12, 1))
    n = np.bincount(peaks[known], minlength=len(group)).astype(float)
    total = np.bincount(peaks[known], surprise, len(group))
    rates = np.ones(len(group))
    for one in np.unique(group):
        here = np.flatnonzero(group == one)
        if n[here].sum() > 0:
            rates[here] = _false_sign_rates(n[here], total[here])
    return rates


NULL_PEAKS = 10  # pseudo-observations of a peak that is recovered no better than by frequency, as in Stephens 2017


def _false_sign_rates(n: np.ndarray, total: np.ndarray) -> np.ndarray:
    from scipy.optimize import minimize

    def parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float, float]:
        null, mean, shape = expit(x[0]), 1 + np.exp(x[1]), np.exp(x[2])
        rate = shape / mean
        slab = shape * np.log(rate) - gammaln(shape) + gammaln(shape + n) - (shape + n) * np.log(rate + total)
        return np.log(null) - total, np.log1p(-null) + slab, null, shape, rate

    def loss(x: np.ndarray) -> float:
        a, b, null, *_ = parts(x)
        return -np.logaddexp(a, b).sum() - NULL_PEAKS * np.log(null) + 1e-3 * (x**2).sum()

    bounds = [(-8, 8), (-5, 3), (-2, 6)]
    starts = [np.array([start, -0.7, 2.0]) for start in (-1.0, 1.0)]
    best = min((minimize(loss, x, method="L-BFGS-B", bounds=bounds) for x in starts), key=lambda found: found.fun).x
    *_, null, shape, rate = parts(best)
    return no_better(n, total, null, shape, rate)


def no_better(n: np.ndarray, total: np.ndarray, null: float, shape: float, rate: float) -> np.ndarray:
    """P(α ≤ 1) of peaks with `n` hidden entries and Σ −log u = `total`: α is 1 with chance `null`, else gamma distributed."""
    slab = shape * np.log(rate) - gammaln(shape) + gammaln(shape + n) - (shape + n) * np.log(rate + total)
    log_null, log_slab = np.log(null) - total, np.log1p(-null) + slab
    in_slab = np.exp(log_slab - logsumexp([log_null, log_slab], axis=0))
    return 1 - in_slab * (1 - gdtr(rate + total, shape + n, 1.0))


def trusted(rates: np.ndarray, level: float) -> np.ndarray:
    """Which peaks are trusted: the most whose mean false sign rate is at most `level`, the surest first; (peaks,) bool."""
    order = np.argsort(rates, kind="stable")
    running = np.cumsum(rates[order]) / np.arange(1, len(rates) + 1)
    n = int(np.searchsorted(running > level, 1))  # the running mean of a rising series rises
    result = np.zeros(len(rates), bool)
    result[order[:n]] = True
    return result


def like_peaks(frequency: np.ndarray, spread: np.ndarray, size: int = 200, most: int = 5) -> np.ndarray:
    """Groups of peaks of like frequency and like spread of their logits over cells, of `size` or more: (peaks,) int."""
    n = len(frequency)
    outer = int(np.clip(n // size, 1, most))
    first = _quantile_groups(frequency, outer)
    group = np.zeros(n, np.int64)
    for one in range(outer):
        here = first == one
        inner = int(np.clip(here.sum() // size, 1, most))
        group[here] = one * most + _quantile_groups(spread[here], inner)
    return group


def _quantile_groups(values: np.ndarray, n: int) -> np.ndarray:
    order = np.argsort(values, kind="stable")
    group = np.empty(len(values), np.int64)
    group[order] = np.arange(len(values)) * n // max(len(values), 1)
    return group


# ---- meta-cells


def metacell_correlation(
    opened: sparse.csr_matrix, cluster: np.ndarray, cells: np.ndarray, decode: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Pearson correlation of cells, as measured and as imputed, with the meta-cell of their cluster (Xiong et al. 2019).

    A meta-cell is the mean of a cluster's open peaks over its cells; the cell itself is left out of it.

    Parameters
    ----------
    opened
        Open peaks, cells × peaks, ones.
    cluster
        Cluster of each cell, int; negative: none.
    cells
        Which cells to look at.
    decode
        ``decode(cells)``: their imputed values, (cells, peaks).

    Returns
    -------
    Of the measured and of the imputed profiles, one a cell; NaN for a cell alone in its cluster, or in none.
    """
    n_clusters = cluster.max(initial=-1) + 1
    of = _membership(cluster, n_clusters)
    sums, sizes = (of @ opened).toarray().astype(np.float64), np.asarray(of.sum(1)).ravel()
    raw, imputed = (np.full(len(cells), np.nan) for _ in range(2))
    height = max(1, 4_000_000 // opened.shape[1])
    for start in range(0, len(cells), height):
        index = cells[start : start + height]
        own = opened[index].toarray().astype(np.float64)
        fine = (cluster[index] >= 0) & (sizes[np.maximum(cluster[index], 0)] > 1) if n_clusters else np.zeros(len(index), bool)
        if not fine.any():
            continue
        meta = (sums[cluster[index[fine]]] - own[fine]) / (sizes[cluster[index[fine]], None] - 1)
        at = start + np.flatnonzero(fine)
        raw[at] = _row_correlation(own[fine], meta)
        imputed[at] = _row_correlation(decode(index[fine]).astype(np.float64), meta)
    return raw, imputed


def _membership(cluster: np.ndarray, n_clusters: int) -> sparse.csr_matrix:
    known = np.flatnonzero(cluster >= 0)
    return sparse.csr_matrix(
        (np.ones(len(known), np.float32), (cluster[known], known)), (n_clusters, len(cluster)), dtype=np.float32
    )


def _row_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (part - part.mean(1, keepdims=True) for part in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
