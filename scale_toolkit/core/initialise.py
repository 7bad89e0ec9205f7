"""Starts for training: depth offsets, a spectral latent space, a decoder fitted to it, and a mixture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.special import expit, logit

from scale_toolkit.core.sparse import RowSource, SparseRows, binarise, blocks

#: Spectral vectors and the decoder's first step come from cells with about so many open peaks in all, picked at random.
START_PEAKS = 20_000_000
KRYLOV_BLOCKS = 9  # fewer blur the weaker of the planted directions of `scale simulate` (benchmarks/RESULTS.md)


def open_sums(source: RowSource) -> tuple[np.ndarray, np.ndarray]:
    """Open peaks of each cell and open cells of each peak, int64 (cells,) and (peaks,)."""
    cells, peaks = np.zeros(source.n_cells, np.int64), np.zeros(source.n_peaks, np.int64)
    for index, rows in blocks(source):
        opened = binarise(rows)
        cells[index] = np.diff(opened.indptr)
        peaks += np.bincount(opened.indices, minlength=source.n_peaks)
    return cells, peaks


def rasch(
    cell_sums: np.ndarray, peak_sums: np.ndarray, *, groups: int = 1000, tolerance: float = 1e-8, max_iter: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """Maximum-likelihood offsets of depth alone: logit p_ij = s_i + b_j.

    The likelihood depends on the sums only (Rasch 1960), so cells with equal sums share one s and peaks with equal sums
    one b. Where there are more than `groups` different sums, neighbouring sums share one value while the other side is
    found, and each then gets its own. A cell or a peak that is open everywhere or nowhere would have an infinite offset:
    its sum is moved half a count inwards.

    Returns
    -------
    s (cells,) and b (peaks,), float64; s has mean 0.
    """
    n_cells, n_peaks = len(cell_sums), len(peak_sums)
    cell_values, cell_of, cell_counts = np.unique(
        np.clip(cell_sums, 0.5, n_peaks - 0.5), return_inverse=True, return_counts=True
    )
    peak_values, peak_of, peak_counts = np.unique(
        np.clip(peak_sums, 0.5, n_cells - 0.5), return_inverse=True, return_counts=True
    )
    row_sum, row_weight = _grouped(cell_values, cell_counts, groups)
    col_sum, col_weight = _grouped(peak_values, peak_counts, groups)
    s = np.zeros(len(row_sum))
    b = logit(col_sum / n_cells)
    for _ in range(max_iter):
        old = s
        s = _solve(row_sum, b, col_weight, s)
        b = _solve(col_sum, s, row_weight, b)
        s, b = s - np.average(s, weights=row_weight), b + np.average(s, weights=row_weight)
        if np.abs(s - old).max() < tolerance:
            break
    cell_s = _solve(cell_values, b, col_weight, np.interp(cell_values, row_sum, s))
    peak_b = _solve(peak_values, s, row_weight, np.interp(peak_values, col_sum, b))
    shift = np.average(cell_s, weights=cell_counts)
    return (cell_s - shift)[cell_of], (peak_b + shift)[peak_of]


def cell_offsets(cell_sums: np.ndarray, b: np.ndarray, groups: int = 1000) -> np.ndarray:
    """S of cells with so many open peaks, given the b of `rasch`: Σ_j expit(s + b_j) = the cell's sum. (cells,) float64."""
    values, of = np.unique(np.clip(cell_sums, 0.5, len(b) - 0.5), return_inverse=True)
    peak_b, counts = np.unique(b, return_counts=True)
    peak_b, weight = _grouped(peak_b, counts, groups)
    start = np.log(values) - np.log(expit(peak_b) @ weight)
    return _solve(values, peak_b, weight, start)[of]


def _grouped(values: np.ndarray, counts: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Merge neighbouring values into at most `groups`, with their mean value and total count."""
    if len(values) <= groups:
        return values, counts.astype(float)
    of = np.minimum(np.arange(len(values)) * groups // len(values), groups - 1)
    weight = np.bincount(of, counts)
    return np.bincount(of, values * counts) / weight, weight


def _solve(sums: np.ndarray, other: np.ndarray, weight: np.ndarray, start: np.ndarray) -> np.ndarray:
    """X with Σ_g weight_g · expit(x + other_g) = sums, one equation an entry of `sums`, by guarded Newton steps."""
    if len(sums) > 1000:  # a block of equations at a time: memory
        parts = [slice(i, i + 1000) for i in range(0, len(sums), 1000)]
        return np.concatenate([_solve(sums[part], other, weight, start[part]) for part in parts])
    x = start.copy()
    for _ in range(50):
        p = expit(x[:, None] + other[None, :])  # (values, groups)
        step = (p @ weight - sums) / np.maximum((p * (1 - p)) @ weight, 1e-12)
        x -= np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-10:
            break
    return x


@dataclass(frozen=True)
class Weighting:
    """The encoder's view of a cell: log1p(10⁴ · tf · idf), tf the share of a peak in what the cell shows.

    The weighting that did best with a linear projection of unit length (benchmarks/RESULTS.md); any new cell can be weighted
    alone.

    Attributes
    ----------
    idf
        log(1 + cells / open cells) of a peak, (peaks,) float32; 0 for a peak open nowhere.
    """

    idf: np.ndarray

    def __call__(self, opened: sparse.csr_matrix) -> sparse.csr_matrix:
        """Weight rows of open peaks (or of log2 counts), float32; the input's arrays are not changed."""
        lengths = np.diff(opened.indptr)
        total = np.add.reduceat(np.append(opened.data, np.float32(0)), opened.indptr[:-1]) * (lengths > 0)
        share = np.repeat((1e4 / np.where(total > 0, total, 1)).astype(np.float32), lengths)
        data = self.idf[opened.indices]
        data *= share
        data *= opened.data
        return sparse.csr_matrix((np.log1p(data, out=data), opened.indices, opened.indptr), opened.shape)


def fit_weighting(n_cells: int, peak_sums: np.ndarray) -> Weighting:
    """Weighting for a peak open in so many of `n_cells` cells."""
    return Weighting(np.where(peak_sums > 0, np.log1p(n_cells / np.maximum(peak_sums, 1)), 0).astype(np.float32))


def start_cells(cell_sums: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cells the start is computed from: all, or random ones with about `START_PEAKS` open peaks in all."""
    n_cells = len(cell_sums)
    n = int(np.ceil(START_PEAKS / max(cell_sums.mean(), 1)))
    return np.arange(n_cells) if n >= n_cells else np.sort(rng.choice(n_cells, n, replace=False))


def spectral(weighted: sparse.csr_matrix, n: int, seed: int) -> np.ndarray:
    """The leading right singular vectors of the weighted matrix after the first, which is all but constant: (peaks, n) float32.

    By a randomised block Krylov method (Musco & Musco 2015, algorithm 2), whose products run on all threads. In falling
    order; a matrix of too low a rank for `n` has columns of zeros for the rest.
    """
    right = np.zeros((weighted.shape[1], n), np.float32)
    if min(n, min(weighted.shape) - 2) < 1 or weighted.nnz == 0:
        return right
    rows = SparseRows(weighted).prepare()
    generator = torch.Generator().manual_seed(seed)
    block = rows.times(torch.randn(weighted.shape[1], min(n + 11, min(weighted.shape)), generator=generator))
    basis, inner = torch.empty(len(block), 0), torch.empty(0, 0)
    for _ in range(KRYLOV_BLOCKS):
        new = _orthonormal_to(basis, block)
        if new.shape[1] == 0:
            break
        block = rows.times(rows.transposed_times(new))
        basis = torch.cat((basis, new), 1)
        column = basis.T @ block
        inner = torch.cat((torch.cat((inner, column[: len(inner)]), 1), column.T), 0)
    squares, mix = torch.linalg.eigh(inner.double())
    leading = [i for i in reversed(range(len(squares))) if squares[i] > 1e-6 * squares[-1]][1 : n + 1]
    vectors = rows.transposed_times(basis @ mix[:, leading].float())
    right[:, : len(leading)] = (vectors / vectors.norm(dim=0)).numpy()
    return right


def _orthonormal_to(basis: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """An orthonormal basis of what `block` (cells, c) adds to `basis` (cells, m): (cells, up to c)."""
    left = block - basis @ (basis.T @ block)
    found, size, _ = torch.linalg.svd(left, full_matrices=False)
    found = found[:, (size > 1e-5 * block.norm())]
    return torch.linalg.qr(found - basis @ (basis.T @ found))[0]


def decoder_step(
    source: RowSource,
    z: np.ndarray,
    s: np.ndarray,
    b: np.ndarray,
    ridge: float,
    *,
    cells: np.ndarray | None = None,
    groups: int = 1000,
) -> np.ndarray:
    """One Newton step of the decoder from w = 0 at the depth offsets: (peaks, d) float32.

    The gradient is exact up to the grouping of peaks with near sums; the Hessian Σ_i p_ij (1 − p_ij) z_i z_iᵀ is taken as
    Σ_i p_ij (1 − p_ij) times the depth-weighted covariance of z, one d × d matrix for all peaks.

    Parameters
    ----------
    source, cells
        Open peaks, of all cells or of these.
    z, s
        Latent vectors and depth offsets of all cells, (cells, d) and (cells,).
    b
        Depth-only intercepts, (peaks,).
    ridge
        Precision of a normal prior on the loadings.
    """
    values, of = np.unique(b, return_inverse=True)
    grouped, weight = _grouped(values, np.bincount(of).astype(float), groups)
    d = z.shape[1]
    gradient = np.zeros((source.n_peaks, d), np.float32)
    expected, information, covariance, total = np.zeros((len(grouped), d)), np.zeros(len(grouped)), np.zeros((d, d)), 0.0
    for index, rows in blocks(source, cells=cells):
        gradient += SparseRows(binarise(rows)).transposed_times(torch.from_numpy(z[index])).numpy()
        p = expit(s[index, None] + grouped[None, :])  # (cells, groups)
        expected += p.T @ z[index]
        information += (p * (1 - p)).sum(0)
        depth = p @ weight
        covariance += (z[index] * depth[:, None]).T @ z[index]
        total += depth.sum()
    nearest = np.abs(grouped[:, None] - values[None, :]).argmin(0)[of] if len(grouped) < len(values) else of
    size, basis = np.linalg.eigh(covariance / total)
    rotated = ((gradient - expected[nearest]) @ basis) / (information[nearest][:, None] * size[None, :] + ridge)
    return (rotated @ basis.T).astype(np.float32)


def fit_mixture(z: np.ndarray, n_components: int, seed: int, n_init: int = 3):
    """Weights (k,), means (k, d), variances (k, d) of a diagonal Gaussian mixture fitted to `z` by EM (scikit-learn).

    More components than cells: the number of cells are fitted, and the rest repeat them with a small weight.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    k = min(n_components, len(z))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = GaussianMixture(k, covariance_type="diag", random_state=seed, n_init=n_init, reg_covar=1e-3).fit(
            z.astype(np.float64)
        )
    repeat = np.arange(n_components) % k
    weights = np.where(np.arange(n_components) < k, fitted.weights_[repeat], 1e-6)
    return weights / weights.sum(), fitted.means_[repeat], fitted.covariances_[repeat]
