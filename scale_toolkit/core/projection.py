"""A linear map from the open peaks of a cell to a latent space that is already there.

The latent vector of a cell is, up to a correction, the direction of a linear projection of its
TF-IDF weights t (`weighting.Weighting`). The map M is fitted to the latent vectors L of the cells
that have some, by ridge regression

    M = argmin ‖T M − L‖² + α ‖M‖²,   α = `RIDGE` · mean ‖t_i‖²

and other cells, such as simulated ones, get the direction of t M. No model file is needed, and
the fitted and the other cells are treated alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from scale_toolkit.core.weighting import Weighting, fit_weighting

#: Ridge, as a share of the mean squared length of a row, as in the start of training.
RIDGE = 0.1
#: Relative residual of the conjugate gradients: 0.01 and 0.001 gave the same neighbours.
TOLERANCE = 0.01
#: The map is fitted to at most this many random cells.
MOST_CELLS = 10_000


@dataclass(frozen=True)
class LatentMap:
    """A fitted map from open peaks to directions in a latent space.

    Attributes
    ----------
    weighting
        TF-IDF of the peaks of the cells it was fitted to.
    loadings
        M, (peaks, latent) float32.
    """

    weighting: Weighting
    loadings: np.ndarray

    def __call__(self, opened: sparse.csr_matrix) -> np.ndarray:
        """Return the latent vectors of cells, (cells, latent) float32, of length √latent; rows of
        cells without an open peak are 0.
        """
        return unit_rows(np.asarray(self.weighting(opened) @ self.loadings))

    def project(self, opened: sparse.csr_matrix) -> np.ndarray:
        """Return t M, before it is scaled to a length, (cells, latent) float64."""
        return np.asarray(self.weighting(opened) @ self.loadings, np.float64)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of the length √latent, as `train` gives them; zeros stay zeros."""
    return vectors / np.sqrt(np.square(vectors).mean(1, keepdims=True) + 1e-8)


def fit_latent_map(
    opened: sparse.csr_matrix, latent: np.ndarray, rng: np.random.Generator
) -> LatentMap:
    """Fit the map to cells whose latent vectors are known.

    Parameters
    ----------
    opened
        Open peaks, (cells, peaks) CSR of ones.
    latent
        Latent vectors, (cells, latent).
    rng
        Draws `MOST_CELLS` cells if there are more.
    """
    from sklearn.linear_model import Ridge

    n_cells, n_peaks = opened.shape
    weighting = fit_weighting(n_cells, np.bincount(opened.indices, minlength=n_peaks))
    if n_cells > MOST_CELLS:
        chosen = np.sort(rng.choice(n_cells, MOST_CELLS, replace=False))
        opened, latent = opened[chosen], latent[chosen]
    rows = weighting(opened)
    squares = float(rows.multiply(rows).sum()) / max(len(latent), 1)
    ridge = Ridge(
        alpha=RIDGE * max(squares, 1e-12), fit_intercept=False, solver="sparse_cg", tol=TOLERANCE
    )
    loadings = ridge.fit(rows, latent).coef_
    return LatentMap(weighting, np.ascontiguousarray(loadings.T, np.float32))
