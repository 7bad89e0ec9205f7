"""How well hidden open peaks are recovered.

Some open entries (cell, peak) are hidden before a model is trained or shown its cells; afterwards
an entry that looks closed is either hidden or truly closed, and a good model gives the hidden ones
more. Everything is computed at sampled entries, never on a dense cells × peaks array.

**Matched sets.** Hidden entries are mostly those of frequent peaks, so the frequency of a peak
alone separates them from random closed ones. *Matched*, each hidden entry is compared with
`SET_SIZE` closed ones of the same cell at peaks of the same frequency (counted on the entries that
were not hidden, which hold none of them), and a score only has to order the set: AUROC is the share
of closed entries below the hidden one, AUPRC the average precision, which with one hidden entry is
1 / its rank. Both are means over sets. Pooling the sets into one ranking would bring frequency
back: a calibrated probability sorts all entries by frequency and depth first, so the top of one
long list holds as many closed as hidden entries however well each set is ordered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit.core.rows import keep_entries
from scale_toolkit.core.weighting import fit_weighting

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Index = npt.NDArray[np.int64]
    Pairs = tuple[Index, Index]

# Closed entries that a hidden one is compared with.
SET_SIZE = 9
# Of a random score: mean of 1 / rank.
CHANCE_AUPRC = float(np.mean(1 / np.arange(1, SET_SIZE + 2)))
# Peaks in a group of one frequency; a hundredth of few peaks, but at least ten.
NEAR_PEAKS = 50
# Hidden entries of a cell or a cluster below which it gets no figure of its own.
FEWEST = 5
# Draws of a closed entry before a hidden one is left out.
_TRIES = 50
# Entries worked on at a time.
_CHUNK = 1_000_000
_VALUES_A_BLOCK = 4_000_000


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

    cells: Index
    peaks: Index
    hidden: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.cells)


def thin_counts(
    counts: sparse.csr_matrix, share: float, rng: np.random.Generator
) -> tuple[sparse.csr_matrix, npt.NDArray[np.bool_]]:
    """Take out each read with probability `share`.

    Returns
    -------
    The remaining counts, and which of the stored entries have none left.
    """
    remaining = rng.binomial(counts.data.astype(np.int64), 1 - share)
    thinned = sparse.csr_matrix(
        (remaining.astype(counts.dtype), counts.indices, counts.indptr), counts.shape
    )
    return keep_entries(thinned, remaining > 0), remaining == 0


def contains(rows: sparse.csr_matrix, cells: Index, peaks: Index) -> npt.NDArray[np.bool_]:
    """Return whether each (cell, peak) is a stored entry, by bisection.

    The indices of `rows` must be sorted.
    """
    low, high = rows.indptr[cells].astype(np.int64), rows.indptr[cells + 1].astype(np.int64)
    end = high.copy()
    while (searching := low < high).any():
        middle = (low + high) // 2
        below = np.zeros(len(low), bool)
        below[searching] = rows.indices[middle[searching]] < peaks[searching]
        low, high = (
            np.where(searching & below, middle + 1, low),
            np.where(searching & ~below, middle, high),
        )
    is_stored = low < end
    is_stored[is_stored] = rows.indices[low[is_stored]] == peaks[is_stored]
    return np.asarray(is_stored)


def entries_of(rows: sparse.csr_matrix) -> Pairs:
    """Return row and column of every stored entry, int64."""
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

    cells: Index
    peaks: Index

    def __len__(self) -> int:
        return len(self.cells)

    def entries(self) -> Pairs:
        """Cell and peak of every entry, one set after the other."""
        return np.repeat(self.cells, self.peaks.shape[1]), self.peaks.ravel()


def matched(
    hidden: Pairs, opened: sparse.csr_matrix, frequency: Index, rng: np.random.Generator
) -> Sets:
    """Pair each hidden entry with closed ones of the same cell, at peaks of like frequency.

    Parameters
    ----------
    hidden
        Cells and peaks of hidden entries.
    opened
        Every open entry, hidden or not, indices sorted.
    frequency
        Open cells of each peak among the entries that were not hidden, (peaks,). In their order,
        equal ones at random, peaks fall into groups of `NEAR_PEAKS` (fewer of few peaks), and
        matches are drawn from a peak's own group, with replacement. A hidden entry without a match
        in its group is left out.
    """
    n_peaks = opened.shape[1]
    order = np.lexsort((rng.random(n_peaks), frequency))
    position = np.empty(n_peaks, np.int64)
    position[order] = np.arange(n_peaks)

    # fixed groups, not the nearest on either side: a hidden peak in the middle of its set would be
    # known by its frequency
    n_groups = max(n_peaks // int(np.clip(n_peaks // 100, 10, NEAR_PEAKS)), 1)
    first = np.arange(n_groups + 1) * n_peaks // n_groups
    group = np.searchsorted(first, position, side="right") - 1

    def draw(peaks: Index) -> Index:
        groups = group[peaks]
        return np.asarray(order[rng.integers(first[groups], first[groups + 1])])

    return _sets(hidden, opened, draw)


def unmatched(hidden: Pairs, opened: sparse.csr_matrix, rng: np.random.Generator) -> Sets:
    """Pair each hidden entry with closed ones of the same cell, at any peaks."""
    return _sets(hidden, opened, lambda peaks: rng.integers(0, opened.shape[1], len(peaks)))


def _sets(hidden: Pairs, opened: sparse.csr_matrix, draw: Callable[[Index], Index]) -> Sets:
    cells, hidden_peaks = (np.repeat(values, SET_SIZE) for values in hidden)
    drawn_peaks = np.full(len(cells), -1, np.int64)
    remaining = np.arange(len(cells))
    for _ in range(_TRIES):
        if len(remaining) == 0:
            break
        drawn = draw(hidden_peaks[remaining])
        good = ~contains(opened, cells[remaining], drawn)
        drawn_peaks[remaining[good]] = drawn[good]
        remaining = remaining[~good]
    closed = drawn_peaks.reshape(-1, SET_SIZE)
    complete = (closed >= 0).all(1)
    return Sets(hidden[0][complete], np.column_stack([hidden[1], closed])[complete])


def random_closed(
    opened: sparse.csr_matrix, n: int, rng: np.random.Generator
) -> tuple[Index, Index, npt.NDArray[np.float64]]:
    """Draw about `n` random closed entries, the same number of each cell, with replacement.

    Returns
    -------
    Cells, peaks, and how many entries each stands for. A cell without a closed entry has none.
    """
    n_cells, n_peaks = opened.shape
    cells = np.repeat(np.arange(n_cells), max(n // n_cells, 1))
    peaks = rng.integers(0, n_peaks, len(cells))
    remaining = np.arange(len(cells))
    for _ in range(_TRIES):
        remaining = remaining[contains(opened, cells[remaining], peaks[remaining])]
        if len(remaining) == 0:
            break
        peaks[remaining] = rng.integers(0, n_peaks, len(remaining))
    keep = np.ones(len(cells), bool)
    keep[remaining[contains(opened, cells[remaining], peaks[remaining])]] = False
    cells, peaks = cells[keep], peaks[keep]
    per_cell = np.bincount(cells, minlength=n_cells)
    closed = n_peaks - np.diff(opened.indptr)
    return cells, peaks, (closed / np.maximum(per_cell, 1))[cells]


def natural(
    hidden: tuple[Index, Index, npt.NDArray[np.float64]],
    opened: sparse.csr_matrix,
    n_closed: int,
    rng: np.random.Generator,
) -> Entries:
    """Return hidden entries (cells, peaks, weight) with random closed ones.

    The closed ones are weighted to stand for all that look closed.
    """
    cells, peaks, weight = random_closed(opened, n_closed, rng)
    return Entries(
        np.concatenate([hidden[0], cells]),
        np.concatenate([hidden[1], peaks]),
        np.repeat([True, False], [len(hidden[0]), len(cells)]),
        np.concatenate([hidden[2], weight]),
    )


def model_logits(
    hidden: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any],
    offset: npt.NDArray[Any],
    cells: Index,
    peaks: Index,
) -> npt.NDArray[np.float64]:
    """Return w_j · h_i + b_j + s_i at entries (cells, peaks); arrays as in `decode.Decoder`."""
    intercepts = bias[peaks].astype(np.float64) + offset[cells]
    return np.asarray(intercepts + products(hidden, weights, cells, peaks))


def products(
    left: npt.NDArray[Any], right: npt.NDArray[Any], cells: Index, peaks: Index
) -> npt.NDArray[np.float64]:
    """Return the entries of ``left @ right.T`` at (cells, peaks), float64."""
    result = np.empty(len(cells))
    for start in range(0, len(cells), _CHUNK):
        rows = slice(start, start + _CHUNK)
        result[rows] = np.einsum(
            "nd,nd->n", left[cells[rows]], right[peaks[rows]], dtype=np.float64
        )
    return result


def neighbour_average(
    rows: sparse.csr_matrix, average: sparse.csr_matrix, entries: list[Pairs]
) -> list[npt.NDArray[np.float32]]:
    """Return the share of a cell's nearest cells that have the peak open.

    Parameters
    ----------
    rows
        Open peaks, all cells × peaks, ones.
    average
        Scored cells × all cells, of `separation.nearest_average`.
    entries
        Cells (rows of `average`) and peaks at which the averages are wanted.
    """
    n_scored = average.shape[0]
    orders = [np.argsort(cells, kind="stable") for cells, _ in entries]
    bounds = [
        np.searchsorted(cells[order], np.arange(n_scored + 1))
        for (cells, _), order in zip(entries, orders, strict=True)
    ]
    results = [np.zeros(len(cells), np.float32) for cells, _ in entries]
    height = max(1, _VALUES_A_BLOCK // rows.shape[1])
    for start in range(0, n_scored, height):
        stop = min(start + height, n_scored)
        dense = (average[start:stop] @ rows).toarray()
        for (cells, peaks), order, bound, result in zip(
            entries, orders, bounds, results, strict=True
        ):
            members = order[bound[start] : bound[stop]]
            result[members] = dense[cells[members] - start, peaks[members]]
    return results


def tfidf_svd(
    rows: sparse.csr_matrix, n_components: int, seed: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return factors (cells, n), (peaks, n) of the truncated SVD of log1p(10⁴ · tf · idf).

    Their product rebuilds the matrix.
    """
    from sklearn.utils.extmath import randomized_svd

    n_open = np.bincount(rows.indices, minlength=rows.shape[1])
    weighted = fit_weighting(rows.shape[0], n_open)(rows)
    n_kept = min(n_components, min(rows.shape) - 1)
    cell_factors, singular_values, peak_factors = randomized_svd(
        weighted, max(n_kept, 1), n_iter=4, random_state=seed
    )
    return cell_factors * singular_values, peak_factors.T


def set_ranks(
    scores: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return AUPRC and AUROC of each set.

    AUPRC is the average precision of its hidden entry, AUROC the share of its closed entries below.
    Equal scores are in every order: a mean over them, so that a constant score has exactly the
    figures of chance.

    Parameters
    ----------
    scores
        (sets, 1 + closed), that of the hidden entry first.
    """
    hidden, closed = scores[:, :1], scores[:, 1:]
    n_above, n_equal = (closed > hidden).sum(1), (closed == hidden).sum(1)
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, scores.shape[1] + 1))])
    auprc = (harmonic[n_above + n_equal + 1] - harmonic[n_above]) / (n_equal + 1)
    return auprc, 1 - (n_above + n_equal / 2) / closed.shape[1]


def means_by(
    group: Index, n_groups: int, values: npt.NDArray[np.float64], fewest: int = FEWEST
) -> npt.NDArray[np.float64]:
    """Return the mean of `values` in each group, (n_groups,); NaN for fewer than `fewest`.

    Negative groups are left out.
    """
    usable = (group >= 0) & np.isfinite(values)
    n = np.bincount(group[usable], minlength=n_groups)
    total = np.bincount(group[usable], values[usable], n_groups)
    return np.where(n >= fewest, total / np.maximum(n, 1), np.nan)
