"""What `map` needs of a trained model: from the output of `train`, or from its model file alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.errors import InputError
from scale_toolkit.stages._latent import latent_of
from scale_toolkit.stages.decoder import check_finite, median_offset, modelled_positions

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.model.recipes import Trained

#: What the output of `train` must hold.
_NEEDED = (keys.LATENT, keys.DECODER, keys.BIAS, keys.OFFSET, keys.MIXTURE)
_MIXTURE = ("weights", "means", "variances")


@dataclass(frozen=True)
class Reference:
    """A trained model as placing cells sees it.

    Attributes
    ----------
    peaks
        Names of the modelled peaks.
    loadings, intercepts
        Of the decoder, (peaks, latent) and (peaks,) float64.
    mixture
        ``weights`` (k,), ``means`` and ``variances`` (k, latent).
    mean_latent
        Latent vector of the mean cell; of a model file the mean of the mixture.
    offset
        Depth at which cells are compared: the median offset of the cells; of a model file 0, the
        mean of the cells that it was trained on (`core.depth.rasch`).
    on_sphere
        Whether latent vectors have the length √latent.
    free_offset
        Whether each cell has a depth offset.
    n_cells
        Cells that new ones can be compared with; 0 for a model file.
    """

    peaks: pd.Index
    loadings: np.ndarray
    intercepts: np.ndarray
    mixture: dict[str, np.ndarray]
    mean_latent: np.ndarray
    offset: float
    on_sphere: bool
    free_offset: bool
    n_cells: int = 0


def check_trained(adata: AnnData) -> None:
    """Raise `InputError` if `adata` is not the output of `train`, or has another decoder."""
    for slot in _NEEDED:
        if not slot.found_in(adata):
            raise InputError(
                f"the reference lacks {slot}",
                "the output of `scale train`",
                "train the reference first",
            )
    if keys.HIDDEN.found_in(adata):
        _refuse_hidden_layers()
    _check_names(adata.var_names)


def reference_of_cells(adata: AnnData) -> Reference:
    """Return the model in the output of `train`."""
    modelled = modelled_positions(adata)
    loadings = np.asarray(keys.DECODER.get(adata), np.float64)[modelled]
    latent, offsets = latent_of(adata), np.asarray(keys.OFFSET.get(adata), np.float64)
    check_finite({keys.DECODER: loadings, keys.OFFSET: offsets})
    mixture = keys.MIXTURE.get(adata)
    return Reference(
        peaks=adata.var_names[modelled],
        loadings=loadings,
        intercepts=keys.BIAS.get(adata).to_numpy(np.float64)[modelled],
        mixture={name: np.asarray(mixture[name], np.float64) for name in _MIXTURE},
        mean_latent=latent.mean(0),
        offset=median_offset(adata),
        on_sphere=bool(np.allclose(np.square(latent).mean(1), 1, atol=0.01)),
        free_offset=bool(np.ptp(offsets) > 0),
        n_cells=adata.n_obs,
    )


def reference_of_model(data: bytes) -> Reference:
    """Return the model in the bytes of a model file.

    Raises
    ------
    InputError
        The bytes are not a model, or one of SCALE 1.1.2, of a decoder with hidden layers, or of
        peaks without names.
    """
    trained, names = _read(data)
    peaks = pd.Index(names)
    _check_names(peaks)
    model = trained.model
    mixture = {
        name: value.detach().cpu().numpy().astype(np.float64)
        for name, value in model.prior.parameters_of().items()
    }
    weights = mixture["weights"] / mixture["weights"].sum()
    return Reference(
        peaks=peaks,
        loadings=model.decoder.weight.detach().cpu().numpy().astype(np.float64),
        intercepts=model.decoder.bias.detach().cpu().numpy().astype(np.float64),
        mixture=mixture,
        mean_latent=weights @ mixture["means"],
        offset=0.0,
        on_sphere=model.shape.on_sphere,
        free_offset=trained.depth_bias is not None,
    )


def _read(data: bytes) -> tuple[Trained, list[str]]:
    from scale_toolkit.model.files import model_of
    from scale_toolkit.stages.encode import model_contents

    content = model_contents(data)
    if content.get("format") is None:
        raise InputError(
            "the reference is a model.pt of SCALE 1.1.2, which names no peaks",
            "a model that `scale train --model` wrote, or its h5ad",
            "encode cells that have the model's peaks with `scale train --pretrain`",
        )
    trained, names, _ = model_of(content)
    if trained.model.shape.decode_dim:
        _refuse_hidden_layers()
    return trained, names


def _refuse_hidden_layers() -> None:
    raise InputError(
        "the reference's decoder has hidden layers",
        "a linear decoder",
        "train the reference without decode_dim",
    )


def _check_names(names: pd.Index) -> None:
    """Refuse the names that anndata gives to peaks without any."""
    if list(names[:3]) == [str(number) for number in range(min(3, len(names)))]:
        raise InputError(
            "the reference's peaks are numbered, not named",
            "names such as chr1:100-200",
            "name the peaks of the reference, and train it again",
        )
