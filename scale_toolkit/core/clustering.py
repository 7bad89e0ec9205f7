"""Partition cells by Leiden, k-means or a Gaussian mixture, and reach exactly k clusters.

Leiden (Traag, Waltman & van Eck 2019) maximises modularity at a resolution, so k is reached by
searching for the resolution. If no resolution gives k, the nearest partition is adjusted in
Ward's sense: the two clusters whose union adds least to the within-cluster sum of squares are
merged, or the cluster with the largest sum of squares is split in two.

Every function takes a latent space (cells × latent, float64) or labels (cells, integers from 0).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier

from scale_toolkit.core.leiden import LeidenGraph
from scale_toolkit.errors import InputError

log = logging.getLogger("scale_toolkit")

#: Resolutions tried at most before clusters are merged or split.
MAX_TRIES = 24
#: Of these Ward starts k-means: its time grows with the square of their number (0.3 s for 3,000).
WARD_CELLS = 3000

Labels = np.ndarray
#: Called with the resolution, the number of clusters and the number of tries.
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Partition:
    """Labels of the cells, and what a receipt records about how they were reached."""

    labels: Labels
    facts: dict[str, Any]


def check_distinct(latent: np.ndarray, k: int, slot: str = "the latent space") -> None:
    """Raise `InputError` unless there are at least `k` distinct cells."""
    check_k(len(latent), k)
    # usually sufficient, and fast
    n_distinct = len(np.unique(latent[: 10 * k], axis=0))
    if n_distinct < k:
        n_distinct = len(np.unique(latent, axis=0))
    if n_distinct < k:
        raise InputError(
            f"{k} clusters requested, but {slot} has only {n_distinct} distinct points in "
            f"{len(latent):,} cells",
            "at most as many clusters as distinct points",
            "request fewer with -k",
        )


def check_k(n_cells: int, k: int) -> None:
    """Raise `InputError` if more clusters are requested than there are cells."""
    if k > n_cells:
        raise InputError(
            f"{k} clusters requested of {n_cells:,} cells",
            "at most as many clusters as cells",
            "request fewer with -k",
        )


def search_resolution(
    graph: LeidenGraph, latent: np.ndarray, k: int, seed: int, report: Report | None = None
) -> Partition:
    """Return exactly `k` clusters by bisection on the logarithm of Leiden's resolution.

    The number of clusters grows with the resolution, nearly monotonically. The nearest partition
    is adjusted by `reach_k` if no resolution gives `k`.
    """
    low: float | None = None
    high: float | None = None
    resolution = 1.0
    nearest_rank: tuple[int, bool] | None = None
    nearest = Partition(np.zeros(len(latent), dtype=np.int64), {})
    tries = 0
    for tries in range(1, MAX_TRIES + 1):
        labels = graph.partition(resolution)
        n_clusters = int(labels.max()) + 1
        if report is not None:
            report(f"resolution {resolution:.4g}: {n_clusters} clusters", tries, MAX_TRIES)
        # of two partitions equally near to k, prefer more clusters: merging keeps boundaries
        rank = (abs(n_clusters - k), n_clusters < k)
        if nearest_rank is None or rank < nearest_rank:
            facts = {"resolution": resolution, "found_at_resolution": n_clusters}
            nearest_rank, nearest = rank, Partition(labels, facts)
        if n_clusters == k:
            break
        low, high = (resolution, high) if n_clusters < k else (low, resolution)
        # factors of 8 until there is a resolution on either side of k, then bisection
        if low is None:
            resolution = resolution / 8
        elif high is None:
            resolution = resolution * 8
        else:
            resolution = (low * high) ** 0.5
        # resolutions so low, or so near each other, give no other partition: `reach_k` does the
        # rest
        if resolution < 1e-4 or (low and high and high / low < 1.0005):
            break
    facts = nearest.facts | {"resolutions_tried": tries}
    return reach_k(latent, Partition(nearest.labels, facts), k, seed)


def partition_kmeans(latent: np.ndarray, k: int, n_restarts: int, seed: int) -> Labels:
    """Return k-means clusters; fewer than `k` if points lie too close for its arithmetic.

    The least sum of squares of `n_restarts` random starts and one start from Ward's clusters of
    some cells (Milligan & Sokol 1980), which finds near types that random starts merge: of 12
    simulated types of 100,000 cells ten random starts ended at ARI 0.92, this one at 0.98.
    """
    sample = np.random.default_rng(seed).permutation(len(latent))[:WARD_CELLS]
    with warnings.catch_warnings():
        # `reach_k` guarantees k
        warnings.simplefilter("ignore", ConvergenceWarning)
        fits = [KMeans(k, n_init=n_restarts, random_state=seed).fit(latent)]
        if 1 < k <= len(sample):
            wards = AgglomerativeClustering(k, linkage="ward").fit_predict(latent[sample])
            centres = np.stack([latent[sample][wards == c].mean(0) for c in range(k)])
            fits.append(KMeans(k, init=centres, n_init=1).fit(latent))
    best = min(fits, key=lambda fit: fit.inertia_)
    return np.asarray(best.labels_, dtype=np.int64)


def partition_mixture(latent: np.ndarray, k: int, n_restarts: int, seed: int) -> tuple[Labels, int]:
    """Fit a diagonal Gaussian mixture.

    Returns
    -------
    labels
        The most responsible of `k` components of each cell, the best of `n_restarts` fits.
    n_rounds
        Rounds after which the fit had not converged; 0 if it converged.
    """
    if k == 1:
        # scikit-learn needs two cells to fit
        return np.zeros(len(latent), dtype=np.int64), 0
    mixture = GaussianMixture(
        k,
        covariance_type="diag",
        n_init=n_restarts,
        random_state=seed,
        # relative to the data: the scale of the latent space must not matter
        reg_covar=1e-6 * float(latent.var(axis=0).mean()) or 1e-6,
    )
    with warnings.catch_warnings():
        # the caller reports it
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = mixture.fit_predict(latent)
    return np.asarray(labels, dtype=np.int64), 0 if mixture.converged_ else mixture.max_iter


def reach_k(latent: np.ndarray, partition: Partition, k: int, seed: int) -> Partition:
    """Merge the closest or split the widest clusters until there are `k`."""
    labels = np.unique(partition.labels, return_inverse=True)[1]
    n_clusters = int(labels.max()) + 1
    if n_clusters != k:
        action = "closest were merged" if n_clusters > k else "widest were split"
        log.info("%d clusters found: the %s into %d", n_clusters, action, k)
    if n_clusters > k:
        labels = merge_closest(latent, labels, k)
    elif n_clusters < k:
        labels = split_widest(latent, labels, k, seed)
    counts = {"merged": max(n_clusters - k, 0), "split": max(k - n_clusters, 0)}
    return Partition(labels, partition.facts | counts)


def merge_closest(latent: np.ndarray, labels: Labels, k: int) -> Labels:
    """Merge repeatedly the two clusters whose union adds least to the sum of squares (Ward)."""
    sizes = np.bincount(labels).astype(np.float64)
    n_clusters = len(sizes)
    membership = sparse.csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))))
    centres = (membership @ latent) / sizes[:, None]
    merged_into = np.arange(n_clusters)

    def cost_with(cluster: int) -> np.ndarray:
        squared_distance = ((centres - centres[cluster]) ** 2).sum(axis=1)
        cost: np.ndarray = squared_distance * sizes * sizes[cluster] / (sizes + sizes[cluster])
        return cost

    cost = np.array([cost_with(cluster) for cluster in range(n_clusters)])
    np.fill_diagonal(cost, np.inf)
    for _ in range(n_clusters - k):
        # the first of equal minima, so keep < gone
        keep, gone = (int(index) for index in np.unravel_index(cost.argmin(), cost.shape))
        total = sizes[keep] + sizes[gone]
        centres[keep] = (sizes[keep] * centres[keep] + sizes[gone] * centres[gone]) / total
        sizes[keep] = total
        merged_into[merged_into == gone] = keep
        alive = np.isfinite(cost[keep])
        # only the union's costs have changed
        cost[keep, alive] = cost[alive, keep] = cost_with(keep)[alive]
        cost[gone] = cost[:, gone] = np.inf
    merged: Labels = merged_into[labels]
    return merged


def split_widest(latent: np.ndarray, labels: Labels, k: int, seed: int) -> Labels:
    """Split repeatedly the cluster with the largest sum of squares that has distinct points."""
    labels = labels.copy()
    # of the clusters that can be split
    sums_of_squares: dict[int, float] = {}
    changed: tuple[int, ...] = tuple(range(int(labels.max()) + 1))
    for new_cluster in range(len(changed), k):
        # all others have the sums of squares of the round before
        for cluster in changed:
            points = latent[labels == cluster]
            sums_of_squares.pop(cluster, None)
            if (points != points[0]).any():
                sums_of_squares[cluster] = float(((points - points.mean(axis=0)) ** 2).sum())
        if not sums_of_squares:
            break
        widest = max(sums_of_squares, key=sums_of_squares.__getitem__)
        cells = np.flatnonzero(labels == widest)
        labels[cells[_second_half(latent[cells], seed)]] = new_cluster
        changed = (widest, new_cluster)
    return labels


def _second_half(points: np.ndarray, seed: int) -> np.ndarray:
    """Return which of the points (not all equal) go to the second of two groups, by 2-means."""
    second = partition_kmeans(points, 2, 4, seed).astype(bool)
    if second.any() and not second.all():
        return second
    # too close for k-means' arithmetic: cut at the maximum of the first coordinate that differs
    column = points[:, (points != points[0]).any(axis=0).argmax()]
    cut: np.ndarray = column == column.max()
    return cut


def number_by_size(labels: Labels) -> Labels:
    """Number the clusters by size, the largest 0; of equal sizes the one of the earliest cell."""
    _, first_cell, inverse, sizes = np.unique(
        labels, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first_cell, -sizes))] = np.arange(len(sizes))
    renumbered: Labels = rank[inverse]
    return renumbered


def labels_by_neighbors(
    points: np.ndarray, labels: Labels, cells: np.ndarray, n_neighbors: int
) -> Labels:
    """Return the label that most of the nearest `points` of each of `cells` have.

    Parameters
    ----------
    points, labels
        Labelled cells, (points × latent) and (points,).
    cells
        Others, (cells × latent).
    n_neighbors
        Nearest points that vote; all of them if there are fewer.
    """
    search = KNeighborsClassifier(min(n_neighbors, len(points)), algorithm="brute")
    nearest: Labels = search.fit(points, labels).predict(cells)
    return nearest
