"""Leading eigenvectors of a matrix of cells that is known by its products alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scale_toolkit.model.kinship import like

if TYPE_CHECKING:
    from scale_toolkit.model.kinship import Kinship

SPARE = 8  # columns of a block beyond the eigenvectors asked for
#: Columns by which a space grows: products of 24 columns take the least time for each.
WIDTH = 24
#: Rows of a product in float64.
_BLOCK = 1 << 16


def leading_eigenvectors(
    matrix: Kinship, block: torch.Tensor, n: int, n_blocks: int
) -> tuple[np.ndarray, torch.Tensor]:
    """The `n` largest eigenvalues and their vectors, as `Search` finds them.

    Parameters
    ----------
    matrix
        Symmetric; may have negative eigenvalues.
    block
        Columns to begin with, (cells, c).
    n_blocks
        Products with the matrix.

    Returns
    -------
    Eigenvalues (n,) in falling order, and vectors (cells, n) float32; fewer if the space has fewer
    dimensions.
    """
    return Search(matrix, block).leading(n, n_blocks)


class Search:
    """A growing space in which the leading eigenvectors of a matrix are searched.

    It begins with some columns and grows by what the matrix makes of its own leading vectors beyond
    them, those furthest from convergence: block Krylov (Musco & Musco 2015, algorithm 2) that can
    begin with vectors found before and go on if more are wanted.

    Parameters
    ----------
    As those of `leading_eigenvectors`.
    """

    def __init__(self, matrix: Kinship, block: torch.Tensor) -> None:
        self.matrix, self.next = matrix, block
        self.basis = self.images = block[:, :0]

    def leading(self, n: int, n_blocks: int) -> tuple[np.ndarray, torch.Tensor]:
        """The `n` largest eigenvalues and their vectors after `n_blocks` more products."""
        for _ in range(n_blocks):
            new = orthonormal_to(self.basis, self.next)
            if new.shape[1] == 0:
                break
            self.basis = torch.hstack([self.basis, new])
            self.images = torch.hstack([self.images, self.matrix.times(new)])
            values, mix = self._ritz(n + SPARE)
            residuals = self.images @ mix - self.basis @ (mix * like(mix, values))
            furthest = residuals.square().sum(0).argsort(descending=True, stable=True)[:WIDTH]
            self.next = residuals[:, furthest]
        values, mix = self._ritz(n)
        return values, self.basis @ mix

    def _ritz(self, n: int) -> tuple[np.ndarray, torch.Tensor]:
        """The `n` largest Ritz values of the space in falling order, and their vectors in the
        basis.
        """
        inner = inner_product(self.basis, self.images).cpu().numpy()
        values, mix = np.linalg.eigh((inner + inner.T) / 2)
        chosen = np.argsort(-values, kind="stable")[:n]
        return values[chosen], like(self.basis, mix[:, chosen])


def orthonormal_to(basis: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of what `block` (cells, c) adds to `basis` (cells, m): (cells, up to
    c).
    """
    residual = block
    for _ in range(2):
        residual = residual - basis @ (basis.T @ residual)
    gram = inner_product(residual, residual).cpu().numpy()
    sizes, mix = np.linalg.eigh(gram)
    is_large = sizes > 1e-9 * max(float(block.double().square().sum()), 1e-300)
    if basis.shape[1] + is_large.sum() > len(block):
        is_large &= np.arange(len(is_large)) >= len(is_large) - (len(block) - basis.shape[1])
    new = residual @ like(block, mix[:, is_large] / np.sqrt(sizes[is_large]))
    return torch.linalg.qr(new - basis @ (basis.T @ new))[0]


def inner_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Leftᵀ · right of two matrices with a row a cell, (p, q) float64.

    Rows are made float64 a block at a time, so that memory does not follow the number of cells.
    """
    total = left.new_zeros((left.shape[1], right.shape[1]), dtype=torch.float64)
    for left_block, right_block in zip(left.split(_BLOCK), right.split(_BLOCK), strict=True):
        total += left_block.T.double() @ right_block.double()
    return total
