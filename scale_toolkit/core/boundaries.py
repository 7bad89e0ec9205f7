"""How many clusters the cells themselves show: split as long as there is a real boundary.

A fine Leiden partition is merged step by step, always the two clusters that share most edges of
the neighbour graph, up to a single cluster. From there the merges are undone, each judged by its
boundary: of the nearest neighbours of the cells of both clusters, the share that lies across,
relative to what cutting one Gaussian cloud of the same covariance, size and shares in two would
give. That ratio is about 1 within a homogeneous cluster and near 0 between separate ones, in any
number of dimensions and at any scale of the latent space. Clusters are split, the clearest boundary
first, as long as there is a boundary with a ratio below `MAX_RATIO`; and further, up to the widest
gap between the ratios if it is as wide: behind it all boundaries are those of homogeneous clusters.

Judging clusters by how they are separated locally, and not by one global resolution, avoids the
resolution limit of modularity (Fortunato & Barthelemy 2007): a type of 1 % of the cells and one of
50 % are held to the same standard.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from scale_toolkit.core.leiden import LeidenGraph

#: Leiden's resolution of the fine partition: 15 to 50 clusters on every set in
#: benchmarks/RESULTS.md; clusters of finer partitions gave the same numbers.
FINE_RESOLUTION = 4.0
#: A boundary with a lower ratio separates two clusters. Chosen leave-one-set-out on the labelled
#: and simulated sets in benchmarks/RESULTS.md.
MAX_RATIO = 0.3
#: Of the number of clusters that boundaries show: raised when it changes (`train.FAST_REVISION`).
CHOICE_REVISION = 2
#: Neighbours of a cell when a boundary is judged: fewer than the cells of the rarest type.
N_NEIGHBORS = 14
#: A boundary is judged on at most this many cells of the two clusters.
MAX_CELLS = 2_000


@dataclass(frozen=True)
class Splits:
    """Nested partitions: one cluster, and the splits that lead to the fine partition.

    Attributes
    ----------
    labels
        The fine cluster of each cell.
    groups
        The fine clusters that each split separates from the others of its cluster, in the order of
        the splits: always the clearest boundary of all present clusters.
    ratios
        The ratio of each split's boundary: about 1 within a homogeneous cluster.
    """

    labels: np.ndarray
    groups: tuple[tuple[int, ...], ...]
    ratios: np.ndarray

    @property
    def max_clusters(self) -> int:
        """Clusters of the fine partition."""
        return len(self.groups) + 1

    def partition(self, k: int) -> np.ndarray:
        """Return labels from 0 for `k` clusters, or for all fine ones if these are fewer."""
        cluster_of = np.zeros(self.max_clusters, dtype=np.int64)
        for number, group in enumerate(self.groups[: k - 1], start=1):
            cluster_of[list(group)] = number
        labels: np.ndarray = cluster_of[self.labels]
        return labels

    def recommend(self, max_ratio: float = MAX_RATIO) -> int:
        """Return the number of clusters after the last of the splits over real boundaries.

        Parameters
        ----------
        max_ratio
            Boundaries with a lower ratio are real; so are those before the widest gap between
            ratios (each the largest so far, at most 1), if it is as wide as from 0 to this.
        """
        unreal = np.flatnonzero(~(self.ratios < max_ratio))
        if not len(unreal):
            return self.max_clusters
        largest = np.minimum(np.maximum.accumulate(np.nan_to_num(self.ratios, nan=1.0)), 1)
        gaps = np.diff(largest, prepend=0)
        widest = int(gaps.argmax())
        n_splits = max(int(unreal[0]), widest if gaps[widest] >= max_ratio else 0)
        return n_splits + 1


def find_splits(
    latent: np.ndarray, connectivities: sparse.spmatrix, graph: LeidenGraph, seed: int
) -> Splits:
    """Partition finely, merge step by step, and judge the merges from the last to the first.

    Parameters
    ----------
    latent
        Cells × latent, finite.
    connectivities
        Cells × cells: the neighbour graph's weights.
    graph
        The same graph for Leiden.
    seed
        Of the subsamples and of the clouds that boundaries are compared with.
    """
    labels = graph.partition(FINE_RESOLUTION)
    pairs = _closest_pairs(_weights_between(connectivities, labels))
    rng = np.random.default_rng(seed)
    # the fine clusters on both sides of each merge, and the merges that made these sides
    sides: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    made_by: list[tuple[int, int]] = []
    members: dict[int, tuple[int, ...]] = {fine: (fine,) for fine in range(len(pairs) + 1)}
    last_merge = dict.fromkeys(members, -1)
    ratios = np.empty(len(pairs))
    for merge, (keep, gone) in enumerate(pairs):
        sides.append((members[keep], members[gone]))
        made_by.append((last_merge[keep], last_merge[gone]))
        first, second = (latent[np.isin(labels, side)] for side in sides[merge])
        ratios[merge] = boundary_ratio(first, second, rng)
        members[keep] = members[keep] + members.pop(gone)
        last_merge[keep] = merge
    order: list[int] = []
    available = [len(pairs) - 1] if pairs else []
    while available:
        clearest = min(available, key=ratios.__getitem__)
        available.remove(clearest)
        available += [merge for merge in made_by[clearest] if merge >= 0]
        order.append(clearest)
    return Splits(labels, tuple(sides[merge][1] for merge in order), ratios[order])


def boundary_ratio(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> float:
    """Return the share of neighbours across two clusters, relative to one Gaussian cut in two.

    Parameters
    ----------
    first, second
        The points of each cluster (cells × latent).
    rng
        Draws the subsample and the Gaussian cloud.

    Returns
    -------
    About 1 for the halves of one homogeneous cluster; near 0 for separate clusters. 1 if all
    points are equal, or if the two have fewer than four points.
    """
    points = np.vstack([first, second])
    in_second = np.arange(len(points)) >= len(first)
    if len(points) > MAX_CELLS:
        chosen = rng.choice(len(points), MAX_CELLS, replace=False)
        points, in_second = points[chosen], in_second[chosen]
    # so few points, or a subsample of one cluster alone, show no boundary
    if len(points) < 4 or in_second.all() or not in_second.any():
        return 1.0
    direction = points[in_second].mean(axis=0) - points[~in_second].mean(axis=0)
    # the comparison: one Gaussian with the covariance of both, cut across the line between their
    # means at the same share of points
    variances, axes = np.linalg.eigh(np.cov(points.T).reshape(points.shape[1], -1))
    spread = np.sqrt(np.maximum(variances, 0))
    cloud = (rng.normal(size=points.shape) * spread) @ axes.T
    along = cloud @ direction
    cut = np.zeros(len(points), dtype=bool)
    cut[np.argsort(along, kind="stable")[int((~in_second).sum()) :]] = True
    expected = _share_across(cloud, cut)
    return 1.0 if expected == 0 else _share_across(points, in_second) / expected


def _share_across(points: np.ndarray, in_second: np.ndarray) -> float:
    """Return the share of nearest neighbours that lie in the other of two groups."""
    n_neighbors = min(N_NEIGHBORS, len(points) - 1)
    # exact search: there are at most `MAX_CELLS` points
    search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(points)
    neighbors = search.kneighbors(return_distance=False)
    return float((in_second[neighbors] != in_second[:, None]).mean())


def _weights_between(connectivities: sparse.spmatrix, labels: np.ndarray) -> np.ndarray:
    """Return the summed weights between clusters (clusters × clusters)."""
    n_clusters = int(labels.max()) + 1
    membership = sparse.csr_matrix(
        (np.ones(len(labels)), (np.arange(len(labels)), labels)), (len(labels), n_clusters)
    )
    weights = (membership.T @ (connectivities @ membership)).toarray()
    return np.asarray((weights + weights.T) / 2, dtype=np.float64)


def _closest_pairs(weights: np.ndarray) -> list[tuple[int, int]]:
    """Return the merges: always the pair with the most weight across, relative to random mixing."""
    weights = weights.copy()
    alive = np.ones(len(weights), dtype=bool)
    pairs = []
    for _ in range(len(weights) - 1):
        within = np.diag(weights)
        total = within[:, None] + within[None, :] + 2 * weights
        # of the first cluster within the union
        degree = within[:, None] + weights
        # 1e-300: a cluster without edges gives 0 instead of a division by 0
        share = degree / np.maximum(degree + degree.T, 1e-300)
        across = 2 * weights / np.maximum(total, 1e-300)
        # relative to the share across if edges met at random between the two
        across /= np.maximum(2 * share * (1 - share), 1e-300)
        across[~alive] = across[:, ~alive] = -1
        np.fill_diagonal(across, -1)
        keep, gone = sorted(int(index) for index in np.unravel_index(across.argmax(), across.shape))
        weights[keep] += weights[gone]
        weights[:, keep] += weights[:, gone]
        weights[gone] = weights[:, gone] = 0
        alive[gone] = False
        pairs.append((keep, gone))
    return pairs
