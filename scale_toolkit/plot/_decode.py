"""Imputed values of a few peaks from the slots of `train`, for figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from scale_toolkit import keys

if TYPE_CHECKING:
    from anndata import AnnData


def can_decode(adata: AnnData) -> bool:
    """Whether `adata` holds everything that decoding needs."""
    slots = (keys.DECODER, keys.BIAS, keys.OFFSET, keys.LATENT)
    return all(slot.found_in(adata) for slot in slots)


def modelled(adata: AnnData, positions: np.ndarray) -> np.ndarray:
    """Return which peaks `train` has modelled, one bool for each position."""
    return np.isfinite(np.asarray(keys.BIAS.get(adata), float)[positions])


def decoded(
    adata: AnnData, positions: np.ndarray, cells: np.ndarray | slice = slice(None)
) -> np.ndarray:
    """Return the probability that peaks are open at the data's median depth, σ(w·h + b + s̄).

    Parameters
    ----------
    adata
        The output of `train`.
    positions
        Modelled peaks.
    cells
        Some of the cells.

    Returns
    -------
    (cells, peaks) float64.
    """
    hidden = keys.HIDDEN if keys.HIDDEN.found_in(adata) else keys.LATENT
    loadings = np.asarray(keys.DECODER.get(adata)[positions], float)
    bias = np.asarray(keys.BIAS.get(adata), float)[positions]
    depth = (
        float(keys.MEDIAN_OFFSET.get(adata))
        if keys.MEDIAN_OFFSET.found_in(adata)
        else float(np.median(keys.OFFSET.get(adata)))
    )
    return expit(np.asarray(hidden.get(adata)[cells], float) @ loadings.T + bias + depth)
