"""How much of each cluster comes back when other cells are left out (Hennig 2007, Comput Stat Data Anal 52:258-271)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

#: Share of the cells in a subsample. Without replacement: a cell drawn twice would be its own nearest neighbour.
SHARE = 0.8


def recovery(
    labels: np.ndarray,
    regroup: Callable[[np.ndarray, int], np.ndarray],
    times: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Cluster random subsamples of the cells again, and find each cluster's nearest among the new ones.

    Parameters
    ----------
    labels
        The cluster of each cell, whole numbers from 0, none of them without a cell.
    regroup
        Given the numbers of a subsample's cells (ascending) and a seed: the clusters found among them, whole numbers from 0.
    times
        Subsamples, each of four fifths of the cells.
    seed
        Of the draws, and of the seeds that `regroup` is given.
    progress
        Called with the number of each subsample that is done.

    Returns
    -------
    Subsamples × clusters, in [0, 1]: the largest Jaccard index of the cluster's cells in the subsample with any cluster found
    there (Hennig's γ); NaN where the subsample has no cell of the cluster.
    """
    rng = np.random.default_rng(seed)
    size = max(1, round(SHARE * len(labels)))
    found = np.empty((times, int(labels.max()) + 1))
    for number in range(times):
        cells = np.sort(rng.choice(len(labels), size, replace=False))
        found[number] = _nearest(labels[cells], regroup(cells, int(rng.integers(2**31))), found.shape[1])
        if progress is not None:
            progress(number + 1)
    return found


def _nearest(here: np.ndarray, there: np.ndarray, n_clusters: int) -> np.ndarray:
    """The largest Jaccard index of each cluster of `here` with one of `there`; NaN where it is empty."""
    both = sparse.coo_matrix((np.ones(len(here)), (here, there)), (n_clusters, int(there.max()) + 1)).tocsr()
    own, other = np.asarray(both.sum(axis=1)).ravel(), np.asarray(both.sum(axis=0)).ravel()
    shared = both.tocoo()
    shared.data /= own[shared.row] + other[shared.col] - shared.data
    return np.where(own > 0, shared.max(axis=1).toarray().ravel(), np.nan)
