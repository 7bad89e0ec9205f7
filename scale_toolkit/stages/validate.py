"""``scale impute --validate``: hide open peaks, see how well they come back, and say which peaks to trust."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.config import ImputeConfig, TrainConfig
from scale_toolkit.core import recovery
from scale_toolkit.core.decode import Decoder
from scale_toolkit.errors import InputError, NothingLeftError
from scale_toolkit.stages._stage import note, receipts
from scale_toolkit.stages.train import find_device, in_model_order, modelled_counts

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.stages._stage import Progress

N_NEIGHBORS = 30  # of the baseline that averages near cells: the number `cluster` and `embed` take
N_COMPONENTS = 30  # of the baseline that rebuilds the TF-IDF matrix
METACELL_CELLS = 1000  # cells compared with the meta-cell of their cluster: random ones where there are more
METHODS = ("model", "frequency", "neighbours", "tfidf_svd")


@dataclass
class Recovered:
    """A model's view of cells some of whose open peaks are hidden from it; all arrays over the modelled peaks.

    Attributes
    ----------
    opened, kept
        Open peaks of all cells, and those left when some are hidden (cells × peaks CSR of ones, indices sorted).
    hidden
        The rest: `opened` without `kept`.
    share
        Share of open entries that were hidden: one number, or one a peak.
    latent
        Latent vectors given what is left, (cells, d).
    decoder
        h, w, b and s of `decode.Decoder`, given what is left.
    """

    opened: sparse.csr_matrix
    kept: sparse.csr_matrix
    hidden: sparse.csr_matrix
    share: np.ndarray | float
    latent: np.ndarray
    decoder: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def validate(
    adata: AnnData, config: ImputeConfig, *, progress: Progress | None = None, model: bytes | None = None
) -> dict[str, Any]:
    """Measure how well hidden open peaks are recovered, and write the verdict into `adata`.

    Without `model`, a share of the open peaks is hidden, and a model is trained on the rest with the options of the `train`
    that made this file: what is scored has seen nothing of the hidden peaks. With `model` (the file of
    ``scale train --model``) nothing is trained: reads are taken out of the counts at random, and the cells encoded from what is
    left; the decoder has seen the hidden peaks in training, so its figures are optimistic, and the report says so.

    Parameters
    ----------
    adata
        The output of `train`, with counts in X; changed in place.
    config
        ``validate_share``, ``trust_level``, ``seed``.
    progress
        Called while the model is trained.
    model
        Bytes of a model file.

    Returns
    -------
    The report, which is also written, as JSON, to ``uns['scale_validation']``; besides

    - ``obs['scale_recovery']`` (float64): AUROC of a cell's hidden peaks against matched closed ones, 0.5 is chance; NaN where
      fewer than five were hidden, or the cell was not among those scored;
    - ``var['scale_recovery']`` (float64): AUROC of a peak's hidden entries against the same peak closed in cells of like depth;
    - ``var['scale_false_sign_rate']`` (float64): chance that it is no better than frequency alone;
    - ``var['scale_trust']`` (bool): whether the peak is trusted; False where not modelled.

    Raises
    ------
    InputError
        X holds no counts, or the model file is of another training.
    """
    modelled = keys.BIAS.get(adata).notna().to_numpy()
    counts = modelled_counts(adata, modelled)
    rng = np.random.default_rng(config.seed)
    if model is None:
        found, way = _retrained(adata, counts, config, progress), "trained without them"
    else:
        found, way = _encoded(adata, counts, modelled, config, rng, model), "optimistic: the decoder has seen them"
    if found.hidden.nnz == 0:
        raise NothingLeftError(
            f"none of {found.opened.nnz:,} open peaks was hidden", "some", "raise --validate-share, or validate on more cells"
        )
    report, slots = _scored(found, _clusters(adata), config, rng)
    report = {"way": way, "validate_share": config.validate_share, "seed": config.seed, **report}
    cells, recovery_of_peaks, rates, trust = slots
    keys.CELL_RECOVERY.set(adata, cells)
    keys.PEAK_RECOVERY.set(adata, _over_all(recovery_of_peaks, modelled, np.nan))
    keys.FALSE_SIGN_RATE.set(adata, _over_all(rates, modelled, np.nan))
    keys.TRUST.set(adata, _over_all(trust, modelled, 0))
    keys.VALIDATION.set(adata, json.dumps(report, sort_keys=True))
    note(adata, validated=way, hidden=report["hidden"], trusted=report["peaks"]["trusted"])
    return report


def trusted_peaks(adata: AnnData) -> np.ndarray:
    """Which peaks are trusted, (peaks,) bool; an error where nothing was validated or nothing is trusted."""
    trust = np.asarray(keys.TRUST.get(adata), bool)
    if not trust.any():
        raise NothingLeftError(
            f"none of {adata.n_vars:,} peaks is trusted", "at least one", "leave out --only-trusted, or raise --trust-level"
        )
    return trust


def _retrained(adata: AnnData, counts: sparse.csr_matrix, config: ImputeConfig, progress: Progress | None) -> Recovered:
    from scale_toolkit.core.rows import MatrixRows
    from scale_toolkit.model.held_out import Thinned
    from scale_toolkit.model.recipes import encode
    from scale_toolkit.stages.train import train_model

    settings = _train_options(adata)
    counts = _without_zeros(counts)
    thinned = Thinned(MatrixRows(counts), config.validate_share, counts.shape[0], config.seed)
    kept = MatrixRows(thinned.kept)
    trained = train_model(kept, settings, find_device("auto"), progress)
    encoded = encode(trained, kept, seed=settings.seed)
    decoder = trained.model.decoder
    arrays = (encoded.hidden, *(part.detach().cpu().numpy() for part in (decoder.weight, decoder.bias)), encoded.offset)
    share = thinned.hidden.nnz / max(counts.nnz, 1)
    return Recovered(*(_ones(part) for part in (counts, thinned.kept, thinned.hidden)), share, encoded.latent, arrays)


def _encoded(
    adata: AnnData,
    counts: sparse.csr_matrix,
    modelled: np.ndarray,
    config: ImputeConfig,
    rng: np.random.Generator,
    model: bytes,
) -> Recovered:
    from scale_toolkit.core.rows import MatrixRows, keep_entries
    from scale_toolkit.model.files import NotAModel, loads
    from scale_toolkit.model.recipes import encode

    try:
        trained, peaks, _ = loads(model)
    except NotAModel as error:
        raise InputError(f"the model file is {error}", "a file written by `scale train --model`", "train again") from None
    here = adata.var_names[modelled]
    place = here.get_indexer(peaks)
    weight, bias = (part.detach().cpu().numpy() for part in (trained.model.decoder.weight, trained.model.decoder.bias))
    of = np.full(len(here), -1)
    of[place[place >= 0]] = np.flatnonzero(place >= 0)
    stored = np.asarray(keys.DECODER.get(adata))[modelled]
    if (of < 0).any() or weight.shape[1] != stored.shape[1] or not np.allclose(weight[of], stored, rtol=1e-4, atol=1e-5):
        raise InputError(
            f"the model file does not hold the decoder of this file ({keys.DECODER})",
            "the file that the same `scale train --model` wrote",
            "name that file, or leave out --model",
        )
    counts = _without_zeros(counts)
    chance = config.validate_share ** counts.data.astype(np.float64)  # that all reads of an entry are taken
    n_open = np.bincount(counts.indices, minlength=counts.shape[1])
    share = np.bincount(counts.indices, chance, counts.shape[1]) / np.maximum(n_open, 1)
    share = np.where(n_open > 0, np.maximum(share, 1e-12), config.validate_share)
    kept, gone = recovery.thin_counts(counts, config.validate_share, rng)
    hidden = keep_entries(counts, gone)
    encoded = encode(trained, MatrixRows(in_model_order(kept, place)), seed=config.seed)
    arrays = (encoded.hidden, weight[of], bias[of], encoded.offset)
    return Recovered(*(_ones(part) for part in (counts, kept, hidden)), share, encoded.latent, arrays)


def _train_options(adata: AnnData) -> TrainConfig:
    """Options of the last `train`, as its receipt has them; the threads are those of this stage."""
    done = [one for one in receipts(adata) if one["stage"] == "train"]
    if not done or done[-1].get("notes", {}).get("pretrained"):
        raise InputError(
            "this file was encoded with a model trained elsewhere" if done else "there is no receipt of `scale train`",
            "the file that was trained on, to train it again without the hidden peaks",
            "name the model with --model to thin and encode instead",
        )
    known = TrainConfig.__dataclass_fields__
    options = {name: value for name, value in done[-1]["options"].items() if name in known}
    return TrainConfig(**options | {"device": "auto", "n_threads": 0}).resolved()


def _without_zeros(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Counts with sorted indices and no stored zeros; the input is not changed."""
    if counts.has_sorted_indices and counts.data.all():
        return counts
    counts = counts.copy()
    counts.eliminate_zeros()
    counts.sort_indices()
    return counts


def _ones(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    ones = sparse.csr_matrix((np.ones(rows.nnz, np.float32), rows.indices, rows.indptr), rows.shape)
    ones.has_sorted_indices = True
    return ones


def _clusters(adata: AnnData) -> tuple[np.ndarray, list[str]]:
    """Cluster of each cell as a code, and the clusters' names: those of `cluster`, else the model's own components."""
    column = (keys.CLUSTER if keys.CLUSTER.found_in(adata) else keys.COMPONENT).get(adata).astype("category")
    return column.cat.codes.to_numpy().astype(np.int64), [str(name) for name in column.cat.categories]


def _over_all(values: np.ndarray, modelled: np.ndarray, fill: Any) -> np.ndarray:
    spread = np.full(len(modelled), fill, values.dtype)
    spread[modelled] = values
    return spread


def _scored(
    found: Recovered, clusters: tuple[np.ndarray, list[str]], config: ImputeConfig, rng: np.random.Generator
) -> tuple[dict[str, Any], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """The report; and recovery by cell, recovery by peak, false sign rates and trust."""
    n_cells, n_peaks = found.opened.shape
    n_scored = min(n_cells, recovery.MAX_CELLS)
    scored = np.arange(n_cells) if n_scored == n_cells else np.sort(rng.choice(n_cells, n_scored, replace=False))
    opened, kept, hidden_rows = (
        part if n_scored == n_cells else part[scored] for part in (found.opened, found.kept, found.hidden)
    )
    frequency = np.bincount(found.kept.indices, minlength=n_peaks)
    cluster, names = clusters[0][scored], clusters[1]
    h, w, b, s = found.decoder
    h, s = h[scored], s[scored]

    def logits(cells: np.ndarray, peaks: np.ndarray) -> np.ndarray:
        return recovery.model_logits(h, w, b, s, cells, peaks)

    hidden = recovery.entries_of(hidden_rows)
    some = _some(len(hidden[0]), recovery.MAX_HIDDEN, rng)
    compared = hidden[0][some], hidden[1][some]
    sets = {
        "matched": recovery.matched(compared, opened, frequency, rng),
        "unmatched": recovery.unmatched(compared, opened, rng),
    }
    scores = _scores(sets, found, scored, kept, frequency, logits, config.seed)
    ranks = {way: {name: recovery.set_ranks(values) for name, values in by.items()} for way, by in scores.items()}

    def means(chosen: Any) -> dict[str, Any]:
        return {
            way: {name: _mean_figures(*(part[chosen(sets[way])] for part in figures)) for name, figures in by.items()}
            for way, by in ranks.items()
        }

    own = sets["matched"].cells, sets["matched"].peaks[:, 0]
    of_cells, of_peaks = (
        {name: [recovery.means_by(group, n, part) for part in ranks["matched"][name]] for name in METHODS}
        for group, n in zip(own, (n_scored, n_peaks), strict=True)
    )
    below, rates, trust = _trust(hidden, opened, logits, frequency, _spread_of_logits(h, w), config, rng)

    calibrated = recovery.natural(_weighted(hidden, recovery.MAX_CLOSED, rng), opened, recovery.MAX_CLOSED, rng)
    share = found.share if np.isscalar(found.share) else np.asarray(found.share)[calibrated.peaks]
    chance = np.exp(recovery.hidden_log_odds(logits(calibrated.cells, calibrated.peaks), share))
    measured, imputed, looked = _metacells(opened, cluster, Decoder(h, w, b, s), rng)

    by_cluster = {}
    for code, name in enumerate(names):
        cells = cluster == code
        if not cells.any():
            continue
        here = cells[calibrated.cells]
        enough = np.count_nonzero(calibrated.hidden & here) >= recovery.FEWEST * recovery.BINS
        by_cluster[name] = {
            "cells": int(cells.sum()),
            **means(lambda one, cells=cells: cells[one.cells]),
            "calibration": recovery.calibration(chance[here], calibrated.hidden[here], calibrated.weight[here])
            if enough
            else None,
            "metacell": _metacell_figures(measured, imputed, cells[looked]),
        }
    report = {
        "cells": {"all": n_cells, "scored": n_scored, **_spread_of(of_cells)},
        "peaks": {"all": n_peaks, "trusted": int(trust.sum()), **_spread_of(of_peaks)},
        "hidden": int(found.hidden.nnz),
        "share": float(found.hidden.nnz / found.opened.nnz),
        "compared": len(sets["matched"]),
        "closed_a_set": recovery.SET_SIZE,
        "chance": {"auprc": recovery.CHANCE_AUPRC, "auroc": 0.5},
        **means(lambda one: slice(None)),
        "pooled": {way: {name: _pooled(values) for name, values in by.items()} for way, by in scores.items()},
        "calibration": recovery.calibration(chance, calibrated.hidden, calibrated.weight),
        "metacell": _metacell_figures(measured, imputed, np.ones(len(looked), bool)),
        "clusters": by_cluster,
        "trust_level": config.trust_level,
    }
    cells = np.full(n_cells, np.nan)
    cells[scored] = of_cells["model"][1]
    return report, (cells, below, rates, trust)


def _scores(sets, found: Recovered, scored: np.ndarray, kept, frequency: np.ndarray, logits, seed: int) -> dict[str, dict]:
    """Score of every entry of every set by every method, (sets, entries of a set) each."""
    entries = {way: one.entries() for way, one in sets.items()}
    near = recovery.neighbour_average(found.kept, found.latent, scored, N_NEIGHBORS, list(entries.values()))
    left, right = recovery.tfidf_svd(kept, N_COMPONENTS, seed)
    return {
        way: {
            "model": logits(cells, peaks).reshape(sets[way].peaks.shape),
            "frequency": frequency[peaks].reshape(sets[way].peaks.shape).astype(np.float64),
            "neighbours": average.reshape(sets[way].peaks.shape),
            "tfidf_svd": recovery.products(left, right, cells, peaks).reshape(sets[way].peaks.shape),
        }
        for (way, (cells, peaks)), average in zip(entries.items(), near, strict=True)
    }


def _spread_of_logits(h: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Standard deviation over cells of w_j · h_i, (peaks,): how much the model claims to know of a peak."""
    covariance = np.atleast_2d(np.cov(h.T.astype(np.float64)))
    return np.sqrt(np.maximum(np.einsum("pd,pd->p", w @ covariance, w), 0))


def _trust(hidden, opened, logits, frequency, spread, config: ImputeConfig, rng) -> tuple[np.ndarray, ...]:
    """Recovery within each peak, its false sign rate, and whether it is trusted."""
    n_cells, n_peaks = opened.shape
    depth = np.diff(opened.indptr) - np.bincount(hidden[0], minlength=n_cells)
    order = np.lexsort((rng.random(len(hidden[0])), hidden[1]))
    peaks = hidden[1][order]
    nth = np.arange(len(peaks)) - np.searchsorted(peaks, peaks)
    chosen = order[nth < recovery.MAX_HIDDEN_A_PEAK]
    judged = hidden[0][chosen], hidden[1][chosen]
    below, rank = recovery.within_peak_ranks(judged, opened, depth, logits, rng)
    rates = recovery.false_sign_rates(judged[1], rank, recovery.like_peaks(frequency, spread))
    return recovery.means_by(judged[1], n_peaks, below, fewest=1), rates, recovery.trusted(rates, config.trust_level)


def _metacells(opened, cluster, decoder: Decoder, rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    looked = _some(opened.shape[0], METACELL_CELLS, rng)
    return *recovery.metacell_correlation(opened, cluster, looked, lambda cells: decoder.probabilities(cells)), looked


def _some(n: int, most: int, rng: np.random.Generator) -> np.ndarray:
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def _weighted(hidden: tuple[np.ndarray, np.ndarray], most: int, rng: np.random.Generator):
    some = _some(len(hidden[0]), most, rng)
    return hidden[0][some], hidden[1][some], np.full(len(some), len(hidden[0]) / max(len(some), 1))


def _mean_figures(auprc: np.ndarray, auroc: np.ndarray) -> dict[str, float | int | None]:
    n = len(auprc)
    enough = n >= recovery.FEWEST
    return {
        "auprc": float(auprc.mean()) if enough else None,
        "auprc_error": float(auprc.std() / np.sqrt(n)) if enough else None,
        "auroc": float(auroc.mean()) if enough else None,
        "sets": n,
    }


def _pooled(scores: np.ndarray) -> dict[str, float]:
    """One ranking of all hidden entries and the first closed one of each set."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    truth = np.repeat([True, False], len(scores))
    values = np.concatenate([scores[:, 0], scores[:, 1]])
    return {"auprc": float(average_precision_score(truth, values)), "auroc": float(roc_auc_score(truth, values))}


def _spread_of(figures: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    """Quartiles over cells or peaks of the matched figures of each method."""
    result = {}
    for name, (auprc, auroc) in figures.items():
        known = np.isfinite(auprc)
        quartiles = (
            {key: np.quantile(part[known], [0.25, 0.5, 0.75]).tolist() for key, part in (("auprc", auprc), ("auroc", auroc))}
            if known.any()
            else {"auprc": None, "auroc": None}
        )
        result[name] = quartiles | {"n": int(known.sum())}
    return result


def _metacell_figures(measured: np.ndarray, imputed: np.ndarray, chosen: np.ndarray) -> dict[str, float | int | None]:
    fine = chosen & np.isfinite(measured) & np.isfinite(imputed)
    if not fine.any():
        return {"measured": None, "imputed": None, "cells": 0}
    return {"measured": float(measured[fine].mean()), "imputed": float(imputed[fine].mean()), "cells": int(fine.sum())}
