"""Clusters of cells in the latent space: Leiden, k-means, or the model's Gaussian mixture; exactly k of them where asked.

Leiden (Traag, Waltman & van Eck 2019) maximises modularity at a resolution, so k is reached by searching for the resolution.
Where none gives k, the nearest result is changed cluster by cluster, in Ward's sense: the two clusters whose union adds
least to the within-cluster sum of squares are merged, or the cluster with the largest sum of squares is split in two.
"""

from __future__ import annotations

import random
import warnings
from typing import TYPE_CHECKING, Any

import igraph
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from scale_toolkit import keys
from scale_toolkit.config import ClusterConfig
from scale_toolkit.core.metrics import Agreement, agreement
from scale_toolkit.core.stability import recovery
from scale_toolkit.errors import InputError, OptionError, ScaleWarning
from scale_toolkit.stages._latent import check_finite, latent_of, log, neighbor_graph
from scale_toolkit.stages._stage import note, stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from scale_toolkit.stages._stage import Progress

    #: The cells of a subsample and a seed -> the clusters among them.
    Regroup = Callable[[np.ndarray, int], np.ndarray]

#: Resolutions tried at most before clusters are merged or split.
TRIES = 24
#: Up to this many cells Leiden runs until nothing improves; above, two rounds, as igraph and scanpy advise.
CONVERGE_UP_TO = 20_000
#: A cluster whose mean Jaccard index in subsamples is at least this is stable, in Hennig's words (2007).
STABLE = 0.75
#: So many of those that are not are named in the log.
SHOWN = 8
#: A reference column with more distinct values than this holds no labels.
MOST_CLASSES = 1_000


def _reads(config: ClusterConfig) -> tuple[keys.Slot, ...]:
    posterior = (keys.POSTERIOR,) if config.method == "gmm" else ()
    reference = () if config.reference is None else (keys.column("obs", config.reference),)
    return (keys.LATENT, *posterior, *reference)


@stage("cluster", ClusterConfig, reads=_reads, requires=(keys.LATENT,), loads=("numba",))
def cluster(adata: AnnData, config: ClusterConfig, *, progress: Progress | None = None) -> AnnData:
    """Cluster the cells of the latent space.

    Parameters
    ----------
    adata
        Cells with ``obsm['X_scale']``, and ``obsm['scale_posterior']`` for the model's own mixture.
    config
        The options. With ``n_clusters`` exactly that many clusters come back, whatever the method.
    progress
        Called after each resolution that is tried, and each subsample.

    Returns
    -------
    `adata`, with

    ``obs['leiden' | 'kmeans' | 'gmm']``, ``obs['scale_cluster']``
        The cluster of each cell (category, "0" the largest).
    ``uns['neighbors']``, ``obsp['distances']``, ``obsp['connectivities']``
        By Leiden: the neighbour graph, where scanpy looks for it.
    ``uns['scale_cluster_report']``
        With ``reference``: ARI, NMI, F1 and the matched confusion table (see `cluster_report`).
    ``uns['scale_cluster_stability']``
        With ``stability``: for each cluster its ``cells`` and the ``mean`` and ``lowest`` Jaccard index, in [0, 1], with its
        nearest cluster among those of the subsamples (`core.stability`, after Hennig 2007). Neither the latent space nor, for
        Leiden, the neighbour graph is made anew: what another training would change is not in it.

    Raises
    ------
    MissingSlotError
        No latent space, or no mixture to take clusters from.
    InputError
        A latent space that is not finite, more clusters asked than there are distinct cells, or no usable reference column.
    OptionError
        k-means without a number of clusters.

    Warns
    -----
    ScaleWarning
        Fewer cells than neighbours, all cells at one point, a mixture that has not converged.
    """
    latent = latent_of(adata)
    if config.n_clusters is not None:
        _check_distinct(latent, config.n_clusters)
    reference = None if config.reference is None else _reference(adata, config.reference)

    run = {"leiden": _leiden, "kmeans": _kmeans, "gmm": _gmm}[config.method]
    labels, facts = run(adata, latent, config, progress)
    labels = _by_size(labels)
    n_clusters = int(labels.max()) + 1
    column = {"leiden": keys.LEIDEN, "kmeans": keys.KMEANS, "gmm": keys.GMM}[config.method]
    names = [str(number) for number in range(n_clusters)]
    for slot in (column, keys.CLUSTER):
        slot.set(adata, pd.Categorical.from_codes(labels, names))

    keys.CLUSTER_STABILITY.drop(adata)
    if config.stability:
        table = _stability(labels, _regroup(adata, latent, n_clusters, config, facts), config, progress)
        keys.CLUSTER_STABILITY.set(adata, table)
        facts["stability"] = dict(zip(names, table["mean"].round(3).tolist(), strict=True))
    keys.CLUSTER_REPORT.drop(adata)
    if reference is not None:
        known = reference.notna().to_numpy()
        found = agreement(reference[known], labels[known], n_unlabelled=int((~known).sum()))
        figures = {"method": config.method, "reference": config.reference, **found.as_dict()}
        keys.CLUSTER_REPORT.set(adata, figures)
        facts["report"] = {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in figures.items()}
        if found.n_unlabelled:
            log.info("%d of %d cells have no label in %r and are left out", found.n_unlabelled, adata.n_obs, config.reference)
    note(adata, found=n_clusters, **facts)
    return adata


def cluster_report(adata: AnnData) -> Agreement:
    """The agreement of ``obs['scale_cluster']`` with the reference labels it was last compared with; prints as a table."""
    return Agreement.from_dict(keys.CLUSTER_REPORT.get(adata))


def leiden_at_k(latent: np.ndarray, k: int, n_neighbors: int = 30, seed: int = 18, n_threads: int = 0) -> np.ndarray:
    """Exactly `k` clusters by Leiden on the neighbours of `latent` (cells × latent), as whole numbers, 0 the largest."""
    latent = np.asarray(latent, dtype=np.float64)
    _check_distinct(latent, k)
    if len(latent) == 1:
        return np.zeros(1, dtype=np.int64)
    graph = neighbor_graph(latent, n_neighbors, seed=seed, n_threads=n_threads)
    return _by_size(_leiden_search(_Leiden(graph.obsp[keys.CONNECTIVITIES.name], seed), latent, k, seed)[0])


def kmeans_at_k(latent: np.ndarray, k: int, n_restarts: int = 10, seed: int = 18) -> np.ndarray:
    """Exactly `k` clusters by k-means on `latent` (cells × latent), as whole numbers, 0 the largest."""
    latent = np.asarray(latent, dtype=np.float64)
    _check_distinct(latent, k)
    return _by_size(_kmeans_search(latent, k, n_restarts, seed)[0])


def _leiden(adata: AnnData, latent: np.ndarray, config: ClusterConfig, progress: Progress | None) -> tuple[np.ndarray, dict]:
    if len(latent) == 1:
        return np.zeros(1, dtype=np.int64), {}
    graph = neighbor_graph(latent, config.n_neighbors, seed=config.seed, n_threads=config.n_threads)
    keys.NEIGHBORS.set(adata, {**graph.uns["neighbors"], "stage": "cluster"})
    for slot in (keys.DISTANCES, keys.CONNECTIVITIES):
        slot.set(adata, graph.obsp[slot.name])
    facts: dict[str, Any] = {"n_neighbors": int(graph.uns["neighbors"]["params"]["n_neighbors"])}
    leiden = _Leiden(keys.CONNECTIVITIES.get(graph), config.seed)
    if config.n_clusters is not None:
        labels, search = _leiden_search(leiden, latent, config.n_clusters, config.seed, progress)
        return labels, facts | search
    if (latent == latent[0]).all():
        warnings.warn(f"all {len(latent):,} cells lie on one point of {keys.LATENT}: one cluster", ScaleWarning, stacklevel=4)
        return np.zeros(len(latent), dtype=np.int64), facts
    return leiden(config.resolution), facts | {"resolution": config.resolution}


def _kmeans(adata: AnnData, latent: np.ndarray, config: ClusterConfig, progress: Progress | None) -> tuple[np.ndarray, dict]:
    if config.n_clusters is None:
        raise OptionError("method kmeans without a number of clusters", "n_clusters", "say how many with -k")
    return _kmeans_search(latent, config.n_clusters, config.n_restarts, config.seed)


def _gmm(adata: AnnData, latent: np.ndarray, config: ClusterConfig, progress: Progress | None) -> tuple[np.ndarray, dict]:
    """The model's mixture; another one where it has another number of components than is asked for."""
    k = config.n_clusters
    facts: dict[str, Any] = {}
    if k is None or keys.POSTERIOR.found_in(adata):
        posterior = np.asarray(keys.POSTERIOR.get(adata))
        check_finite(posterior, keys.POSTERIOR)
        facts["components"] = posterior.shape[1]
        if k in (None, posterior.shape[1]):
            labels = posterior.argmax(axis=1)
            return (labels, facts) if k is None else _exactly(latent, labels, k, config.seed, facts)
    if "components" in facts:
        log.info("the model has %d components: a mixture of %d is fitted to %s", facts["components"], k, keys.LATENT)
    return _exactly(latent, _fit_mixture(latent, k, config.n_restarts, config.seed), k, config.seed, facts | {"refitted": k})


def _fit_mixture(latent: np.ndarray, k: int, n_restarts: int, seed: int) -> np.ndarray:
    """The likeliest component of each cell in a diagonal mixture of `k`, the best of `n_restarts` fits."""
    labels, rounds = _mixture(latent, k, n_restarts, seed)
    if rounds:
        warnings.warn(f"the mixture of {k} has not converged in {rounds} rounds", ScaleWarning, stacklevel=5)
    return labels


def _mixture(latent: np.ndarray, k: int, n_restarts: int, seed: int) -> tuple[np.ndarray, int]:
    """Those components, and the rounds after which the mixture had not converged; 0 where it has."""
    if k == 1:
        return np.zeros(len(latent), dtype=np.int64), 0  # scikit-learn wants two cells to fit
    spread = latent.var(axis=0)
    mixture = GaussianMixture(
        k,
        covariance_type="diag",
        n_init=n_restarts,
        random_state=seed,
        reg_covar=1e-6 * spread.mean() or 1e-6,  # relative to the data, so that its scale does not matter
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said by who asks
        labels = mixture.fit_predict(latent)
    return labels, 0 if mixture.converged_ else mixture.max_iter


def _kmeans_search(latent: np.ndarray, k: int, n_restarts: int, seed: int) -> tuple[np.ndarray, dict]:
    return _exactly(latent, _two_or_more_means(latent, k, n_restarts, seed), k, seed, {})


def _two_or_more_means(latent: np.ndarray, k: int, n_restarts: int, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        # cells too close to tell apart: `_exactly` sees to the number of clusters
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(k, n_init=n_restarts, random_state=seed).fit_predict(latent).astype(np.int64)


def _regroup(adata: AnnData, latent: np.ndarray, k: int, config: ClusterConfig, facts: dict) -> Regroup:
    """How the cells of a subsample are clustered: as all of them were, at the resolution that was found or into `k`."""
    if config.method == "leiden":
        if "resolution" not in facts:  # one cell, or all of them at one point
            return lambda cells, _: np.zeros(len(cells), dtype=np.int64)
        connectivities = sparse.csr_matrix(keys.CONNECTIVITIES.get(adata))

        def by_leiden(cells: np.ndarray, seed: int) -> np.ndarray:
            labels = _Leiden(connectivities[cells][:, cells], seed)(facts["resolution"])
            return labels if config.n_clusters is None else _into(latent[cells], labels, k, seed)

        return by_leiden

    def by_points(cells: np.ndarray, seed: int) -> np.ndarray:
        points, most = latent[cells], min(k, len(cells))
        if config.method == "kmeans":
            return _two_or_more_means(points, most, config.n_restarts, seed)
        return _mixture(points, most, config.n_restarts, seed)[0]  # the model's own was fitted to all cells

    return by_points


def _stability(labels: np.ndarray, regroup: Regroup, config: ClusterConfig, progress: Progress | None) -> pd.DataFrame:
    """Clusters × cells, mean and lowest Jaccard index in subsamples."""

    def tell(number: int) -> None:
        if progress is not None:
            progress(f"subsample {number}", number, config.stability)

    index = pd.DataFrame(recovery(labels, regroup, config.stability, config.seed, tell))
    table = pd.DataFrame({"cells": np.bincount(labels), "mean": index.mean(), "lowest": index.min()})
    table.index = table.index.astype(str)
    loose = table["mean"][table["mean"] < STABLE].sort_values()
    which = ", ".join(f"{name} ({mean:.2f})" for name, mean in loose.iloc[:SHOWN].items())
    log.info(
        "%d of %d clusters come back in %d subsamples with a mean Jaccard index of %g or more%s",
        len(table) - len(loose),
        len(table),
        config.stability,
        STABLE,
        f"; not {which}{f' and {len(loose) - SHOWN} more' if len(loose) > SHOWN else ''}" if which else "",
    )
    return table


class _Leiden:
    """Leiden's clusters of one graph, at any resolution."""

    def __init__(self, connectivities: sparse.spmatrix, seed: int) -> None:
        edges = sparse.triu(connectivities, 1).tocoo()
        self._graph = igraph.Graph(connectivities.shape[0], np.column_stack([edges.row, edges.col]))
        self._weights = edges.data.astype(np.float64)
        self._rounds = -1 if connectivities.shape[0] <= CONVERGE_UP_TO else 2
        self._seed = seed

    def __call__(self, resolution: float) -> np.ndarray:
        """The cluster of each cell; the same for the same resolution and seed."""
        igraph.set_random_number_generator(random.Random(self._seed))
        try:
            found = self._graph.community_leiden(
                "modularity", weights=self._weights, resolution=resolution, n_iterations=self._rounds
            )
        finally:
            igraph.set_random_number_generator(random)  # igraph's own default
        return np.asarray(found.membership, dtype=np.int64)


def _leiden_search(
    leiden: _Leiden, latent: np.ndarray, k: int, seed: int, progress: Progress | None = None
) -> tuple[np.ndarray, dict]:
    """Exactly `k` clusters: the number grows with the resolution, near enough for bisection on its logarithm."""
    low, high, resolution = None, None, 1.0
    nearest: tuple[tuple, np.ndarray, dict] | None = None
    for tries in range(1, TRIES + 1):
        labels = leiden(resolution)
        found = int(labels.max()) + 1
        if progress is not None:
            progress(f"resolution {resolution:.4g}: {found} clusters", tries, TRIES)
        rank = (abs(found - k), found < k)  # of two equally near, the one with more clusters: merging loses no boundary
        if nearest is None or rank < nearest[0]:
            nearest = (rank, labels, {"resolution": resolution, "found_at_resolution": found})
        if found == k:
            break
        low, high = (resolution, high) if found < k else (low, resolution)
        if low is None:
            resolution = high / 8
        elif high is None:
            resolution = low * 8
        else:
            resolution = (low * high) ** 0.5
        if resolution < 1e-4 or (low and high and high / low < 1.0005):
            break
    _, labels, facts = nearest
    return _exactly(latent, labels, k, seed, facts | {"resolutions_tried": tries})


def _exactly(latent: np.ndarray, labels: np.ndarray, k: int, seed: int, facts: dict) -> tuple[np.ndarray, dict]:
    """Merge the closest or split the widest of the clusters until there are `k`; the facts say how many times."""
    found = len(np.unique(labels))
    if found != k:
        log.info("%d clusters found: the %s into %d", found, "closest were merged" if found > k else "widest were split", k)
    return _into(latent, labels, k, seed), facts | {"merged": max(found - k, 0), "split": max(k - found, 0)}


def _into(latent: np.ndarray, labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """`k` clusters; fewer where there are not as many distinct points."""
    labels = np.unique(labels, return_inverse=True)[1]
    found = int(labels.max()) + 1
    return _merge(latent, labels, k) if found > k else _split(latent, labels, k, seed) if found < k else labels


def _merge(latent: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Merge, again and again, the two clusters whose union adds least to the within-cluster sum of squares (Ward)."""
    sizes = np.bincount(labels).astype(np.float64)
    belongs = sparse.csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))))
    centres = (belongs @ latent) / sizes[:, None]
    names = np.arange(len(sizes))

    def cost_of(cluster: int) -> np.ndarray:
        apart = ((centres - centres[cluster]) ** 2).sum(axis=1)
        return apart * sizes * sizes[cluster] / (sizes + sizes[cluster])

    cost = np.array([cost_of(cluster) for cluster in names])  # clusters × clusters
    np.fill_diagonal(cost, np.inf)
    for _ in range(len(sizes) - k):
        keep, gone = np.unravel_index(cost.argmin(), cost.shape)  # the first of equals, so keep < gone
        centres[keep] = (sizes[keep] * centres[keep] + sizes[gone] * centres[gone]) / (sizes[keep] + sizes[gone])
        sizes[keep] += sizes[gone]
        names[names == gone] = keep
        open_to = np.isfinite(cost[keep])
        cost[keep, open_to] = cost[open_to, keep] = cost_of(keep)[open_to]
        cost[gone] = cost[:, gone] = np.inf
    return names[labels]


def _split(latent: np.ndarray, labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Split in two, again and again, the cluster with the largest sum of squares that has two distinct points."""
    labels = labels.copy()
    width: dict[int, float] = {}  # of the clusters that can be split
    changed = range(int(labels.max()) + 1)
    for number in range(len(changed), k):
        for name in changed:
            points = latent[labels == name]
            width.pop(name, None)
            if (points != points[0]).any():
                width[name] = float(((points - points.mean(axis=0)) ** 2).sum())
        if not width:
            break
        widest = max(width, key=width.__getitem__)
        cells = np.flatnonzero(labels == widest)
        labels[cells[_halves(latent[cells], seed)]] = number
        changed = (widest, number)
    return labels


def _halves(points: np.ndarray, seed: int) -> np.ndarray:
    """Which of the points (not all the same) go to the second of two groups, by 2-means."""
    halves = _two_or_more_means(points, 2, 4, seed).astype(bool)
    if halves.any() and not halves.all():
        return halves
    # too close for k-means' arithmetic: cut at the largest value of the first coordinate that differs
    column = points[:, (points != points[0]).any(axis=0).argmax()]
    return column == column.max()


def _by_size(labels: np.ndarray) -> np.ndarray:
    """Number the clusters by size, the largest 0; of equally large ones the one with the earliest cell first."""
    _, first, labels, sizes = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    return rank[labels]


def _check_distinct(latent: np.ndarray, k: int) -> None:
    """Raise `InputError` unless there are at least `k` distinct cells."""
    if k > len(latent):
        raise InputError(f"{k} clusters asked of {len(latent):,} cells", "no more clusters than cells", "ask for fewer with -k")
    distinct = len(np.unique(latent[: 10 * k], axis=0))  # mostly enough, and quick
    if distinct < k:
        distinct = len(np.unique(latent, axis=0))
    if distinct < k:
        raise InputError(
            f"{k} clusters asked, but {keys.LATENT} has only {distinct} distinct points in {len(latent):,} cells",
            "no more clusters than distinct points",
            "ask for fewer with -k",
        )


def _reference(adata: AnnData, column: str) -> pd.Series:
    """The reference labels as text, missing where a cell has none."""
    if column not in adata.obs:
        candidates = [name for name in adata.obs if _is_like_labels(adata.obs[name])]
        raise InputError(
            f"obs has no column {column!r} to compare with",
            "one of " + ", ".join(map(str, candidates[:12])) if candidates else "a column of labels, and obs has none",
            "name it with --reference",
        )
    values = adata.obs[column]
    known = values.notna()
    if not known.any():
        raise InputError(f"obs[{column!r}] has no label in any of {len(values):,} cells", "known labels")
    if not _is_like_labels(values):
        raise InputError(
            f"obs[{column!r}] has {values.nunique():,} distinct values ({values.dtype})",
            f"labels, at most {MOST_CLASSES:,} different ones, no measurements",
        )
    if values.dtype.kind == "f":
        values = values.astype("Int64")  # whole numbers, fractional only because some are missing: "1", not "1.0"
    return values.astype(object).where(known).map(str, na_action="ignore")


def _is_like_labels(values: pd.Series) -> bool:
    """Whether a column can hold labels: few distinct values, and no fractions."""
    if values.nunique() > MOST_CLASSES:
        return False
    return values.dtype.kind != "f" or bool((values.dropna() % 1 == 0).all())
