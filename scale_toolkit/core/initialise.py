"""Starts for training: depth offsets, a spectral latent space, a decoder fitted to it, and a mixture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds
from scipy.special import expit, logit

from scale_toolkit.core.sparse import RowSource, binarise, blocks


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
    """The encoder's view of a cell: idf-weighted open peaks, scaled to unit length, divided by the root of its degree.

    A cell's degree is its summed cosine similarity to the cells trained on, so that the singular vectors of the weighted
    matrix are those of the normalised graph Laplacian of the cosine graph (as in SnapATAC2's ``spectral``, Zhang et al.
    2024, Nat Methods 21:217), yet any new cell can be weighted alone.

    Attributes
    ----------
    idf
        log(cells / open cells) of a peak, (peaks,) float32; 0 for a peak open nowhere or everywhere.
    total
        Sum of the unit-length rows of the cells trained on, (peaks,) float32.
    """

    idf: np.ndarray
    total: np.ndarray

    def __call__(self, opened: sparse.csr_matrix) -> sparse.csr_matrix:
        """Weight rows of open peaks (or of log2 counts); a cell without any weighted peak gets a row of zeros."""
        unit = unit_rows(opened, self.idf)
        degree = unit @ self.total
        scale = 1 / np.sqrt(np.where(degree > 0, degree, 1))
        unit.data *= np.repeat(scale.astype(np.float32), np.diff(unit.indptr))
        return unit


def unit_rows(values: sparse.csr_matrix, idf: np.ndarray) -> sparse.csr_matrix:
    """Rows times `idf`, scaled to unit length, float32; the input's arrays are not changed."""
    data = values.data * idf[values.indices]
    lengths = np.sqrt(np.add.reduceat(np.append(data, 0) ** 2, values.indptr[:-1]) * (np.diff(values.indptr) > 0))
    scale = np.repeat(1 / np.where(lengths > 0, lengths, 1), np.diff(values.indptr))
    return sparse.csr_matrix(((data * scale).astype(np.float32), values.indices, values.indptr), values.shape)


def fit_weighting(source: RowSource, view, peak_sums: np.ndarray) -> Weighting:
    """Idf and total of the cells of `source`; `view` turns counts into what the encoder sees (open peaks, log counts)."""
    n_cells = source.n_cells
    with np.errstate(divide="ignore"):
        idf = np.where(peak_sums > 0, np.log(n_cells / np.maximum(peak_sums, 1)), 0).astype(np.float32)
    if not idf.any():
        idf = np.ones_like(idf)  # every peak open in every cell: nothing to weight by
    total = np.zeros(source.n_peaks)
    for _, rows in blocks(source):
        total += np.asarray(unit_rows(view(rows), idf).sum(0)).ravel()
    return Weighting(idf, total.astype(np.float32))


def spectral(weighted: sparse.csr_matrix, n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The leading singular vectors of the weighted matrix after the first, which is constant but for degree.

    Returns
    -------
    left (cells, n), values (n,), right (peaks, n), float32, in falling order; fewer than n where the matrix is small.
    """
    n = min(n, min(weighted.shape) - 2)
    if n < 1 or weighted.nnz == 0:
        return np.zeros((weighted.shape[0], 0)), np.zeros(0), np.zeros((weighted.shape[1], 0))
    start = np.random.default_rng(seed).uniform(-1, 1, min(weighted.shape))
    transposed = weighted.T.tocsr()
    operator = LinearOperator(
        weighted.shape,
        matvec=lambda v: weighted @ v,
        rmatvec=lambda v: transposed @ v,
        dtype=np.float32,
        matmat=lambda v: weighted @ v,
        rmatmat=lambda v: transposed @ v,
    )
    u, s, vt = svds(operator, k=n + 1, v0=start.astype(np.float32), tol=1e-4)
    order = np.argsort(-s)[1:]
    return u[:, order], s[order], np.ascontiguousarray(vt[order].T)


def decoder_step(
    opened: sparse.csr_matrix, z: np.ndarray, s: np.ndarray, b: np.ndarray, ridge: float, groups: int = 1000
) -> np.ndarray:
    """One Newton step of the decoder from w = 0 at the depth offsets: (peaks, d) float32.

    The gradient is exact up to the grouping of peaks with near sums; the Hessian Σ_i p_ij (1 − p_ij) z_i z_iᵀ is taken as
    Σ_i p_ij (1 − p_ij) times the depth-weighted covariance of z, one d × d matrix for all peaks.
    """
    values, of = np.unique(b, return_inverse=True)
    grouped, weight = _grouped(values, np.bincount(of).astype(float), groups)
    p = expit(s[:, None] + grouped[None, :])  # (cells, groups)
    expected = p.T @ z  # (groups, d)
    information = (p * (1 - p)).sum(0)
    depth = p @ weight
    covariance = (z * (depth / depth.sum())[:, None]).T @ z  # (d, d)
    nearest = np.abs(grouped[:, None] - values[None, :]).argmin(0)[of] if len(grouped) < len(values) else of
    gradient = opened.T @ z - expected[nearest]
    size, basis = np.linalg.eigh(covariance)
    rotated = (gradient @ basis) / (information[nearest][:, None] * size[None, :] + ridge)
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
