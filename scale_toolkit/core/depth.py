"""Depth alone: the Rasch model logit p_ij = s_i + b_j, whose offsets follow from row and column
sums (Rasch 1960).
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

from scale_toolkit.core.rows import RowSource, binarise, blocks


def open_sums(source: RowSource) -> tuple[np.ndarray, np.ndarray]:
    """Open peaks of each cell and open cells of each peak, int64 (cells,) and (peaks,)."""
    cells, peaks = np.zeros(source.n_cells, np.int64), np.zeros(source.n_peaks, np.int64)
    for index, rows in blocks(source):
        opened = binarise(rows)
        cells[index] = np.diff(opened.indptr)
        peaks += np.bincount(opened.indices, minlength=source.n_peaks)
    return cells, peaks


def rasch(
    cell_sums: np.ndarray,
    peak_sums: np.ndarray,
    *,
    groups: int = 1000,
    tolerance: float = 1e-8,
    max_iter: int = 500,
) -> tuple[np.ndarray, np.ndarray]:
    """Maximum-likelihood offsets of depth alone: logit p_ij = s_i + b_j.

    The likelihood depends on the sums only (Rasch 1960), so cells with equal sums share one s and
    peaks with equal sums one b. Where there are more than `groups` different sums, neighbouring
    sums share one value while the other side is found, and each then gets its own. A cell or a peak
    that is open everywhere or nowhere would have an infinite offset: its sum is moved half a count
    inwards.

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
    row_sum, row_weight = merge_values(cell_values, cell_counts, groups)
    col_sum, col_weight = merge_values(peak_values, peak_counts, groups)
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
    """S of cells with so many open peaks, given the b of `rasch`: Σ_j expit(s + b_j) = the
    cell's sum. (cells,) float64.
    """
    values, of = np.unique(np.clip(cell_sums, 0.5, len(b) - 0.5), return_inverse=True)
    peak_b, counts = np.unique(b, return_counts=True)
    peak_b, weight = merge_values(peak_b, counts, groups)
    start = np.log(values) - np.log(expit(peak_b) @ weight)
    return _solve(values, peak_b, weight, start)[of]


def merge_values(
    values: np.ndarray, counts: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Merge neighbouring values into at most `groups`, with their mean value and total count."""
    if len(values) <= groups:
        return values, counts.astype(float)
    of = np.minimum(np.arange(len(values)) * groups // len(values), groups - 1)
    weight = np.bincount(of, counts)
    return np.bincount(of, values * counts) / weight, weight


def _solve(
    sums: np.ndarray, other: np.ndarray, weight: np.ndarray, start: np.ndarray
) -> np.ndarray:
    """X with Σ_g weight_g · expit(x + other_g) = sums, one equation an entry of `sums`, by
    guarded Newton steps.
    """
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
