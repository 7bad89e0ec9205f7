"""``scale impute --validate``: hide open peaks, measure their recovery, and judge each peak.

Imputed values of the file are also compared between cells (`core.separation`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.config import ImputeConfig, TrainConfig
from scale_toolkit.core import recovery
from scale_toolkit.core.separation import nearest_average, separation
from scale_toolkit.core.validation import MAX_CELLS, Judgement, Recovered, judge
from scale_toolkit.errors import InputError, NothingLeftError
from scale_toolkit.stages.batches import model_batches, read_batches
from scale_toolkit.stages.counts import modelled_counts, over_all
from scale_toolkit.stages.decoder import DEPTHS, read_decoder
from scale_toolkit.stages.encode import in_model_order
from scale_toolkit.stages.gpu import find_device
from scale_toolkit.stages.labels import check_column
from scale_toolkit.stages.receipts import receipts
from scale_toolkit.stages.stage import Result
from scale_toolkit.stages.train import train_model

if TYPE_CHECKING:
    import numpy.typing as npt
    from anndata import AnnData

    from scale_toolkit.stages.stage import Progress

    Index = npt.NDArray[np.int64]

#: Slots that `validate` writes.
WRITES: tuple[keys.Slot, ...] = keys.VERDICT


def validate(
    adata: AnnData,
    config: ImputeConfig,
    *,
    progress: Progress | None = None,
    model: bytes | None = None,
) -> Result:
    """Measure how well hidden open peaks are recovered and how well values separate groups.

    Without `model`, a share of the open peaks is hidden, and a model is trained on the others with
    the options of the `train` that made this file, so the hidden peaks do not influence it. With
    `model` (the file of ``scale train --model``) nothing is trained: reads are removed from the
    counts at random, and the cells are encoded from the others; the decoder was trained on the
    hidden peaks, so its figures are optimistic, and the report says so.

    Parameters
    ----------
    adata
        The output of `train`, with counts in X.
    config
        ``validate_share``, ``validate_by``, ``trust_level``, ``seed``, ``n_threads``.
    progress
        Called while the model is trained.
    model
        Bytes of a model file.

    Returns
    -------
    Result with the report as JSON in ``uns['scale_validation']``, and

    - ``obs['scale_recovery']`` (float64): AUROC of a cell's hidden peaks against matched closed
      ones, 0.5 is chance; NaN if fewer than five were hidden, or the cell was not scored;
    - ``var['scale_recovery']`` (float64): AUROC of a peak's hidden entries against the same peak
      closed in cells of like depth;
    - ``var['scale_false_sign_rate']`` (float64): chance that its recovery is due to frequency
      alone;
    - ``var['scale_trust']`` (bool): whether the peak is trusted; False if it was not modelled.

    Raises
    ------
    InputError
        X holds no counts, or the model file is of another training.
    NothingLeftError
        No open peak was hidden.
    """
    modelled = keys.BIAS.get(adata).notna().to_numpy()
    counts = modelled_counts(adata, modelled)
    _, cluster, names = _clusters(adata, config)
    rng = np.random.default_rng(config.seed)
    if model is None:
        basis = "trained without them"
        recovered = _retrained(adata, counts, config, progress)
    else:
        basis = "optimistic: the decoder has seen them"
        recovered = _encoded(adata, counts, modelled, config, rng, model)
    if recovered.hidden.nnz == 0:
        raise NothingLeftError(
            f"none of {recovered.opened.nnz:,} open peaks was hidden",
            "some",
            "raise validate_share, or validate on more cells",
        )
    judged = judge(
        recovered, cluster, names, trust_level=config.trust_level, seed=config.seed, rng=rng
    )
    report = {
        "way": basis,
        "validate_share": config.validate_share,
        "seed": config.seed,
        **judged.report,
        "between_cells": read_between_cells(adata, config),
    }
    return Result(
        slots=_slots(judged, report, modelled),
        facts={
            "validated": basis,
            "hidden": report["hidden"],
            "trusted": report["peaks"]["trusted"],
        },
    )


def trusted_peaks(adata: AnnData, trust: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[Any]:
    """Return which peaks are trusted, (peaks,) bool.

    Parameters
    ----------
    adata
        The output of ``impute --validate``.
    trust
        The verdict, if it is not yet in `adata`.

    Raises
    ------
    MissingSlotError
        Nothing was validated.
    NothingLeftError
        No peak is trusted.
    """
    trust = np.asarray(keys.TRUST.get(adata), bool) if trust is None else trust
    if not trust.any():
        raise NothingLeftError(
            f"none of {adata.n_vars:,} peaks is trusted",
            "at least one",
            "drop only_trusted, or raise trust_level",
        )
    return trust


def _slots(
    judged: Judgement, report: dict[str, Any], modelled: npt.NDArray[np.bool_]
) -> dict[keys.Slot, Any]:
    return {
        keys.CELL_RECOVERY: judged.cell_recovery,
        keys.PEAK_RECOVERY: over_all(judged.peak_recovery, modelled, len(modelled), np.nan),
        keys.FALSE_SIGN_RATE: over_all(judged.false_sign_rate, modelled, len(modelled), np.nan),
        keys.TRUST: over_all(judged.trust, modelled, len(modelled), 0),
        keys.VALIDATION: json.dumps(report, sort_keys=True),
    }


def read_between_cells(adata: AnnData, config: ImputeConfig) -> dict[str, Any]:
    """Compare raw counts, neighbour averages and imputed values of a file between cells.

    Parameters
    ----------
    adata
        The output of `train`, with counts in X.
    config
        ``validate_by``, ``seed``, ``n_threads``.

    Returns
    -------
    The name of the ``column`` with the groups, and the figures of `core.separation.separation`.
    """
    modelled = keys.BIAS.get(adata).notna().to_numpy()
    opened = _ones(_without_zeros(modelled_counts(adata, modelled)))
    column, cluster, names = _clusters(adata, config)
    positions = np.flatnonzero(modelled)
    latent = np.asarray(keys.LATENT.get(adata))
    decoders = {depth: read_decoder(adata, positions, depth) for depth in DEPTHS}
    readings = {
        "raw": lambda cells, peaks: opened[:, peaks][cells].toarray(),
        "neighbours": lambda cells, peaks: (
            nearest_average(latent, cells) @ opened[:, peaks]
        ).toarray(),
        **{depth: decoder.probabilities for depth, decoder in decoders.items()},
    }
    figures = separation(
        opened,
        cluster,
        names,
        readings,
        np.random.default_rng(config.seed),
        max_cells=MAX_CELLS,
        n_threads=config.n_threads,
    )
    return {"column": column, **figures}


def _retrained(
    adata: AnnData, counts: sparse.csr_matrix, config: ImputeConfig, progress: Progress | None
) -> Recovered:
    from scale_toolkit.core.rows import MatrixRows
    from scale_toolkit.model.held_out import Thinned
    from scale_toolkit.model.recipes import encode

    settings = _train_options(adata)
    counts = _without_zeros(counts)
    thinned = Thinned(MatrixRows(counts), config.validate_share, counts.shape[0], config.seed)
    visible = MatrixRows(thinned.kept)
    batches = read_batches(adata, settings)
    trained = train_model(visible, settings, find_device("auto"), progress, batches)
    codes = None if batches is None else batches.codes
    encoded = encode(trained, visible, seed=settings.seed, codes=codes)
    layer = trained.model.decoder
    weight, bias = (values.detach().cpu().numpy() for values in (layer.weight, layer.bias))
    return Recovered(
        opened=_ones(counts),
        visible=_ones(thinned.kept),
        hidden=_ones(thinned.hidden),
        share=thinned.hidden.nnz / max(counts.nnz, 1),
        latent=encoded.latent,
        decoder=(encoded.hidden, weight, bias, encoded.offset),
    )


def _encoded(
    adata: AnnData,
    counts: sparse.csr_matrix,
    modelled: npt.NDArray[np.bool_],
    config: ImputeConfig,
    rng: np.random.Generator,
    model: bytes,
) -> Recovered:
    from scale_toolkit.core.rows import MatrixRows, keep_entries
    from scale_toolkit.model.files import NotAModel, loads
    from scale_toolkit.model.recipes import encode

    try:
        trained, model_peaks, facts = loads(model)
    except NotAModel as error:
        raise InputError(
            f"the model file is {error}", "a file written by `scale train --model`", "train again"
        ) from None
    names = adata.var_names[modelled]
    # -1: the file lacks the peak
    column_of_model_peak = names.get_indexer(model_peaks)
    layer = trained.model.decoder
    weight, bias = (values.detach().cpu().numpy() for values in (layer.weight, layer.bias))
    shared = column_of_model_peak >= 0
    model_row = np.full(len(names), -1)
    model_row[column_of_model_peak[shared]] = np.flatnonzero(shared)
    stored = np.asarray(keys.DECODER.get(adata))[modelled]
    if (
        (model_row < 0).any()
        or weight.shape[1] != stored.shape[1]
        or not np.allclose(weight[model_row], stored, rtol=1e-4, atol=1e-5)
    ):
        raise InputError(
            f"the model file does not hold the decoder of this file ({keys.DECODER})",
            "the file that the same `scale train --model` wrote",
            "name that file, or omit the model",
        )
    counts = _without_zeros(counts)
    # chance that all reads of an entry are taken
    chance = config.validate_share ** counts.data.astype(np.float64)
    n_open = np.bincount(counts.indices, minlength=counts.shape[1])
    share = np.bincount(counts.indices, chance, counts.shape[1]) / np.maximum(n_open, 1)
    share = np.where(n_open > 0, np.maximum(share, 1e-12), config.validate_share)
    visible, is_gone = recovery.thin_counts(counts, config.validate_share, rng)
    hidden = keep_entries(counts, is_gone)
    rows = MatrixRows(in_model_order(visible, column_of_model_peak))
    trained, batches = model_batches(trained, facts, adata, TrainConfig())
    codes = None if batches is None else batches.codes
    encoded = encode(trained, rows, seed=config.seed, codes=codes)
    return Recovered(
        opened=_ones(counts),
        visible=_ones(visible),
        hidden=_ones(hidden),
        share=share,
        latent=encoded.latent,
        decoder=(encoded.hidden, weight[model_row], bias[model_row], encoded.offset),
    )


def _train_options(adata: AnnData) -> TrainConfig:
    """Return the options of the last `train` by its receipt, on the threads of this stage."""
    trainings = [receipt for receipt in receipts(adata) if receipt["stage"] == "train"]
    if not trainings or trainings[-1].get("notes", {}).get("pretrained"):
        raise InputError(
            "this file was encoded with a model trained elsewhere"
            if trainings
            else "a receipt of `scale train` is missing",
            "the file that was trained on, to train it again without the hidden peaks",
            "give the model of `scale train --model`, to thin and encode instead",
        )
    known = TrainConfig.__dataclass_fields__
    recorded = trainings[-1]["options"]
    options = {name: value for name, value in recorded.items() if name in known}
    return TrainConfig(**options | {"device": "auto", "n_threads": 0}).resolved()


def _without_zeros(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return counts with sorted indices and no stored zeros; the input is not changed."""
    if counts.has_sorted_indices and counts.data.all():
        return counts
    counts = counts.copy()
    counts.eliminate_zeros()
    counts.sort_indices()
    return counts


def _ones(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    data = np.ones(rows.nnz, np.float32)
    open_rows = sparse.csr_matrix((data, rows.indices, rows.indptr), rows.shape)
    open_rows.has_sorted_indices = True
    return open_rows


def _clusters(adata: AnnData, config: ImputeConfig) -> tuple[str, Index, list[str]]:
    """Return the column, the group of each cell as a code (-1: none), and the groups' names."""
    if config.validate_by is None:
        slot = keys.CLUSTER if keys.CLUSTER.found_in(adata) else keys.COMPONENT
        slot.get(adata)
        column = slot.name
    else:
        column = config.validate_by
    check_column(adata, column, "validate_by")
    labels = adata.obs[column].astype("category").cat.remove_unused_categories()
    names = [str(name) for name in labels.cat.categories]
    codes = labels.cat.codes.to_numpy().astype(np.int64)
    blank = [code for code, name in enumerate(names) if not name.strip()]
    codes[np.isin(codes, blank)] = -1
    return column, codes, names
