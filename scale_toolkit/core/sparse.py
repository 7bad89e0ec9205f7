"""Sparse rows and their products with dense matrices: the cost of every step follows the open peaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from scipy import sparse


class RowSource(Protocol):
    """Where cells come from: a matrix in memory, or a file read in blocks. Nothing else may assume that all are at hand."""

    n_cells: int
    n_peaks: int

    def rows(self, index: np.ndarray) -> sparse.csr_matrix:
        """Counts of these cells, (len(index), n_peaks) CSR, in this order."""
        ...


class MatrixRows:
    """A row source over a matrix in memory (cells × peaks)."""

    def __init__(self, matrix: sparse.spmatrix | np.ndarray) -> None:
        self._matrix = sparse.csr_matrix(matrix)
        self.n_cells, self.n_peaks = self._matrix.shape

    def rows(self, index: np.ndarray) -> sparse.csr_matrix:
        """Counts of these cells, CSR."""
        return self._matrix[index]


def blocks(source: RowSource, size: int = 4096) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
    """Yield ``(index, rows)`` over all cells in order, `size` cells at a time."""
    for start in range(0, source.n_cells, size):
        index = np.arange(start, min(start + size, source.n_cells))
        yield index, source.rows(index)


def stack(parts: Iterable[sparse.csr_matrix]) -> sparse.csr_matrix:
    """Blocks of rows as one CSR matrix."""
    parts = list(parts)
    return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")


def binarise(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """A peak is open where it has at least one read: the same pattern with float32 ones."""
    if (counts.data > 0).all():
        return sparse.csr_matrix((np.ones(counts.nnz, np.float32), counts.indices, counts.indptr), counts.shape)
    opened = counts.copy()
    opened.data = (opened.data > 0).astype(np.float32)
    opened.eliminate_zeros()
    return opened


class _SparseProduct(torch.autograd.Function):
    """``csr @ dense`` with the gradient of `dense` only; scipy on the CPU, cuSPARSE where there is CUDA.

    On the CPU scipy's product takes as long as torch's at 10 to 30 columns, needs no MKL (laptops with ARM processors
    have none), and gives the same bits each time.
    """

    @staticmethod
    def forward(ctx, dense: torch.Tensor, csr: sparse.csr_matrix) -> torch.Tensor:
        ctx.csr = csr
        return _multiply(csr, dense)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return _multiply(ctx.csr.T.tocsr(), gradient), None


def _multiply(csr: sparse.csr_matrix, dense: torch.Tensor) -> torch.Tensor:
    if dense.device.type == "cuda":
        return to_torch(csr, dense.device) @ dense
    return torch.from_numpy(csr @ dense.detach().cpu().numpy()).to(dense.device)


def product(csr: sparse.csr_matrix, dense: torch.Tensor) -> torch.Tensor:
    """Return ``csr @ dense``, (cells × peaks) · (peaks × d) -> (cells × d), differentiable in `dense`."""
    return _SparseProduct.apply(dense, csr)


def to_torch(csr: sparse.csr_matrix, device: torch.device) -> torch.Tensor:
    """A scipy CSR matrix as a torch CSR tensor of float32 on `device`."""
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(csr.indptr.astype(np.int64)),
            torch.from_numpy(csr.indices.astype(np.int64)),
            torch.from_numpy(csr.data.astype(np.float32)),
            size=csr.shape,
        ).to(device)
