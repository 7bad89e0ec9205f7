"""Sparse rows and their products with dense matrices: the cost of every step follows the open
peaks.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from scipy import sparse

from scale_toolkit.core import sparse_products
from scale_toolkit.core.batch_effects import BatchEffects


class Rows(Protocol):
    """Rows of a sparse matrix (cells × peaks) on any device: the input of an encoder."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and peaks."""
        ...

    @property
    def n_stored(self) -> torch.Tensor:
        """Stored entries of each row, (rows,) float32."""
        ...

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return ``rows @ dense``, (rows, d)."""
        ...

    def transposed_times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return ``rows.T @ dense``, (peaks, d)."""
        ...


class SparseRows:
    """Rows of a sparse matrix in memory, multiplied by the kernels of `core.kernels` on all threads
    of torch's budget.

    Parameters
    ----------
    csr
        The rows; the peaks of a row may be in any order, but a copy is sorted.
    device
        Device of the results; the products are computed on the CPU.
    """

    def __init__(self, csr: sparse.csr_matrix, device: torch.device | None = None) -> None:
        if not csr.has_sorted_indices:
            csr = csr.sorted_indices()
        data = csr.data.astype(np.float32, copy=False)
        self._set(
            csr.indices.astype(np.int32, copy=False),
            data,
            csr.indptr.astype(np.int64, copy=False),
            csr.shape,
            device,
        )

    @classmethod
    def of_parts(
        cls,
        peaks: np.ndarray,
        weights: np.ndarray,
        pointers: np.ndarray,
        n_peaks: int,
        device: torch.device | None = None,
    ) -> SparseRows:
        """Rows from the arrays of a CSR matrix with ascending peaks: int32, float32 (empty: all
        ones) and int64.
        """
        rows = cls.__new__(cls)
        rows._set(peaks, weights, pointers, (len(pointers) - 1, n_peaks), device)
        return rows

    def _set(
        self,
        peaks: np.ndarray,
        weights: np.ndarray,
        pointers: np.ndarray,
        shape: tuple[int, int],
        device: torch.device | None,
    ) -> None:
        self.device, self.shape, self.nnz = device or torch.device("cpu"), shape, len(peaks)
        self._peaks, self._weights, self._pointers = peaks, weights, pointers
        self._bounds: np.ndarray | None = None

    @property
    def n_stored(self) -> torch.Tensor:
        """Stored entries of each row, (rows,) float32."""
        return torch.from_numpy(np.diff(self._pointers).astype(np.float32)).to(self.device)

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return ``rows @ dense``, (rows, d)."""
        if dense.dtype == torch.float64:
            return torch.from_numpy(self.csr() @ dense.detach().cpu().numpy()).to(dense.device)
        out = sparse_products.times(
            self._peaks,
            self._weights,
            self._block_bounds(),
            _contiguous(dense),
            torch.get_num_threads(),
        )
        return torch.from_numpy(out).to(dense.device)

    def transposed_times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return ``rows.T @ dense``, (peaks, d)."""
        if dense.dtype == torch.float64:
            return torch.from_numpy(self.csr().T @ dense.detach().cpu().numpy()).to(dense.device)
        out = np.zeros((self.shape[1], dense.shape[1]), np.float32)
        sparse_products.add_transposed_times(
            self._peaks,
            self._weights,
            self._block_bounds(),
            _contiguous(dense),
            torch.get_num_threads(),
            out,
        )
        return torch.from_numpy(out).to(dense.device)

    def csr(self) -> sparse.csr_matrix:
        """These rows as a SciPy matrix."""
        weights = (
            self._weights
            if len(self._weights) == len(self._peaks)
            else np.ones(self.nnz, np.float32)
        )
        return sparse.csr_matrix((weights, self._peaks, self._pointers), self.shape)

    def divided(self, effects: BatchEffects) -> SparseRows:
        """Return these rows with their weights divided by the factors of their batches."""
        weights = np.array(self.csr().data)
        effects.divide(self._peaks, self._pointers, weights)
        return SparseRows.of_parts(self._peaks, weights, self._pointers, self.shape[1], self.device)

    def _block_bounds(self) -> np.ndarray:
        """Return where each block of peaks begins in each row, (rows, blocks + 1) int64; cached."""
        if self._bounds is None:
            self._bounds = sparse_products.block_bounds(
                self._peaks, self._pointers, self.shape[1], torch.get_num_threads()
            )
        return self._bounds


class _SparseProduct(torch.autograd.Function):
    """``rows @ dense`` with the gradient of `dense` only."""

    @staticmethod
    def forward(ctx: Any, dense: torch.Tensor, rows: Rows) -> torch.Tensor:
        ctx.rows = rows
        return rows.times(dense.detach())

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.rows.transposed_times(gradient), None


def product(rows: Rows | sparse.csr_matrix, dense: torch.Tensor) -> torch.Tensor:
    """Return ``rows @ dense``, (cells × peaks) · (peaks × d) -> (cells × d), differentiable in
    `dense`.
    """
    return _SparseProduct.apply(dense, as_rows(rows, dense.device))


def as_rows(rows: Rows | sparse.csr_matrix, device: torch.device) -> Rows:
    """Rows ready for products on `device`."""
    return SparseRows(rows, device) if sparse.issparse(rows) else rows


def _contiguous(dense: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(dense.detach().cpu().numpy(), np.float32)
