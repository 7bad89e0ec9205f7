"""SCALE's estimate of the number of clusters."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from scale_toolkit.core.eigenvalues import count_above, tracy_widom
from scale_toolkit.errors import InputError, OptionError


def estimate_k(data: Any, *, bound: str = "scale", dense_up_to: int = 2000) -> int:
    """Estimate the number of clusters by random matrix theory, as SC3 does.

    The eigenvalues of the Gram matrix of standardised cells that exceed μ + c·σ are counted, where
    μ and σ are the centre and the scale of the Tracy-Widom law for noise (equations:
    `core.eigenvalues`).

    Parameters
    ----------
    data
        Peaks × cells (array, DataFrame or scipy sparse, never made dense), values as they are; or
        an AnnData (cells × peaks), of which the open peaks are used.
    bound
        ``"scale"``: c = √p, as in SCALE; ``"sc3"``: c = 3.273, the 0.1 % quantile that SC3 uses. On
        sparse chromatin data the latter counts noise: 20 and 25 where SCALE's bound gives 4 and 8
        on the paper's Leukemia (6 classes) and half of Forebrain (8 classes).
    dense_up_to
        Up to this many cells all eigenvalues are computed; above it only as many of the largest as
        are needed.

    Returns
    -------
    The estimate, 0 or more. SCALE 1.1.2 asks for the six largest eigenvalues only and can
    never return more than 6.

    Raises
    ------
    OptionError
        If `bound` is unknown.
    InputError
        If there are fewer than two cells or two peaks.
    """
    if hasattr(data, "obs_names"):
        data = sparse.csr_matrix(data.X).T > 0
    values = data if sparse.issparse(data) else np.asarray(data)
    values = values.astype(np.float64)
    n_peaks, n_cells = values.shape
    if min(n_peaks, n_cells) < 2:
        raise InputError(
            f"the matrix is {n_peaks} peaks × {n_cells} cells",
            "at least two of each",
            "give peaks × cells, or an AnnData",
        )
    if bound not in ("scale", "sc3"):
        raise OptionError(f"bound is {bound!r}", "one of scale, sc3")
    centre, scale = tracy_widom(n_peaks, n_cells)
    factor = float(np.sqrt(n_peaks)) if bound == "scale" else 3.273
    return count_above(values, centre + factor * scale, dense_up_to)
