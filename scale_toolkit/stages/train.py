"""``train``: learn SCALE's latent space, and write all that later stages need into the AnnData."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import __version__, keys
from scale_toolkit.config import TrainConfig
from scale_toolkit.core.intervals import match_names
from scale_toolkit.errors import InputError, ScaleWarning, TrainingError
from scale_toolkit.memory import check_fits
from scale_toolkit.stages._stage import Progress, digest, note, receipts, stage
from scale_toolkit.stages.counts import check_counts, counts_of
from scale_toolkit.stages.gpu import find_device, gpu_settings, used

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from anndata import AnnData

    from scale_toolkit.core.rows import RowSource
    from scale_toolkit.model.recipes import Encoded, Trained
    from scale_toolkit.model.snapshot import History, Snapshot

log = logging.getLogger("scale_toolkit")

#: How the fast preset trains, chosen by held-out likelihood and stability over seeds (benchmarks/RESULTS.md).
FAST = {
    "mask": 0.5,
    "n_neighbors": 10,
    "neighbour_share": 0.5,
    "ridge": 1.0,
    "mixture_epoch": 15,
}


@stage("train", TrainConfig, reads=(keys.X, keys.SELECTED), loads=("torch",))
def train(
    adata: AnnData,
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    keep_model: Callable[[bytes], None] | None = None,
    checkpoints: Checkpoints | None = None,
) -> AnnData:
    """Train SCALE on the open peaks of `adata` (Xiong et al. 2019, Nat Commun 10:4576).

    Parameters
    ----------
    adata
        Counts, cells × peaks. Where ``var['selected']`` marks peaks, the model sees only those. Results are written into it.
    config
        Options.
    progress
        Called after each epoch.
    keep_model
        Receives the bytes of the model file, from which `encode` encodes new cells.
    checkpoints
        Where a training that was cut short goes on from and what it leaves for the next time; the result is that of
        an uninterrupted one, bit for bit on the CPU at the same number of threads.

    Returns
    -------
    `adata`, with these slots:

    ``obsm['X_scale']``, ``obsm['latent']`` (cells × latent, float32)
        Posterior mean of z (``preset="release"``: one sample).
    ``obsm['scale_hidden']`` (cells × hidden, float32)
        The decoder's last hidden layer, only with ``decode_dim``.
    ``varm['scale_decoder']`` (peaks × latent or hidden), ``var['scale_bias']``, ``obs['scale_offset']`` (float32)
        Probability of an open peak: sigmoid(decoder_j · z_i + bias_j + offset_i). Peaks not modelled have bias NaN.
    ``obsm['scale_posterior']`` (cells × components, float32), ``obs['scale_component']``
        Responsibilities and their argmax.
    ``obs['scale_open_rate']``, ``var['scale_open_rate']`` (float64)
        Share of modelled peaks open in a cell, and of cells a peak is open in.
    ``uns['scale_mixture']``, ``uns['scale_history']``
        The prior, and the learning curves, one value an epoch (``held_out`` begins with the start's own).

    Raises
    ------
    InputError
        Negative, fractional or missing counts, fewer than two cells; checkpoints of another training.
    DeviceError
        The device asked for is not there.
    TrainingError
        The loss was not a number in the first epoch.
    """
    from scale_toolkit.core.rows import MatrixRows
    from scale_toolkit.model.files import dumps

    settings = config.resolved()
    device = find_device(config.device)
    _look_at_selection(adata, all_peaks=config.all_peaks)
    modelled = modelled_peaks(adata)
    counts = modelled_counts(adata, modelled)
    _check_memory(counts, settings)
    going_on = {} if checkpoints is None else _going_on(checkpoints, adata, settings)
    with used(device, settings):
        trained = train_model(MatrixRows(counts), settings, device, progress, **going_on)
        _write(adata, trained, counts, modelled, settings)
    if keep_model is not None:
        facts = {"version": __version__, "options": settings.as_dict()}
        keep_model(dumps(trained, adata.var_names[modelled].tolist(), facts))
    history = trained.history
    note(adata, epochs=len(history.loss), best_epoch=history.best_epoch, steps=history.steps, device=str(device))
    note(adata, latent=trained.model.shape.latent)
    if history.best_epoch == 0:
        note(adata, kept_start="training did not raise the held-out likelihood: the start is kept, with a mixture fitted to it")
    if trained.stopped:
        note(adata, stopped=trained.stopped)
    return adata


@stage("train", TrainConfig, reads=(keys.X, keys.VAR_NAMES), loads=("torch",))
def encode(
    adata: AnnData,
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    model: bytes,
    peaks: Sequence[str] | Callable[[], Sequence[str]] | None = None,
) -> AnnData:
    """Encode cells with a trained model, without training: `train --pretrain`.

    Peaks are matched by name. A peak the model knows and `adata` lacks counts as closed, and is told; a peak the model
    does not know is not modelled. Writes the slots of `train`, but ``uns['scale_history']``.

    Of a ``model.pt`` of SCALE 1.1.2 the latent vectors are the means of the release's own forward pass (its files hold one
    random sample of each), from open peaks, as the release sees them.

    Parameters
    ----------
    adata
        Counts, cells × peaks.
    config
        Options: the device, the threads and the seed matter here.
    progress
        Not called: encoding is one pass.
    model
        Bytes of the file that `train` kept, or of a ``model.pt`` of SCALE 1.1.2.
    peaks
        The names of the peaks of a ``model.pt`` of SCALE 1.1.2 in its order, which are those of its ``adata.h5ad``; or a
        function that finds them when they are needed. Other models have names of their own.

    Raises
    ------
    InputError
        The bytes are no model of ours or the release's, or hold code; a release's model comes without names or with another
        number of them; or model and cells share no peak.
    """
    import warnings

    trained, peaks, facts = _pretrained(model, peaks)
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()][0]
        raise InputError(f"peak {twice} is there twice", "a name for each peak", "run `scale prepare` on the counts first")
    place = match_names(peaks, adata.var_names)  # where each of the model's peaks is; -1: missing
    known = place >= 0
    if not known.any():
        raise InputError(
            f"none of the model's {len(peaks):,} peaks is here (model: {peaks[0]}; here: {adata.var_names[0]})",
            "cells counted over the peaks the model was trained on",
            "count these cells over the model's peaks",
        )
    if not known.all():
        missing = [name for name, here in zip(peaks, known, strict=True) if not here]
        warnings.warn(
            f"{len(missing):,} of the model's {len(peaks):,} peaks are not here ({', '.join(missing[:3])}, …): "
            "taken as closed in every cell; latent vectors are less exact for it",
            ScaleWarning,
            stacklevel=2,
        )
    if (extra := adata.n_vars - int(known.sum())) > 0:
        log.info("%d of %d peaks here are not the model's: they are not modelled", extra, adata.n_vars)
    device = find_device(config.device)
    modelled = np.zeros(adata.n_vars, bool)
    modelled[place[known]] = True
    keys.HISTORY.drop(adata)
    with used(device, config):
        trained.model.to(device)
        _write(adata, trained, in_model_order(counts_of(adata), place), modelled, config, place=place)
    note(adata, pretrained=True, model_version=facts.get("version", ""), peaks_missing=int((~known).sum()))
    return adata


def _check_memory(counts: sparse.csr_matrix, settings: TrainConfig) -> None:
    """Refuse a training that cannot fit: it holds the weighted counts, and the weights with their optimiser's state."""
    from scale_toolkit.model.views import MOST_DIMENSIONS

    n_latent = settings.latent or MOST_DIMENSIONS
    n_weights = counts.shape[1] * (settings.encode_dim[:1] or (n_latent,))[0] + counts.shape[1] * n_latent
    check_fits(
        8 * counts.nnz + 4 * 4 * n_weights,
        f"training on {counts.shape[0]:,} cells × {counts.shape[1]:,} peaks ({counts.nnz:,} open)",
        "ask for more memory, or model fewer peaks (`scale select-peaks --n-peaks`)",
    )


def options_of(model: bytes) -> dict[str, Any]:
    """The options that a model was trained with, as keywords of `train`; SCALE 1.1.2's models hold none: its preset."""
    content = _contents(model)
    if content.get("format") is None:
        k, latent = (len(content[name]) for name in ("pi", "mu_c")) if {"pi", "mu_c"} <= set(content) else (1, 1)
        return {"preset": "release", "n_components": k, "latent": latent}
    known = TrainConfig.__dataclass_fields__
    return {name: value for name, value in content["facts"].get("options", {}).items() if name in known}


def made_by(adata: AnnData, model: bytes) -> bool:
    """Whether the slots of `train` in `adata` are this model's: all of its peaks with its loadings, and all cells encoded."""
    if not all(slot.found_in(adata) for slot in (keys.DECODER, keys.BIAS, keys.LATENT, keys.POSTERIOR, keys.COMPONENT)):
        return False
    content = _contents(model)
    if content.get("format") is None or not adata.var_names.is_unique:
        return False
    place = match_names(content["peaks"], adata.var_names)
    weight = content["weights"]["decoder.weight"].numpy()
    stored = np.asarray(keys.DECODER.get(adata))
    return bool((place >= 0).all()) and weight.shape[1] == stored.shape[1] and np.array_equal(stored[place], weight)


def _contents(model: bytes) -> dict[str, Any]:
    """What a model file holds, ours or SCALE 1.1.2's; one that holds neither is an error."""
    from scale_toolkit.compat.release_model import is_release
    from scale_toolkit.model.files import NotAModel, contents, model_of

    try:
        content = contents(model)
        if not is_release(content):
            model_of(content)
    except NotAModel as error:
        expected = "a file written by `scale train --model`, or the model.pt of SCALE 1.1.2"
        raise InputError(f"the model file is {error}", expected, "check the path, or train again") from None
    return content


def _pretrained(
    model: bytes, peaks: Sequence[str] | Callable[[], Sequence[str]] | None
) -> tuple[Trained, list[str], dict[str, Any]]:
    """A model of ours, or of SCALE 1.1.2 with the names of its peaks; with its facts."""
    from scale_toolkit.model.files import model_of

    content = _contents(model)
    if content.get("format") is not None:
        return model_of(content)
    return _released(content, peaks() if callable(peaks) else peaks)


def _released(content: dict[str, Any], peaks: Sequence[str] | None) -> tuple[Trained, list[str], dict[str, Any]]:
    import warnings

    from scale_toolkit.compat.release_model import NotOfTheRelease, trained_of

    try:
        trained, degenerate = trained_of(content)
    except NotOfTheRelease as error:
        raise InputError(f"the model file {error}", "the model.pt of SCALE 1.1.2, whole", "make or copy it again") from None
    n_peaks = trained.model.shape.n_peaks
    if peaks is None:
        raise InputError(
            f"the model file is SCALE 1.1.2's, which does not name its {n_peaks:,} peaks",
            "their names in the model's order",
            "give the adata.h5ad of the same run with --pretrain-peaks, or put it beside the model",
        )
    names = list(map(str, peaks))
    if len(names) != n_peaks:
        raise InputError(
            f"the model file has {n_peaks:,} peaks, and {len(names):,} names of peaks are given for it",
            "the names of the peaks it was trained on",
            "give the adata.h5ad of the same run with --pretrain-peaks",
        )
    if len(set(names)) != len(names):
        raise InputError("a peak is named twice among the model's", "a name for each", "make the names unique in both files")
    if degenerate:
        warnings.warn(
            f"{degenerate} of {trained.model.shape.n_components} components of the model have a weight or variance of 0 or "
            "less, for which the release computes no responsibilities; they are taken as next to 0",
            ScaleWarning,
            stacklevel=4,
        )
    return trained, names, {"version": "SCALE 1.1.2"}


class Checkpoints(Protocol):
    """Where checkpoints are kept (`scale_toolkit.io.checkpoints`)."""

    due: bool

    def save(self, epoch: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Keep one."""
        ...

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return the last one that is whole."""
        ...


#: Options that say how a training is computed, not which one it is.
_OF_THE_MACHINE = ("device", "n_threads", "gpu_memory", "deterministic", "precision")


def _that_matter(settings: TrainConfig) -> dict[str, Any]:
    """The options that a checkpoint is bound to: a training may go on with other threads, or on another device."""
    return {name: value for name, value in settings.as_dict().items() if name not in _OF_THE_MACHINE}


def _going_on(checkpoints: Checkpoints, adata: AnnData, settings: TrainConfig) -> dict[str, Any]:
    """What `train_model` needs to go on from the last checkpoint and to leave new ones."""
    from scale_toolkit.model.snapshot import Snapshot

    of = {"version": __version__, "options": _that_matter(settings), "cells": digest(adata, (keys.X, keys.SELECTED))}

    def keep(take: Callable[[], Snapshot]) -> None:
        if checkpoints.due:
            now = take()
            checkpoints.save(now.facts["epoch"], now.arrays, {"of": of, "training": now.facts})

    found = checkpoints.load()
    if found is None:
        return {"on_snapshot": keep}
    arrays, facts = found
    before = facts.get("of", {})
    if before != of:
        raise InputError(
            f"the checkpoint is of another training ({_difference(before, of)})",
            "the same cells, peaks, options and version",
            "give this training a --checkpoint folder of its own",
        )
    log.info("going on after epoch %d", facts["training"]["epoch"])
    return {"resume": Snapshot(arrays, facts["training"]), "on_snapshot": keep}


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first thing two trainings differ in, in words."""
    if before.get("version") != now["version"]:
        return f"version {before.get('version')}, here {now['version']}"
    options = before.get("options", {})
    for name, value in now["options"].items():
        if options.get(name) != value:
            return f"{name} {options.get(name)}, here {value}"
    return "other cells or peaks"


def _look_at_selection(adata: AnnData, *, all_peaks: bool) -> None:
    """Report a selection that this toolkit did not make, or set it aside if all peaks are wanted."""
    import warnings

    if not keys.SELECTED.found_in(adata):
        return
    if all_peaks:
        new_name = f"{keys.SELECTED.name}_original"
        adata.var[new_name] = adata.var[keys.SELECTED.name]
        keys.SELECTED.drop(adata)
        log.info("modelling all peaks: %s is kept as var[%r]", keys.SELECTED, new_name)
        return
    n_selected = int(np.asarray(keys.SELECTED.get(adata), bool).sum())
    is_ours = any(receipt.get("stage") == "select-peaks" for receipt in receipts(adata))
    if not is_ours and n_selected < adata.n_vars:
        warnings.warn(
            f"modelling {n_selected:,} of {adata.n_vars:,} peaks, by {keys.SELECTED}, which "
            "`scale select-peaks` did not write; --all-peaks (all_peaks=True) models all",
            ScaleWarning,
            stacklevel=5,
        )


def modelled_peaks(adata: AnnData) -> np.ndarray:
    """Which peaks the model sees, (peaks,) bool: the selected ones, or all where none are marked."""
    if not keys.SELECTED.found_in(adata):
        return np.ones(adata.n_vars, bool)
    selected = np.asarray(keys.SELECTED.get(adata), bool)
    if not selected.any():
        raise InputError(f"{keys.SELECTED} marks none of {adata.n_vars:,} peaks", "some", "run `scale select-peaks` again")
    return selected


def modelled_counts(adata: AnnData, modelled: np.ndarray) -> sparse.csr_matrix:
    """Counts of the modelled peaks, checked: whole numbers of at least two cells."""
    counts = counts_of(adata)
    if adata.n_obs < 2 or adata.n_vars < 1:
        raise InputError(
            f"{adata.n_obs} cells × {adata.n_vars} peaks", "two cells or more", "check the filters of `scale prepare`"
        )
    check_counts(counts)
    return counts if modelled.all() else counts[:, np.flatnonzero(modelled)]


def in_model_order(counts: sparse.csr_matrix, place: np.ndarray) -> sparse.csr_matrix:
    """Columns of `counts` in the order of the model's peaks; a peak that is nowhere (-1) is a column of zeros."""
    known = place >= 0
    here = counts.tocsc()[:, place[known]]
    lengths = np.zeros(len(place), np.int64)
    lengths[known] = np.diff(here.indptr)
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csc_matrix((here.data, here.indices, pointers), (counts.shape[0], len(place))).tocsr()


def train_model(
    source: RowSource, settings: TrainConfig, device: torch.device, progress: Progress | None, **going_on: Any
) -> Trained:
    """Train on the cells of `source` as resolved `settings` say, or go on with a training; nothing is written anywhere."""
    from scale_toolkit.compat.presets import train_published
    from scale_toolkit.model.recipes import train_fast
    from scale_toolkit.model.trainer import Diverged

    fast = settings.preset == "fast"
    batch_size = fast_batch_size(source.n_cells) if settings.batch_size is None else settings.batch_size
    steps_an_epoch = max(round(source.n_cells / batch_size), 1)
    last_epoch = -(-settings.max_iter // steps_an_epoch)
    max_epochs = min(settings.max_epochs or last_epoch, last_epoch)

    def on_epoch(epoch: int, history: History) -> None:
        if progress is not None:
            held_out = f", held-out {history.held_out[-1]:.4f}" if history.held_out else ""
            progress(f"loss {history.loss[-1]:.1f}{held_out}", epoch, max_epochs)

    common = {
        "n_components": settings.n_components,
        "latent": settings.latent,
        "encode_dim": settings.encode_dim,
        "decode_dim": settings.decode_dim,
        "lr": settings.lr,
        "batch_size": batch_size,
        "max_iter": settings.max_iter,
        "max_epochs": settings.max_epochs,
        "weight_decay": settings.weight_decay,
        "patience": settings.patience,
        "log_transform": settings.log_transform,
        "seed": settings.seed,
        "device": device,
        "gpu": gpu_settings(settings),
        "on_epoch": on_epoch,
        **going_on,
    }
    # a short training has a mixture too
    fast_settings = FAST | {"mixture_epoch": min(FAST["mixture_epoch"], (settings.max_epochs or 1) // 2)}
    try:
        trained = (
            train_fast(source, **common, **fast_settings)
            if fast
            else train_published(source, **common, release=settings.preset == "release")
        )
    except Diverged as error:
        raise TrainingError(
            f"training met a value that is not a number in epoch {error.epoch}, in {error.parameter}",
            do=f"lower the learning rate: --lr {settings.lr / 10:g}",
        ) from None
    if trained.stopped:
        import warnings

        warnings.warn(
            f"training stopped early ({trained.stopped}); the last good weights are kept; a lower --lr may go further",
            ScaleWarning,
            stacklevel=2,
        )
    return trained


def fast_batch_size(n_cells: int) -> int:
    """Cells a step of the fast preset: about a sixteenth of the cells, a power of two from 64 to 256."""
    return int(np.clip(2 ** np.floor(np.log2(max(n_cells / 16, 1))), 64, 256))


def _write(
    adata: AnnData,
    trained: Trained,
    counts: sparse.csr_matrix,
    modelled: np.ndarray,
    settings: TrainConfig,
    place: np.ndarray | None = None,
) -> None:
    """Write the slots of `train`; `place` says where each of the model's peaks is in `adata`, -1 for nowhere."""
    from scale_toolkit.core.rows import MatrixRows
    from scale_toolkit.model.recipes import encode as encode_cells

    source = MatrixRows(counts)
    encoded: Encoded = encode_cells(trained, source, seed=settings.seed, gpu=gpu_settings(settings))
    place = np.flatnonzero(modelled) if place is None else place
    here = place >= 0
    cell_sums, peak_sums = encoded.cell_sums, encoded.peak_sums
    for slot in (
        keys.IMPUTED,
        keys.BINARY,
        keys.BINARY_PACKED,
        keys.GROUP_MEANS,
        keys.HIDDEN,
        keys.WEIGHT_PEAKS,
        *keys.VERDICT,
    ):
        slot.drop(adata)  # of a former model
    keys.LATENT.set(adata, encoded.latent)
    keys.LATENT_SCALE.set(adata, encoded.latent.copy())
    if trained.model.shape.decode_dim:
        keys.HIDDEN.set(adata, encoded.hidden)
    decoder = trained.model.decoder
    weight = decoder.weight.detach().cpu().numpy()
    keys.DECODER.set(adata, _spread(weight[here], place[here], (adata.n_vars, weight.shape[1]), 0))
    keys.BIAS.set(adata, _spread(decoder.bias.detach().cpu().numpy()[here], place[here], (adata.n_vars,), np.nan))
    keys.OFFSET.set(adata, encoded.offset)
    keys.MEDIAN_OFFSET.set(adata, float(np.median(encoded.offset)))
    keys.CELL_OPEN_RATE.set(adata, cell_sums / source.n_peaks)
    rates = peak_sums / source.n_cells
    keys.PEAK_OPEN_RATE.set(adata, _spread(rates[here], place[here], (adata.n_vars,), np.nan))
    keys.POSTERIOR.set(adata, encoded.posterior)
    k = trained.model.shape.n_components
    keys.COMPONENT.set(
        adata, pd.Categorical.from_codes(encoded.posterior.argmax(1), [str(c) for c in range(k)]).remove_unused_categories()
    )
    prior = trained.model.prior
    keys.MIXTURE.set(adata, {name: value.detach().cpu().numpy() for name, value in prior.parameters_of().items()})
    history = trained.history
    if history.loss:
        curves = {"loss": history.loss, "reconstruction": history.reconstruction, "divergence": history.divergence}
        if history.held_out:
            curves["held_out"] = history.held_out  # one value more: the start's comes first
        keys.HISTORY.set(adata, {name: np.asarray(curve) for name, curve in curves.items()})


def _spread(values: np.ndarray, place: np.ndarray, shape: tuple[int, ...], fill: float) -> np.ndarray:
    """`values` of some peaks in an array over all peaks, `fill` elsewhere; keeps the dtype."""
    spread = np.full(shape, fill, values.dtype)
    spread[place] = values
    return spread
