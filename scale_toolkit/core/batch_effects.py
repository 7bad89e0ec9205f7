"""How often each batch of cells opens each peak, relative to all cells: shrunken factors.

    expected open cells of peak j in group g = N_g · r_j · f_gj,   f_gj ~ Gamma(a, a)

N_g are the open peaks of the group in all, r_j is the peak's share of them, and the factor f_gj has
the prior mean 1, so that a peak that is open in few cells of a batch, and every peak of a small
batch, stays near 1 (a Poisson-gamma model; Robbins 1956). The prior's shape a follows from the
spread of all peaks beyond that of chance. With covariates, the factor is the product of one for
each column; they are fitted in turn.

The factors compare all cells of a batch with all cells: batches that hold other kinds of cells in
other proportions differ for that reason too, and some of that is removed with the batch
(benchmarks/RESULTS.md says how much).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit.core.compiled import compiled
from scale_toolkit.core.rows import RowSource, binarise, blocks

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

#: Spread of a batch's peaks beyond chance, in standard errors, below which it has no effect.
LEAST_SPREAD = 2.0
#: Rounds of the fit at most, and the largest change of a log factor at which it ends.
MOST_ROUNDS, TOLERANCE = 50, 1e-3
#: Rate of a peak up to which a factor is larger in odds than in probability: a peak that is open in
#: nearly all cells would get a shift without bounds.
MOST_RATE = 0.5


@compiled("void(i4[::1], i8[::1], i4[::1], f4[:,::1], i8, i8, i8, f4[::1])")
def _divide(
    peaks: Array,
    pointers: Array,
    codes: Array,
    factors: Array,
    first: int,
    stop: int,
    origin: int,
    weights: Array,
) -> None:
    """Divide the weights of the cells from `first` to `stop` by their factors; `weights` begins
    with entry `origin`.
    """
    for i in range(first, stop):
        group = codes[i]
        for entry in range(pointers[i], pointers[i + 1]):
            weights[entry - origin] /= factors[group, peaks[entry]]


@dataclass(frozen=True)
class BatchEffects:
    """Peak frequencies of groups of cells (batches, or batches and covariates) relative to all
    cells.

    Attributes
    ----------
    codes
        Group of each cell, (cells,) int32.
    factors
        f of each group and peak, (groups, peaks) float32; the mean over all open peaks is 1, so
        that 1 is the average batch.
    logits
        The same as a shift of a peak's logit, (groups, peaks) float32.
    """

    codes: npt.NDArray[np.int32]
    factors: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]

    def of_cells(self, codes: Array) -> BatchEffects:
        """Return the same factors for other cells, by their groups."""
        return replace(self, codes=np.ascontiguousarray(codes, np.int32))

    def chosen(self, cells: Array) -> BatchEffects:
        """Return the factors of some of the cells."""
        return self.of_cells(self.codes[cells])

    def divide(
        self,
        peaks: Array,
        pointers: Array,
        weights: Array,
        rows: tuple[int, int] | None = None,
    ) -> None:
        """Divide weights of open peaks by the factors of their cells, in place.

        Parameters
        ----------
        peaks, pointers
            As in a CSR matrix, int32 and int64.
        weights
            Weights of the entries of `rows`, float32.
        rows
            First and last row; None: all.
        """
        first, stop = rows or (0, len(pointers) - 1)
        origin = int(pointers[first])
        _divide(peaks, pointers, self.codes, self.factors, first, stop, origin, weights)


def group_sums(source: RowSource, codes: Array, n_groups: int) -> npt.NDArray[np.float64]:
    """Count the open cells of each peak in each group, (groups, peaks) float64."""
    sums = np.zeros((n_groups, source.n_peaks))
    for index, rows in blocks(source):
        opened = binarise(rows)
        group = np.repeat(codes[index].astype(np.int64), np.diff(opened.indptr))
        for code in np.unique(group):
            sums[code] += np.bincount(opened.indices[group == code], minlength=source.n_peaks)
    return sums


def fit_batch_effects(
    source: RowSource, codes: Array, levels: npt.NDArray[np.int64]
) -> BatchEffects | None:
    """Fit the factors of groups of cells to their open peaks.

    Parameters
    ----------
    source
        The cells.
    codes
        Group of each cell, (cells,).
    levels
        What each group is in each column, the batch first: (groups, columns) int64.

    Returns
    -------
    None if the groups' peaks differ by no more than chance.
    """
    sums = group_sums(source, codes, len(levels))
    factors = fit_factors(sums, levels)
    if (factors == 1).all():
        return None
    n_cells = np.bincount(codes, minlength=len(levels))
    # to first order, d logit p = d log p / (1 − p)
    logits = np.log(factors) / (1 - np.minimum(sums.sum(0) / n_cells.sum(), MOST_RATE))
    return BatchEffects(
        np.ascontiguousarray(codes, np.int32),
        factors.astype(np.float32),
        logits.astype(np.float32),
    )


def fit_factors(
    sums: npt.NDArray[np.float64], levels: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return the factors f of groups, (groups, peaks), from their open cells of each peak.

    Parameters
    ----------
    sums
        Open cells of each peak in each group, (groups, peaks).
    levels
        What each group is in each column, (groups, columns).
    """
    totals = sums.sum(1)
    peak_sums = sums.sum(0)
    factors = np.ones_like(sums)
    columns = [_Column(sums, totals, column) for column in levels.T]
    for _ in range(MOST_ROUNDS):
        largest = 0.0
        for column in columns:
            rates = peak_sums / np.maximum(totals @ factors, 1e-12)
            largest = max(largest, column.refit(totals, rates, factors))
        if largest < TOLERANCE:
            break
    if (factors == 1).all():
        return factors
    # 1 is the average batch
    return factors * (totals.sum() / np.maximum(totals @ factors, 1e-12))


class _Column:
    """The factors of one column's levels: batches, or the values of a covariate.

    Parameters
    ----------
    sums, totals
        Open cells of each peak in each group, (groups, peaks), and their sums, (groups,).
    level
        Level of each group, (groups,).
    """

    def __init__(self, sums: Array, totals: Array, level: Array) -> None:
        self.level = level
        self.sums = _added(sums, level)
        self.factors = np.ones_like(self.sums)
        self.shape = _prior_shape(self.sums, _added(totals[:, None], level)[:, 0])

    def refit(self, totals: Array, rates: Array, factors: Array) -> float:
        """Refit the levels given the remaining columns' factors, and update `factors`, (groups,
        peaks), in place; return the largest change of a logarithm.
        """
        remaining = factors / self.factors[self.level]
        expected = _added(totals[:, None] * remaining, self.level) * rates
        fitted = np.ones_like(expected)
        has_effect = np.isfinite(self.shape)
        shape = self.shape[has_effect, None]
        fitted[has_effect] = (self.sums[has_effect] + shape) / (expected[has_effect] + shape)
        change = float(np.abs(np.log(fitted / self.factors)).max(initial=0))
        self.factors = fitted
        factors[:] = remaining * fitted[self.level]
        return change


def _added(values: Array, level: Array) -> Array:
    """Return the sums of rows by level."""
    totals = np.zeros((int(level.max()) + 1, values.shape[1]))
    np.add.at(totals, level, values)
    return totals


def _prior_shape(sums: Array, totals: Array) -> Array:
    """Return the shape a of the factors' prior for each level, (levels,); infinite without an
    effect.

    By chance alone the open cells of a peak in a level that holds the share q of all open peaks
    vary by E (1 − q) around E = q times the peak's open cells; the rest of their spread is that of
    the factors, E² / a.
    """
    share = totals / max(totals.sum(), 1)
    expected = share[:, None] * sums.sum(0)
    squares = np.maximum(np.square(expected).sum(1), 1e-12)
    chance = expected * (1 - share[:, None])
    spread = (np.square(sums - expected) - chance).sum(1) / squares
    error = np.sqrt(2 * np.square(chance).sum(1) + chance.sum(1)) / squares
    with np.errstate(divide="ignore"):
        return np.where(spread > LEAST_SPREAD * error, 1 / np.maximum(spread, 1e-12), np.inf)
