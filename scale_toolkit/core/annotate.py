"""Enrichment of the marker peaks of known cell types in clusters, at equal depth.

A cell i has d_i open peaks, of which o_it are markers of type t. Over all cells these are a share
p_t = Σ o_it / Σ d_i of the open peaks. In a cluster k

    log2 fold_kt = log2 (Σ o_it + ½) / (p_t Σ d_i + ½),   i in k

and t_kt is the mean of o_it / d_i − p_t over the cluster's cells in units of its standard error, so
that cells, not reads, are the replicates.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse


def enrichment(
    opened: sparse.csr_matrix, membership: sparse.spmatrix, clusters: np.ndarray, n_clusters: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return log2 fold and t of each type in each cluster, (clusters, types) each.

    Parameters
    ----------
    opened
        Open peaks, (cells, peaks) of ones.
    membership
        Which peaks are markers of which type, (peaks, types) of ones.
    clusters
        Cluster of each cell, −1 for none, (cells,).
    n_clusters
        Number of clusters; one without cells has a fold of 0.
    """
    in_markers = np.asarray((opened @ membership).todense(), float)
    depth = np.asarray(opened.sum(1), float).ravel()
    share = in_markers.sum(0) / max(depth.sum(), 1)
    residual = in_markers / np.maximum(depth, 1)[:, None] - share
    log2_fold = np.zeros((n_clusters, in_markers.shape[1]))
    t = np.zeros_like(log2_fold)
    for cluster in range(n_clusters):
        members = clusters == cluster
        n_cells = int(members.sum())
        observed, expected = in_markers[members].sum(0), share * depth[members].sum()
        log2_fold[cluster] = np.log2((observed + 0.5) / (expected + 0.5))
        if n_cells > 1:
            error = residual[members].std(0, ddof=1) / np.sqrt(n_cells)
            t[cluster] = residual[members].mean(0) / np.maximum(error, 1e-12)
    return log2_fold, t
