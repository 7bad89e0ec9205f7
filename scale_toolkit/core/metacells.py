"""Cells against the meta-cell of their cluster, as measured and as imputed (Xiong et al. 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

_VALUES_A_BLOCK = 4_000_000


def metacell_correlation(
    opened: sparse.csr_matrix,
    cluster: npt.NDArray[np.int64],
    cells: npt.NDArray[np.int64],
    decode: Callable[[npt.NDArray[np.int64]], npt.NDArray[Any]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the Pearson correlation of cells with the meta-cell of their cluster.

    A meta-cell is the mean of a cluster's open peaks over its cells; the cell itself is left out.

    Parameters
    ----------
    opened
        Open peaks, cells × peaks, ones.
    cluster
        Cluster of each cell, int; negative: none.
    cells
        Which cells to compare.
    decode
        ``decode(cells)``: their imputed values, (cells, peaks).

    Returns
    -------
    Of the measured and of the imputed profiles, one value a cell; NaN for a cell alone in its
    cluster, or without a cluster.
    """
    n_clusters = cluster.max(initial=-1) + 1
    membership = _membership(cluster, n_clusters)
    sums = (membership @ opened).toarray().astype(np.float64)
    sizes = np.asarray(membership.sum(1)).ravel()
    measured, imputed = (np.full(len(cells), np.nan) for _ in range(2))
    height = max(1, _VALUES_A_BLOCK // opened.shape[1])
    for start in range(0, len(cells), height):
        index = cells[start : start + height]
        codes = cluster[index]
        usable = np.zeros(len(index), bool)
        if n_clusters:
            usable = (codes >= 0) & (sizes[np.maximum(codes, 0)] > 1)
        if not usable.any():
            continue
        codes, profiles = codes[usable], opened[index[usable]].toarray().astype(np.float64)
        means = (sums[codes] - profiles) / (sizes[codes, None] - 1)
        rows = start + np.flatnonzero(usable)
        measured[rows] = _row_correlation(profiles, means)
        imputed[rows] = _row_correlation(decode(index[usable]).astype(np.float64), means)
    return measured, imputed


def _membership(cluster: npt.NDArray[np.int64], n_clusters: int) -> sparse.csr_matrix:
    """Return the matrix (clusters × cells) that sums over the cells of each cluster."""
    known = np.flatnonzero(cluster >= 0)
    return sparse.csr_matrix(
        (np.ones(len(known), np.float32), (cluster[known], known)),
        (n_clusters, len(cluster)),
        dtype=np.float32,
    )


def _row_correlation(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    a, b = (values - values.mean(1, keepdims=True) for values in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1)))
