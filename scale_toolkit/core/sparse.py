"""Sparse rows and their products with dense matrices: the cost of every step follows the open peaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from scipy import sparse

BLOCK = 512  # cells at a time where all are passed over: a block is copied several times on its way, so it sets peak memory


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
        # scipy's own row indexing looks through all indices of the matrix in each call: 50 ms of every step at 3·10⁷ open peaks
        matrix, pointers = self._matrix, np.zeros(len(index) + 1, self._matrix.indptr.dtype)
        parts = [slice(*matrix.indptr[cell : cell + 2]) for cell in index]
        np.cumsum([part.stop - part.start for part in parts], out=pointers[1:])
        data, indices = (
            np.concatenate([array[part] for part in parts]) if parts else array[:0] for array in (matrix.data, matrix.indices)
        )
        return sparse.csr_matrix((data, indices, pointers), (len(index), self.n_peaks))


def blocks(
    source: RowSource, size: int = BLOCK, cells: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
    """Yield ``(index, rows)`` over all cells in order, or over `cells`, `size` of them at a time."""
    cells = np.arange(source.n_cells) if cells is None else cells
    for start in range(0, len(cells), size):
        index = cells[start : start + size]
        yield index, source.rows(index)


def stack(parts: Iterable[sparse.csr_matrix], shape: tuple[int, int], nnz: int) -> sparse.csr_matrix:
    """Blocks of rows, with `nnz` entries in all at most, as one CSR matrix; filled block by block, never held twice."""
    data, indices = np.empty(nnz, np.float32), np.empty(nnz, np.int32)
    pointers, row = np.zeros(shape[0] + 1, np.int64), 0
    for part in parts:
        start, stop = pointers[row], pointers[row] + part.nnz
        data[start:stop], indices[start:stop] = part.data, part.indices
        pointers[row + 1 : row + 1 + part.shape[0]] = start + part.indptr[1:]
        row += part.shape[0]
    nnz = pointers[row]
    return sparse.csr_matrix((data[:nnz], indices[:nnz], pointers), shape)


def binarise(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """A peak is open where it has at least one read: the same pattern with float32 ones."""
    if (counts.data > 0).all():
        return sparse.csr_matrix((np.ones(counts.nnz, np.float32), counts.indices, counts.indptr), counts.shape)
    opened = counts.copy()
    opened.data = (opened.data > 0).astype(np.float32)
    opened.eliminate_zeros()
    return opened


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
