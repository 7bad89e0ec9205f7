"""Sparse rows and their products with dense matrices: the cost of every step follows the open peaks."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse


class SparseRows:
    """Rows of a sparse matrix (cells × peaks) on one device, ready for products with dense matrices and for their gradients.

    The gradient of ``rows @ dense`` is ``rows.T @ gradient``: kept as a CSR matrix of its own, as gathering rows of the small
    gradient is three times as fast as scattering into all peaks. Products run in torch (two cores, cuSPARSE) where its build
    has sparse products, else in scipy.

    Parameters
    ----------
    csr
        The rows, float32.
    device
        Where the products are made.
    """

    def __init__(self, csr: sparse.csr_matrix, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")
        self.shape, self.nnz = csr.shape, csr.nnz
        self._csr = csr
        self._ready = None
        self._transposed = None

    @property
    def n_stored(self) -> torch.Tensor:
        """Stored entries of each row, (cells,) float32."""
        return torch.from_numpy(np.diff(self._csr.indptr).astype(np.float32)).to(self.device, non_blocking=True)

    def prepare(self, *, gradient: bool = True) -> SparseRows:
        """Make what the products need now, in whichever thread this is; without it they make it themselves."""
        if self._ready is None:
            self._ready = _on(self._csr, self.device)
        if gradient and self._transposed is None:
            self._transposed = _on(self._csr.T.tocsr(), self.device)
        return self

    def tensors(self) -> list[torch.Tensor]:
        """The dense arrays that hold these rows where they are torch's."""
        ready = [matrix for matrix in (self._ready, self._transposed) if isinstance(matrix, torch.Tensor)]
        return [part for matrix in ready for part in (matrix.crow_indices(), matrix.col_indices(), matrix.values())]

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return ``rows @ dense``, (cells, d)."""
        self.prepare(gradient=False)
        return _multiply(self._ready, dense)

    def transposed_times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return ``rows.T @ dense``, (peaks, d)."""
        self.prepare()
        return _multiply(self._transposed, dense)


class _SparseProduct(torch.autograd.Function):
    """``rows @ dense`` with the gradient of `dense` only; always in float32, also where autocast lowers the rest."""

    @staticmethod
    def forward(ctx, dense: torch.Tensor, rows: SparseRows) -> torch.Tensor:
        ctx.rows = rows
        return rows.times(dense)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        return ctx.rows.transposed_times(gradient.float()), None


def product(rows: SparseRows | sparse.csr_matrix, dense: torch.Tensor) -> torch.Tensor:
    """Return ``rows @ dense``, (cells × peaks) · (peaks × d) -> (cells × d), differentiable in `dense`."""
    return _SparseProduct.apply(dense, as_rows(rows, dense.device))


def as_rows(rows: SparseRows | sparse.csr_matrix, device: torch.device) -> SparseRows:
    """Rows ready for products on `device`."""
    return rows if isinstance(rows, SparseRows) else SparseRows(rows, device)


def _multiply(matrix: torch.Tensor | sparse.csr_matrix, dense: torch.Tensor) -> torch.Tensor:
    if isinstance(matrix, torch.Tensor):
        return matrix.to(dense.dtype) @ dense.contiguous()
    return torch.from_numpy(matrix @ dense.detach().cpu().numpy()).to(dense.device)


def _on(csr: sparse.csr_matrix, device: torch.device) -> torch.Tensor | sparse.csr_matrix:
    """The matrix where its products run: a torch CSR tensor, or itself where torch has none for this device."""
    if device.type == "cuda" or (device.type == "cpu" and torch.backends.mkl.is_available()):
        return to_torch(csr, device)
    return csr


def to_torch(csr: sparse.csr_matrix, device: torch.device) -> torch.Tensor:
    """A scipy CSR matrix as a torch CSR tensor of float32 on `device`; on the CPU it shares the arrays."""
    import warnings

    arrays = [
        torch.from_numpy(np.ascontiguousarray(array))
        for array in (csr.indptr.astype(csr.indices.dtype, copy=False), csr.indices, csr.data.astype(np.float32, copy=False))
    ]
    if device.type == "cuda":
        arrays = [array.pin_memory().to(device, non_blocking=True) for array in arrays]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(*arrays, size=csr.shape, check_invariants=False)
