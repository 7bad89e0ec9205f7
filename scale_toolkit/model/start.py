"""Starting values of training besides the latent space of `model.views`: decoder and mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scale_toolkit.core.depth import merge_values
from scale_toolkit.model.team import ALONE, Team

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scale_toolkit.model.cells import Cells


@torch.no_grad()
def decoder_step(
    cells: Cells,
    z: np.ndarray,
    s: np.ndarray,
    b: np.ndarray,
    ridge: float,
    *,
    index: np.ndarray | None = None,
    groups: int = 1000,
    team: Team = ALONE,
) -> np.ndarray:
    """One Newton step of the decoder from w = 0 at the depth offsets: (peaks, d) float32.

    The gradient is exact up to the grouping of peaks with near sums; the Hessian Σ_i p_ij (1 −
    p_ij) z_i z_iᵀ is taken as Σ_i p_ij (1 − p_ij) times the depth-weighted covariance of z, one d ×
    d matrix for all peaks.

    Parameters
    ----------
    cells, index
        Open peaks, of all cells or of these.
    z, s
        Latent vectors and depth offsets of all cells, (cells, d) and (cells,).
    b
        Depth-only intercepts, (peaks,).
    ridge
        Precision of a normal prior on the loadings.
    team
        The processes, each with its own cells: the step is that of all.
    """
    d, device = z.shape[1], cells.device
    total_gradient = torch.zeros((cells.n_peaks, d), device=device)
    expectations = []
    for group, shifted in _by_batch(cells, b, index):
        expectations.append(_expectation(cells, z, s, shifted, group, groups, total_gradient))
    gradient = team.total(total_gradient.cpu().numpy())
    expected, information, covariance, depth_total = (
        team.total(sum(terms[1:], terms[0])) for terms in zip(*expectations, strict=True)
    )
    eigenvalues, basis = np.linalg.eigh(covariance / depth_total)
    rotated = ((gradient - expected) @ basis) / (
        information[:, None] * eigenvalues[None, :] + ridge
    )
    return (rotated @ basis.T).astype(np.float32)


def _by_batch(
    cells: Cells, b: np.ndarray, index: np.ndarray | None
) -> Iterator[tuple[np.ndarray | None, np.ndarray]]:
    """Yield the cells of each batch with its intercepts; without batches all in `index`."""
    if cells.effects is None:
        yield index, b
        return
    index = np.arange(cells.n_cells) if index is None else index
    codes = cells.effects.codes[index]
    for code in np.unique(codes):
        yield index[codes == code], b + cells.effects.logits[code]


def _expectation(
    cells: Cells,
    z: np.ndarray,
    s: np.ndarray,
    b: np.ndarray,
    index: np.ndarray | None,
    groups: int,
    total_gradient: torch.Tensor,
) -> tuple[Any, ...]:
    """Add Σ_i x_ij z_i to the gradient; return Σ_i p_ij z_i (peaks, d), Σ_i p_ij (1 − p_ij)
    (peaks,), and the depth-weighted covariance of z (d, d) with its weight.
    """
    d, device = z.shape[1], cells.device
    values, value_index = np.unique(b, return_inverse=True)
    grouped, weight = merge_values(values, np.bincount(value_index).astype(float), groups)
    real = torch.float64 if device.type != "mps" else torch.float32
    group_logit, group_weight = (
        torch.from_numpy(values_of_groups).to(device, real)
        for values_of_groups in (grouped, weight)
    )
    sums = [
        torch.zeros(shape, dtype=real, device=device)
        for shape in ((len(grouped), d), (len(grouped),), (d, d), ())
    ]
    for block in cells.blocks(index):
        for chunk in np.array_split(block, -(-len(block) // 4096)):
            latent = torch.from_numpy(z[chunk]).to(device)
            total_gradient += cells.opened(chunk).transposed_times(latent.float())
            latent = latent.to(real)
            # (cells, groups)
            p = torch.sigmoid(torch.from_numpy(s[chunk]).to(device, real)[:, None] + group_logit)
            depth = p @ group_weight
            for total, term in zip(
                sums,
                (
                    p.T @ latent,
                    (p * (1 - p)).sum(0),
                    (latent * depth[:, None]).T @ latent,
                    depth.sum(),
                ),
                strict=True,
            ):
                total += term
    expected, information, covariance, depth_total = (array.cpu().numpy() for array in sums)
    nearest = (
        np.abs(grouped[:, None] - values[None, :]).argmin(0)[value_index]
        if len(grouped) < len(values)
        else value_index
    )
    return expected[nearest], information[nearest], covariance, depth_total


def fit_mixture(
    z: np.ndarray, n_components: int, seed: int, n_init: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (k,), means (k, d), variances (k, d) of a diagonal Gaussian mixture fitted to `z` by
    EM (scikit-learn).

    More components than cells: the number of cells are fitted, and the rest repeat them with a
    small weight.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    k = min(n_components, len(z))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = GaussianMixture(
            k, covariance_type="diag", random_state=seed, n_init=n_init, reg_covar=1e-3
        ).fit(z.astype(np.float64))
    repeat = np.arange(n_components) % k
    weights = np.where(np.arange(n_components) < k, fitted.weights_[repeat], 1e-6)
    return weights / weights.sum(), fitted.means_[repeat], fitted.covariances_[repeat]
