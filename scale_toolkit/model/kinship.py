"""Cells compared through a weighting of their open peaks, beyond what depth alone would open."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from scale_toolkit.core.depth import DepthAlone
    from scale_toolkit.model.products import Products, WeightedProducts


@dataclass(frozen=True)
class View:
    """How a view weights a row of open peaks, given in how many of how many cells each peak is
    open.
    """

    name: str
    cosine: bool
    column_weights: Callable[[np.ndarray, int], np.ndarray]
    log: bool = False

    def peak_weights(self, peak_sums: np.ndarray, n_cells: int) -> np.ndarray:
        """Weights of the peaks, (peaks,) float32."""
        return self.column_weights(np.maximum(peak_sums, 1), n_cells).astype(np.float32)

    def values(self, peak_weights: np.ndarray, n_open: np.ndarray) -> np.ndarray:
        """Weighted values of open peaks in cells with `n_open` open peaks, (cells, peaks) or, if
        they do not depend on that, (peaks,).
        """
        if not self.log:
            return peak_weights
        return np.log1p(1e4 / np.maximum(n_open, 1)[:, None] * peak_weights)


#: Weightings of the start. Together they work from 30 to 10,000 open peaks a cell, although each of
#: them fails on some sets (benchmarks/RESULTS.md): log TF-IDF is flat for sparse cells, the cosine
#: views give rare peaks too much weight in cells with many open peaks.
VIEWS = (
    View(
        "idf cosine", cosine=True, column_weights=lambda sums, n: np.log(n / (1 + sums)).clip(1e-3)
    ),
    View("1/sqrt(df) cosine", cosine=True, column_weights=lambda sums, n: sums**-0.5),
    View("log TF-IDF", cosine=False, column_weights=lambda sums, n: np.log1p(n / sums), log=True),
)


class Kinship:
    """The Gram matrix of what weighted rows have beyond their depth, without its diagonal.

    With rows w_i, m_i what depth alone lets expect of them and r_i = w_i − m_i: q_i (r_i·r_k) q_k,
    i ≠ k. q is 1, or for cosine views 1 / (‖w_i‖ √d_i), d_i = Σ_{k≠i} w_i·w_k / (‖w_i‖ ‖w_k‖), as
    in the symmetric normalised Laplacian.

    Parameters
    ----------
    rows
        w, of `view`.
    view, peak_weights
        The weighting, and what it gives the peaks, (peaks,).
    depth
        Of the same cells.
    """

    def __init__(
        self, rows: WeightedProducts, view: View, peak_weights: np.ndarray, depth: DepthAlone
    ) -> None:
        self.rows = rows
        squares = rows.square_norms()
        scale = torch.ones_like(squares)
        if view.cosine:
            scale = squares.clamp_min(1e-30).rsqrt()
            kin = rows.times(rows.transposed_times(scale[:, None].float()))[:, 0]
            degree = scale * kin - squares * scale.square()
            scale = scale * degree.clamp_min(1e-30).rsqrt()
            scale[degree <= 1e-9] = 0  # a cell that shares nothing with any other
        self.scale = scale.float()[:, None]
        # m = shares · expected, (cells, depths) and (depths, peaks)
        self.shares = like(self.scale, depth.shares)
        self.expected = like(
            self.scale, depth.probabilities * view.values(peak_weights, depth.n_open)
        )
        # ‖r‖² = ‖w‖² − 2 w·m + ‖m‖²
        shared = self.rows.times(self.expected.T.contiguous())
        lengths = (self.shares @ (self.expected @ self.expected.T) - 2 * shared) * self.shares
        squares = squares + lengths.sum(1)
        self.diagonal = (squares * scale.square()).float()[:, None]

    def times(self, block: torch.Tensor) -> torch.Tensor:
        """The matrix times a block, (cells, c) float32."""
        return self.scale * self.beyond_depth(self.loadings(block)) - self.diagonal * block

    def beyond_depth(self, dense: torch.Tensor) -> torch.Tensor:
        """Rows beyond their depth, r, times `dense` (peaks, c): (cells, c) float32."""
        return self.rows.times(dense) - self.shares @ (self.expected @ dense)

    def loadings(self, block: torch.Tensor) -> torch.Tensor:
        """Rᵀ · q · block, (peaks, c)."""
        scaled = self.scale * block
        return self.rows.transposed_times(scaled) - self.expected.T @ (self.shares.T @ scaled)


def kinship_of(
    products: Products,
    view: View,
    peak_sums: np.ndarray,
    n_cells: int,
    depth: DepthAlone,
    cells: np.ndarray | None = None,
) -> Kinship:
    """The view's matrix of all cells or of some, with weights and depths of all `n_cells`."""
    rows = products.weighted(view, peak_sums, n_cells, cells)
    chosen = depth if cells is None else depth.chosen(cells)
    return Kinship(rows, view, view.peak_weights(peak_sums, n_cells), chosen)


def like(tensor: torch.Tensor, values: np.ndarray) -> torch.Tensor:
    """An array as a tensor of the same type on the same device."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(tensor)
