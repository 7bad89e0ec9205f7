"""``encode``: encode cells with a trained model, of this toolkit or of SCALE 1.1.2."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit import keys
from scale_toolkit.config import TrainConfig
from scale_toolkit.core.gather import stacked
from scale_toolkit.core.intervals import match_names
from scale_toolkit.errors import InputError, warn
from scale_toolkit.stages.batches import batch_columns, model_batches
from scale_toolkit.stages.counts import counts_of
from scale_toolkit.stages.gpu import find_device, used
from scale_toolkit.stages.stage import Progress, Result, stage
from scale_toolkit.stages.train_slots import STALE, WRITES, trained_slots
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData
    from scipy import sparse

    from scale_toolkit.model.recipes import Trained

    PeakNames = Sequence[str] | Callable[[], Sequence[str] | None]

log = logging.getLogger("scale_toolkit")


def check(adata: AnnData, config: TrainConfig, **inputs: Any) -> None:
    """Raise for a device that is not available."""
    find_device(config.device)


@stage(
    "train",
    TrainConfig,
    reads=lambda config: (keys.X, keys.VAR_NAMES, *batch_columns(config)),
    writes=WRITES,
    check=check,
    loads=("torch",),
)
def encode(
    adata: AnnData,
    config: TrainConfig,
    *,
    progress: Progress | None = None,
    model: bytes,
    peaks: PeakNames | None = None,
) -> Result:
    """Encode cells with a trained model, without training: `train --pretrain`.

    Peaks are matched by name. A peak that the model knows and `adata` lacks counts as closed, with
    a warning; a peak that the model does not know is not modelled. Writes the slots of `train`
    except ``uns['scale_history']``.

    For a ``model.pt`` of SCALE 1.1.2 the latent vectors are the means of the release's own forward
    pass (its files hold one random sample of each), from open peaks, as the release sees them.

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
        Names of the peaks of a ``model.pt`` of SCALE 1.1.2, in its order: those of its
        ``adata.h5ad``; or a function that reads them when they are needed. Other models contain
        the names.

    Raises
    ------
    InputError
        The bytes are not a model of this toolkit or of the release, or hold code; a release's model
        comes without names or with another number of them; or model and cells share no peak.
    """
    trained, names, facts = _pretrained(model, peaks)
    positions = _positions(names, adata)
    device = find_device(config.device)
    with used(device, config):
        trained.model.to(device)
        counts = in_model_order(counts_of(adata), positions)
        trained, batches = model_batches(trained, facts, adata, config)
        slots = trained_slots(trained, counts, positions, adata.var_names, config, batches)
    slots.pop(keys.HISTORY, None)
    return Result(
        slots,
        drops=(keys.HISTORY, *STALE),
        facts={
            "pretrained": True,
            "model_version": facts.get("version", ""),
            "peaks_missing": int((positions < 0).sum()),
        },
    )


def _positions(names: list[str], adata: AnnData) -> np.ndarray:
    """Return the position of each of the model's peaks in `adata`, -1 if it is missing."""
    if not adata.var_names.is_unique:
        duplicate = adata.var_names[adata.var_names.duplicated()][0]
        raise InputError(
            f"peak {duplicate} is duplicated",
            "unique names of peaks",
            "run `scale prepare` on the counts first",
        )
    positions = match_names(names, adata.var_names)
    missing = [name for name, position in zip(names, positions, strict=True) if position < 0]
    if len(missing) == len(names):
        raise InputError(
            f"none of the model's {len(names):,} peaks is here "
            f"(model: {names[0]}; here: {adata.var_names[0]})",
            "cells counted over the peaks the model was trained on",
            "count these cells over the model's peaks",
        )
    if missing:
        warn(
            f"{len(missing):,} of the model's {len(names):,} peaks are not here "
            f"({first_names(missing, 3)}): they count as closed in every cell, and latent vectors "
            "are less exact"
        )
    n_unknown = adata.n_vars - (len(names) - len(missing))
    if n_unknown > 0:
        log.info(
            "%d of %d peaks here are not the model's: they are not modelled",
            n_unknown,
            adata.n_vars,
        )
    return positions


def in_model_order(counts: sparse.csr_matrix, positions: np.ndarray) -> sparse.csr_matrix:
    """Return the columns of `counts` at `positions`; a missing peak (-1) is a column of zeros.

    A few rows at a time, and `counts` itself if all its peaks are the model's in their order.
    """
    if np.array_equal(positions, np.arange(counts.shape[1])) and counts.has_sorted_indices:
        return counts
    new_positions = np.full(counts.shape[1], -1)
    present = positions >= 0
    new_positions[positions[present]] = np.flatnonzero(present)
    return stacked([counts], [new_positions], len(positions))


def options_of(model: bytes) -> dict[str, Any]:
    """Return the options that a model was trained with, as keywords of `train`.

    Models of SCALE 1.1.2 hold none: theirs are the release preset's.
    """
    content = model_contents(model)
    if content.get("format") is None:
        mixture = [len(content[name]) for name in ("pi", "mu_c") if name in content]
        n_components, latent = mixture if len(mixture) == 2 else (1, 1)
        return {"preset": "release", "n_components": n_components, "latent": latent}
    known = TrainConfig.__dataclass_fields__
    options = content["facts"].get("options", {})
    return {name: value for name, value in options.items() if name in known}


def made_by(adata: AnnData, model: bytes) -> bool:
    """Whether the slots of `train` in `adata` are this model's: its peaks, its loadings, all
    cells.
    """
    needed = (keys.DECODER, keys.BIAS, keys.LATENT, keys.POSTERIOR, keys.COMPONENT)
    if not all(slot.found_in(adata) for slot in needed):
        return False
    content = model_contents(model)
    if content.get("format") is None or not adata.var_names.is_unique:
        return False
    positions = match_names(content["peaks"], adata.var_names)
    weight = content["weights"]["decoder.weight"].numpy()
    stored = np.asarray(keys.DECODER.get(adata))
    same_shape = bool((positions >= 0).all()) and weight.shape[1] == stored.shape[1]
    return same_shape and np.array_equal(stored[positions], weight)


def model_contents(model: bytes) -> dict[str, Any]:
    """Return the contents of a model file of this toolkit or of SCALE 1.1.2."""
    from scale_toolkit.compat.release_model import is_release
    from scale_toolkit.model.files import NotAModel, contents, model_of

    try:
        content = contents(model)
        if not is_release(content):
            model_of(content)
    except NotAModel as error:
        raise InputError(
            f"the model file is {error}",
            "a file written by `scale train --model`, or the model.pt of SCALE 1.1.2",
            "check the path, or train again",
        ) from None
    return content


def _pretrained(model: bytes, peaks: PeakNames | None) -> tuple[Trained, list[str], dict[str, Any]]:
    """Return a model, the names of its peaks, and its facts."""
    from scale_toolkit.model.files import model_of

    content = model_contents(model)
    if content.get("format") is not None:
        return model_of(content)
    return _released(content, peaks() if callable(peaks) else peaks)


def _released(
    content: dict[str, Any], peaks: Sequence[str] | None
) -> tuple[Trained, list[str], dict[str, Any]]:
    """Return a model of SCALE 1.1.2 with the names of its peaks, which its file does not hold."""
    from scale_toolkit.compat.release_model import NotOfTheRelease, trained_of

    try:
        trained, n_degenerate = trained_of(content)
    except NotOfTheRelease as error:
        raise InputError(
            f"the model file {error}",
            "a complete model.pt of SCALE 1.1.2",
            "regenerate or copy it again",
        ) from None
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
            f"the model file has {n_peaks:,} peaks, and {len(names):,} names of peaks are given",
            "the names of the peaks it was trained on",
            "give the adata.h5ad of the same run with --pretrain-peaks",
        )
    if len(set(names)) != len(names):
        raise InputError(
            "a name is duplicated among the model's peaks",
            "unique names",
            "make the names unique in both files",
        )
    if n_degenerate:
        warn(
            f"{n_degenerate} of {trained.model.shape.n_components} components of the model have a "
            "weight or variance of 0 or less, for which the release computes no responsibilities; "
            "theirs are taken as almost 0"
        )
    return trained, names, {"version": "SCALE 1.1.2"}
