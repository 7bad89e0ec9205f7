"""Sparse rows multiplied by torch's or SciPy's own kernels, in the order in which they add.

The published presets compute through these on the CPU: float32 sums depend on the order of their
terms, and a training multiplies the difference. `sparse.SparseRows` is faster and independent of
the number of threads, and gives other last digits.
"""

from __future__ import annotations

import warnings
from functools import cached_property

import numpy as np
import torch
from scipy import sparse


class TorchRows:
    """Rows of a sparse matrix in host memory: an operand of `sparse.product`.

    Parameters
    ----------
    csr
        The rows, (cells, peaks).
    device
        Where results are wanted; the products are made on the CPU.
    """

    def __init__(self, csr: sparse.csr_matrix, device: torch.device | None = None) -> None:
        self.device, self.shape = device or torch.device("cpu"), csr.shape
        self._csr = csr

    def csr(self) -> sparse.csr_matrix:
        """These rows as a SciPy matrix."""
        return self._csr

    @property
    def n_stored(self) -> torch.Tensor:
        """Stored entries of each row, (rows,) float32."""
        return torch.from_numpy(np.diff(self._csr.indptr).astype(np.float32)).to(self.device)

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return ``rows @ dense``, (rows, d)."""
        return _multiply(self._operand, dense)

    def transposed_times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return ``rows.T @ dense``, (peaks, d)."""
        return _multiply(self._transposed, dense)

    @cached_property
    def _operand(self) -> torch.Tensor | sparse.csr_matrix:
        return _operand(self._csr)

    @cached_property
    def _transposed(self) -> torch.Tensor | sparse.csr_matrix:
        # a CSR matrix: gathering rows of a small gradient is faster than scattering into all peaks
        return _operand(self._csr.T.tocsr())


def _multiply(matrix: torch.Tensor | sparse.csr_matrix, dense: torch.Tensor) -> torch.Tensor:
    on_host = dense.detach().cpu()
    if isinstance(matrix, torch.Tensor):
        return (matrix.to(dense.dtype) @ on_host.contiguous()).to(dense.device)
    return torch.from_numpy(matrix @ on_host.numpy()).to(dense.device)


def _operand(csr: sparse.csr_matrix) -> torch.Tensor | sparse.csr_matrix:
    """The matrix as a torch CSR tensor that shares its arrays; as it is in builds of torch without
    sparse products on the CPU.
    """
    if not torch.backends.mkl.is_available():
        return csr
    pointers, indices, data = (
        torch.from_numpy(np.ascontiguousarray(array))
        for array in (
            csr.indptr.astype(csr.indices.dtype, copy=False),
            csr.indices,
            csr.data.astype(np.float32, copy=False),
        )
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(
            pointers, indices, data, size=csr.shape, check_invariants=False
        )
