"""The report of ``scale impute --validate``: a model's view of cells with hidden open peaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit.core import recovery, reliability, trust
from scale_toolkit.core.decode import Decoder
from scale_toolkit.core.metacells import metacell_correlation
from scale_toolkit.core.separation import N_NEIGHBORS, nearest_average

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from scipy import sparse

    Index = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float64]
    Scores = dict[str, dict[str, npt.NDArray[Any]]]
    Logits = Callable[[Index, Index], Floats]

# Cells that are scored: random ones if there are more.
MAX_CELLS = 10_000
# Hidden entries scored against closed ones: random ones if there are more.
MAX_HIDDEN = 200_000
# Random closed entries that the calibration is judged on.
MAX_CLOSED = 2_000_000
# Of the baseline that rebuilds the TF-IDF matrix.
N_COMPONENTS = 30
# Cells compared with the meta-cell of their cluster.
METACELL_CELLS = 1000
METHODS = ("model", "frequency", "neighbours", "tfidf_svd")


@dataclass(frozen=True)
class Recovered:
    """A model's view of cells some of whose open peaks are hidden from it.

    All arrays are over the modelled peaks.

    Attributes
    ----------
    opened, visible
        Open peaks of all cells, and those that were not hidden (cells × peaks CSR of ones, indices
        sorted).
    hidden
        The rest: `opened` without `visible`.
    share
        Share of open entries that were hidden: one number, or one of each peak.
    latent
        Latent vectors given `visible`, (cells, d).
    decoder
        h, w, b and s of `decode.Decoder`, given `visible`.
    """

    opened: sparse.csr_matrix
    visible: sparse.csr_matrix
    hidden: sparse.csr_matrix
    share: npt.NDArray[np.float64] | float
    latent: npt.NDArray[Any]
    decoder: tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]


@dataclass(frozen=True)
class Judgement:
    """What `judge` has measured.

    Attributes
    ----------
    report
        Figures as JSON values.
    cell_recovery
        AUROC of each cell's hidden peaks in matched sets; NaN if it was not scored.
    peak_recovery
        AUROC of each peak's hidden entries among the same peak in cells of like depth.
    false_sign_rate, trust
        Of each peak, see `core.trust`.
    """

    report: dict[str, Any]
    cell_recovery: Floats
    peak_recovery: Floats
    false_sign_rate: Floats
    trust: npt.NDArray[np.bool_]


def judge(
    recovered: Recovered,
    cluster: Index,
    names: list[str],
    *,
    trust_level: float,
    seed: int,
    rng: np.random.Generator,
) -> Judgement:
    """Measure how well hidden entries are recovered, and which peaks to trust.

    Parameters
    ----------
    recovered
        The model's view.
    cluster
        Cluster of each cell as a code; negative: none.
    names
        Name of each cluster.
    trust_level
        Largest mean false sign rate of the trusted peaks.
    seed, rng
        For the SVD, and for everything else.
    """
    n_cells, n_peaks = recovered.opened.shape
    scored = _some(n_cells, MAX_CELLS, rng)
    opened, visible, hidden_rows = (
        rows if len(scored) == n_cells else rows[scored]
        for rows in (recovered.opened, recovered.visible, recovered.hidden)
    )
    frequency = np.bincount(recovered.visible.indices, minlength=n_peaks)
    scored_cluster = cluster[scored]
    h, w, b, s = recovered.decoder
    h, s = h[scored], s[scored]

    def logits(cells: Index, peaks: Index) -> Floats:
        return recovery.model_logits(h, w, b, s, cells, peaks)

    hidden = recovery.entries_of(hidden_rows)
    drawn = _some(len(hidden[0]), MAX_HIDDEN, rng)
    compared = hidden[0][drawn], hidden[1][drawn]
    sets = {
        "matched": recovery.matched(compared, opened, frequency, rng),
        "unmatched": recovery.unmatched(compared, opened, rng),
    }
    scores = _scores(sets, recovered, scored, visible, frequency, logits, seed)
    ranks = {
        kind: {method: recovery.set_ranks(values) for method, values in by_method.items()}
        for kind, by_method in scores.items()
    }

    def mean_ranks(chosen: Callable[[recovery.Sets], Any]) -> dict[str, Any]:
        return {
            kind: {
                method: _mean_ranks(*(values[chosen(sets[kind])] for values in figures))
                for method, figures in by_method.items()
            }
            for kind, by_method in ranks.items()
        }

    entry_of_set = sets["matched"].cells, sets["matched"].peaks[:, 0]
    of_cells, of_peaks = (
        {
            method: [recovery.means_by(group, n, values) for values in ranks["matched"][method]]
            for method in METHODS
        }
        for group, n in zip(entry_of_set, (len(scored), n_peaks), strict=True)
    )
    below, rates, is_trusted = _trust(
        hidden, opened, logits, frequency, _spread_of_logits(h, w), trust_level, rng
    )
    calibrated = recovery.natural(_weighted(hidden, MAX_CLOSED, rng), opened, MAX_CLOSED, rng)
    share = recovered.share
    if isinstance(share, np.ndarray):
        share = share[calibrated.peaks]
    odds = reliability.hidden_log_odds(logits(calibrated.cells, calibrated.peaks), share)
    chance = np.exp(odds)

    compared_cells = _some(opened.shape[0], METACELL_CELLS, rng)
    decoder = Decoder(h, w, b, s)
    measured, imputed = metacell_correlation(
        opened, scored_cluster, compared_cells, decoder.probabilities
    )

    by_cluster = {}
    for code, name in enumerate(names):
        members = scored_cluster == code
        if not members.any():
            continue
        entries = members[calibrated.cells]
        n_hidden = np.count_nonzero(calibrated.hidden & entries)
        by_cluster[name] = {
            "cells": int(members.sum()),
            **mean_ranks(lambda group, members=members: members[group.cells]),  # type: ignore[misc]
            "calibration": reliability.calibration(
                chance[entries], calibrated.hidden[entries], calibrated.weight[entries]
            )
            if n_hidden >= recovery.FEWEST * reliability.BINS
            else None,
            "metacell": _mean_correlation(measured, imputed, members[compared_cells]),
        }
    everywhere = np.ones(len(compared_cells), bool)
    report = {
        "cells": {"all": n_cells, "scored": len(scored), **_quartiles(of_cells)},
        "peaks": {"all": n_peaks, "trusted": int(is_trusted.sum()), **_quartiles(of_peaks)},
        "hidden": int(recovered.hidden.nnz),
        "share": float(recovered.hidden.nnz / recovered.opened.nnz),
        "compared": len(sets["matched"]),
        "closed_a_set": recovery.SET_SIZE,
        "chance": {"auprc": recovery.CHANCE_AUPRC, "auroc": 0.5},
        **mean_ranks(lambda _: slice(None)),
        "pooled": {
            kind: {method: _pooled(values) for method, values in by_method.items()}
            for kind, by_method in scores.items()
        },
        "calibration": reliability.calibration(chance, calibrated.hidden, calibrated.weight),
        "metacell": _mean_correlation(measured, imputed, everywhere),
        "clusters": by_cluster,
        "trust_level": trust_level,
    }
    cell_recovery = np.full(n_cells, np.nan)
    cell_recovery[scored] = of_cells["model"][1]
    return Judgement(report, cell_recovery, below, rates, is_trusted)


def _scores(
    sets: dict[str, recovery.Sets],
    recovered: Recovered,
    scored: Index,
    visible: sparse.csr_matrix,
    frequency: Index,
    logits: Logits,
    seed: int,
) -> Scores:
    """Return the score of every entry of every set by every method, (sets, entries of a set)."""
    entries = {kind: group.entries() for kind, group in sets.items()}
    nearest = nearest_average(recovered.latent, scored, N_NEIGHBORS)
    averages = recovery.neighbour_average(recovered.visible, nearest, list(entries.values()))
    cell_factors, peak_factors = recovery.tfidf_svd(visible, N_COMPONENTS, seed)
    return {
        kind: {
            "model": logits(cells, peaks).reshape(sets[kind].peaks.shape),
            "frequency": frequency[peaks].reshape(sets[kind].peaks.shape).astype(np.float64),
            "neighbours": average.reshape(sets[kind].peaks.shape),
            "tfidf_svd": recovery.products(cell_factors, peak_factors, cells, peaks).reshape(
                sets[kind].peaks.shape
            ),
        }
        for (kind, (cells, peaks)), average in zip(entries.items(), averages, strict=True)
    }


def _spread_of_logits(h: npt.NDArray[Any], w: npt.NDArray[Any]) -> Floats:
    """Return the standard deviation over cells of w_j · h_i, (peaks,)."""
    covariance = np.atleast_2d(np.cov(h.T.astype(np.float64)))
    return np.asarray(np.sqrt(np.maximum(np.einsum("pd,pd->p", w @ covariance, w), 0)))


def _trust(
    hidden: recovery.Pairs,
    opened: sparse.csr_matrix,
    logits: Logits,
    frequency: Index,
    spread: Floats,
    trust_level: float,
    rng: np.random.Generator,
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Return recovery within each peak, its false sign rate, and whether it is trusted."""
    n_cells, n_peaks = opened.shape
    depth = np.diff(opened.indptr) - np.bincount(hidden[0], minlength=n_cells)
    order = np.lexsort((rng.random(len(hidden[0])), hidden[1]))
    peaks = hidden[1][order]
    number_in_peak = np.arange(len(peaks)) - np.searchsorted(peaks, peaks)
    drawn = order[number_in_peak < trust.MAX_HIDDEN_A_PEAK]
    judged = hidden[0][drawn], hidden[1][drawn]
    below, rank = trust.within_peak_ranks(judged, opened, depth, logits, rng)
    rates = trust.false_sign_rates(judged[1], rank, trust.like_peaks(frequency, spread))
    peak_recovery = recovery.means_by(judged[1], n_peaks, below, fewest=1)
    return peak_recovery, rates, trust.trusted(rates, trust_level)


def _some(n: int, most: int, rng: np.random.Generator) -> Index:
    """Return all of n positions, or a random choice in order if there are more than `most`."""
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def _weighted(
    hidden: recovery.Pairs, most: int, rng: np.random.Generator
) -> tuple[Index, Index, Floats]:
    drawn = _some(len(hidden[0]), most, rng)
    weight = len(hidden[0]) / max(len(drawn), 1)
    return hidden[0][drawn], hidden[1][drawn], np.full(len(drawn), weight)


def _mean_ranks(auprc: Floats, auroc: Floats) -> dict[str, float | int | None]:
    n = len(auprc)
    enough = n >= recovery.FEWEST
    return {
        "auprc": float(auprc.mean()) if enough else None,
        "auprc_error": float(auprc.std() / np.sqrt(n)) if enough else None,
        "auroc": float(auroc.mean()) if enough else None,
        "sets": n,
    }


def _pooled(scores: npt.NDArray[Any]) -> dict[str, float]:
    """Return the figures of one ranking of all hidden entries and a closed one of each set."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth = np.repeat([True, False], len(scores))
    values = np.concatenate([scores[:, 0], scores[:, 1]])
    return {
        "auprc": float(average_precision_score(truth, values)),
        "auroc": float(roc_auc_score(truth, values)),
    }


def _quartiles(figures: dict[str, list[Floats]]) -> dict[str, Any]:
    """Return the quartiles over cells or peaks of the matched figures of each method."""
    result: dict[str, Any] = {}
    for method, by_score in figures.items():
        known = np.isfinite(by_score[0])
        quartiles = {
            key: np.quantile(values[known], [0.25, 0.5, 0.75]).tolist() if known.any() else None
            for key, values in zip(("auprc", "auroc"), by_score, strict=True)
        }
        result[method] = quartiles | {"n": int(known.sum())}
    return result


def _mean_correlation(
    measured: Floats, imputed: Floats, chosen: npt.NDArray[np.bool_]
) -> dict[str, float | int | None]:
    usable = chosen & np.isfinite(measured) & np.isfinite(imputed)
    if not usable.any():
        return {"measured": None, "imputed": None, "cells": 0}
    return {
        "measured": float(measured[usable].mean()),
        "imputed": float(imputed[usable].mean()),
        "cells": int(usable.sum()),
    }
