"""Stability of clusters in subsamples of the cells (Hennig 2007, Comput Stat Data Anal 52:258)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

#: Share of the cells in a subsample, drawn without replacement: a cell drawn twice would be its
#: own nearest neighbour.
SHARE = 0.8


def recovery(
    labels: np.ndarray,
    regroup: Callable[[np.ndarray, int], np.ndarray],
    times: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Cluster random subsamples of the cells, and find the nearest cluster of each in them.

    Parameters
    ----------
    labels
        The cluster of each cell: integers from 0, every cluster with at least one cell.
    regroup
        Given the positions of a subsample's cells (ascending) and a seed: their clusters, integers
        from 0.
    times
        Number of subsamples, each of four fifths of the cells.
    seed
        Of the draws, and of the seeds that `regroup` is given.
    progress
        Called with the number of finished subsamples.

    Returns
    -------
    Subsamples × clusters, in [0, 1]: the largest Jaccard index of the cluster's cells in the
    subsample with any cluster found in it (Hennig's γ); NaN if it has no cell of the cluster.
    """
    rng = np.random.default_rng(seed)
    size = max(1, round(SHARE * len(labels)))
    jaccard = np.empty((times, int(labels.max()) + 1))
    for number in range(times):
        cells = np.sort(rng.choice(len(labels), size, replace=False))
        jaccard[number] = _nearest(
            labels[cells], regroup(cells, int(rng.integers(2**31))), jaccard.shape[1]
        )
        if progress is not None:
            progress(number + 1)
    return jaccard


def _nearest(reference: np.ndarray, clusters: np.ndarray, n_clusters: int) -> np.ndarray:
    """Return each reference cluster's largest Jaccard index with a cluster; NaN if it is empty."""
    shape = (n_clusters, int(clusters.max()) + 1)
    table = sparse.coo_matrix((np.ones(len(reference)), (reference, clusters)), shape).tocsr()
    reference_sizes = np.asarray(table.sum(axis=1)).ravel()
    cluster_sizes = np.asarray(table.sum(axis=0)).ravel()
    index = table.tocoo()
    index.data /= reference_sizes[index.row] + cluster_sizes[index.col] - index.data
    largest: np.ndarray = index.max(axis=1).toarray().ravel()
    return np.where(reference_sizes > 0, largest, np.nan)
