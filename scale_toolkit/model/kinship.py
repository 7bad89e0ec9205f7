"""Cells compared by their open peaks, beyond what depth and signal-to-noise ratio would open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from scale_toolkit.core.depth import OneType
    from scale_toolkit.model.products import Products, WeightedProducts


@dataclass(frozen=True)
class View:
    """How much a peak counts in the comparison of two cells: its frequency to the power
    −`exponent`.
    """

    name: str
    exponent: float

    def peak_weights(self, peak_sums: np.ndarray, n_cells: int) -> np.ndarray:
        """Weights of a cell's open peaks, the roots of what they count: (peaks,) float32.

        Parameters
        ----------
        peak_sums, n_cells
            In how many of how many cells each peak is open, (peaks,).
        """
        frequency = np.maximum(peak_sums, 1) / n_cells
        return (frequency ** (-self.exponent / 2)).astype(np.float32)


#: Peaks alike is best for types whose peaks differ by the same factor at any frequency, the inverse
#: frequency where rare peaks differ more, as in most real cells (benchmarks/RESULTS.md, "Pairs of
#: cells with the same noise"). The one between them is first: the others begin with what it finds.
VIEWS: tuple[View, ...] = (
    View("peaks by 1/√frequency", 0.5),
    View("peaks by 1/frequency", 1.0),
    View("peaks alike", 0.0),
)


class Kinship:
    """The Gram matrix of weighted residuals, each pair of cells with the same noise, without its
    diagonal: q_i q_k Σ_j w_j² (x_ij − p_ij) (x_kj − p_kj), i ≠ k.

    x is 1 for an open peak, p what depth and slope let expect. The variance of the sum is
    Σ_j w_j⁴ v_ij v_kj with v = p (1 − p) if depth alone is true; q_i = (Σ_j w_j⁴ v_ij²)^(−1/4)
    makes it 1 for cells of one depth, and for the others as far as v factors into a cell's and a
    peak's part (the idea of biwhitening: Landa, Zhang & Kluger 2022, SIAM J. Math. Data Sci.
    4:1420).

    Parameters
    ----------
    rows
        x times w.
    peak_weights
        w, (peaks,).
    depth
        p of the same cells.
    """

    def __init__(self, rows: WeightedProducts, peak_weights: np.ndarray, depth: OneType) -> None:
        self.rows = rows
        squares = rows.square_norms()
        chances, shares = depth.probabilities.astype(np.float64), depth.shares.astype(np.float64)
        noise = chances * (1 - chances) * peak_weights.astype(np.float64) ** 2
        variances = ((shares @ (noise @ noise.T)) * shares).sum(1)
        # 1 / q, 0 for a cell that opens nothing or everything
        deviations = np.maximum(variances, 0) ** 0.25
        inverse = np.divide(1, deviations, out=np.zeros_like(deviations), where=deviations > 0)
        self.scale = torch.from_numpy(inverse).float().to(squares.device)[:, None]
        #: Variance of each peak's weighted residual, times q², in the mean of the cells, (peaks,).
        by_depth = (shares * inverse[:, None] ** 2).mean(0)
        self.noise = by_depth @ noise
        # w · p = shares · expected, (cells, terms) and (terms, peaks)
        coefficients, profiles = depth.terms()
        self.shares = like(self.scale, coefficients)
        self.expected = like(self.scale, profiles * peak_weights)
        # Σ (wx − wp)² = Σ (wx)² − 2 Σ wx·wp + Σ (wp)²
        shared = self.rows.times(self.expected.T.contiguous())
        lengths = (self.shares @ (self.expected @ self.expected.T) - 2 * shared) * self.shares
        squares = squares + lengths.sum(1)
        self.diagonal = (squares * self.scale[:, 0].square()).float()[:, None]

    def times(self, block: torch.Tensor) -> torch.Tensor:
        """The matrix times a block, (cells, c) float32."""
        return self.scale * self.beyond_depth(self.loadings(block)) - self.diagonal * block

    def beyond_depth(self, dense: torch.Tensor) -> torch.Tensor:
        """Weighted residuals times `dense` (peaks, c): (cells, c) float32."""
        return self.rows.times(dense) - self.shares @ (self.expected @ dense)

    def loadings(self, block: torch.Tensor) -> torch.Tensor:
        """Weighted residualsᵀ · q · block, (peaks, c)."""
        scaled = self.scale * block
        return self.rows.transposed_times(scaled) - self.expected.T @ (self.shares.T @ scaled)


def kinship_of(
    products: Products,
    view: View,
    peak_sums: np.ndarray,
    n_cells: int,
    depth: OneType,
    cells: np.ndarray | None = None,
) -> Kinship:
    """The view's matrix of all cells or of some, with weights and depths of all `n_cells`."""
    weights = view.peak_weights(peak_sums, n_cells)
    chosen = depth if cells is None else depth.chosen(cells)
    return Kinship(products.weighted(weights, cells), weights, chosen)


def like(tensor: torch.Tensor, values: np.ndarray) -> torch.Tensor:
    """An array as a tensor of the same type on the same device."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(tensor)
