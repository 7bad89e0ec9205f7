"""``cluster``: Leiden, k-means or the model's mixture in the latent space.

Without a number of clusters, the data decide (`core.boundaries`); with one, exactly that many
clusters come back, whatever the method (`core.clustering`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.config import ClusterConfig
from scale_toolkit.core.boundaries import CHOICE_REVISION, find_splits
from scale_toolkit.core.clustering import (
    Partition,
    check_distinct,
    check_k,
    labels_by_neighbors,
    number_by_size,
    partition_kmeans,
    partition_mixture,
    reach_k,
    search_resolution,
)
from scale_toolkit.core.leiden import LeidenGraph
from scale_toolkit.core.metrics import Agreement, agreement
from scale_toolkit.core.stability import recovery
from scale_toolkit.errors import InputError, warn
from scale_toolkit.known_labels import MOST_CLASSES, as_integers, is_like_labels
from scale_toolkit.stages._latent import check_finite, latent_of, log, neighbor_graph
from scale_toolkit.stages.kept import equal, free_name, is_ours, kept_column
from scale_toolkit.stages.receipts import receipts
from scale_toolkit.stages.stage import Result, stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from scale_toolkit.stages.stage import Progress

    #: The cells of a subsample and a seed -> the clusters among them.
    Regroup = Callable[[np.ndarray, int], np.ndarray]

#: A cluster whose mean Jaccard index in subsamples is at least this is stable (Hennig 2007).
STABLE = 0.75
#: This many unstable clusters are named in the log.
N_NAMED = 8
#: Of the cells of a sketch, this many nearest ones vote on the cluster of another cell.
VOTERS = 15
#: k-means and mixtures choose their number of clusters on at most this many cells.
MAX_CELLS_TO_CHOOSE = 20_000

#: Of k-means: raised when its results change (`train.FAST_REVISION`).
KMEANS_REVISION = 2

_COLUMNS = {"leiden": keys.LEIDEN, "kmeans": keys.KMEANS, "gmm": keys.GMM}


def _reads(config: ClusterConfig) -> tuple[keys.Slot, ...]:
    return (keys.LATENT, keys.POSTERIOR) if config.method == "gmm" else (keys.LATENT,)


def _revision(config: ClusterConfig) -> int:
    revision = KMEANS_REVISION if config.method == "kmeans" else 1
    decides = {"leiden": config.resolution is not None, "kmeans": False, "gmm": True}
    is_given = config.n_clusters is not None or decides[config.method]
    return revision if is_given else revision + CHOICE_REVISION - 1


def check(adata: AnnData, config: ClusterConfig) -> None:
    """Raise `InputError` for more clusters than cells, a reference or a sketch of no use."""
    if config.n_clusters is not None:
        check_k(min(adata.n_obs, config.sketch or adata.n_obs), config.n_clusters)
    if config.sketch is not None and (config.method != "leiden" or config.stability):
        raise InputError(
            f"`sketch` with `method` {config.method} and {config.stability} subsamples",
            "a sketch for Leiden alone: kmeans and gmm are fast, and `stability` needs the "
            "neighbour graph of all cells",
            "leave out `sketch`, or the others",
        )
    if config.reference is not None:
        _reference(adata, config)


@stage(
    "cluster",
    ClusterConfig,
    reads=_reads,
    requires=(keys.LATENT,),
    writes=(
        keys.LEIDEN,
        keys.KMEANS,
        keys.GMM,
        keys.CLUSTER,
        keys.NEIGHBORS,
        keys.DISTANCES,
        keys.CONNECTIVITIES,
        keys.CLUSTER_REPORT,
        keys.CLUSTER_STABILITY,
    ),
    check=check,
    loads=("numba",),
    revision=_revision,
)
def cluster(adata: AnnData, config: ClusterConfig, *, progress: Progress | None = None) -> Result:
    """Cluster the cells of the latent space.

    Parameters
    ----------
    adata
        Cells with ``obsm['X_scale']``, and ``obsm['scale_posterior']`` for the model's mixture.
    config
        The options. With ``n_clusters`` exactly that many clusters come back, whatever the method;
        without it and without ``resolution``, Leiden and k-means choose the number from the data
        (`core.boundaries`), and the mixture has the model's components.
    progress
        Called after each step of the search and each subsample.

    Returns
    -------
    `adata`, with

    ``obs['leiden' | 'kmeans' | 'gmm']``, ``obs['scale_cluster']``
        The cluster of each cell (category, "0" the largest).
    ``uns['neighbors']``, ``obsp['distances']``, ``obsp['connectivities']``
        By Leiden, without ``sketch``: the neighbour graph, where scanpy reads it.
    ``uns['scale_cluster_report']``
        With ``reference``: ARI, NMI, F1 and the matched confusion table (see `cluster_report`).
    ``uns['scale_cluster_stability']``
        With ``stability``: for each cluster its ``cells`` and the ``mean`` and ``lowest`` Jaccard
        index, in [0, 1], with its nearest cluster among those of the subsamples
        (`core.stability`, after Hennig 2007). Neither the latent space nor, for Leiden, the
        neighbour graph is computed again: what another training would change is not in it.

    Raises
    ------
    MissingSlotError
        No latent space, or no mixture to take clusters from.
    InputError
        A latent space that is not finite, more clusters requested than there are distinct cells,
        or no usable reference column.

    Warns
    -----
    ScaleWarning
        Fewer cells than neighbours, all cells at one point, a mixture that has not converged.
    """
    latent = latent_of(adata)
    if config.n_clusters is not None:
        check_distinct(latent, config.n_clusters, str(keys.LATENT))
    result = Result()
    method = {"leiden": _leiden, "kmeans": _kmeans, "gmm": _gmm}[config.method]
    partition = method(adata, latent, config, progress, result)
    labels, facts = number_by_size(partition.labels), dict(partition.facts)
    n_clusters = int(labels.max()) + 1
    names = [str(number) for number in range(n_clusters)]
    for slot in (_COLUMNS[config.method], keys.CLUSTER):
        result.slots[slot] = pd.Categorical.from_codes(labels, names)
    if config.stability:
        regroup = _regroup(result, latent, n_clusters, config, facts)
        table = _stability(labels, regroup, config, progress)
        result.slots[keys.CLUSTER_STABILITY] = table
        facts["stability"] = dict(zip(names, table["mean"].round(3).tolist(), strict=True))
    if config.reference is not None:
        figures = _compare(adata, labels, config, result)
        result.slots[keys.CLUSTER_REPORT] = figures
        facts["report"] = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in figures.items()
        }
    result.drops = (keys.CLUSTER_STABILITY, keys.CLUSTER_REPORT)
    result.facts = {"found": n_clusters, **facts}
    return result


def cluster_report(adata: AnnData) -> Agreement:
    """Return how ``obs['scale_cluster']`` agrees with its reference labels; prints as a table."""
    return Agreement.from_dict(keys.CLUSTER_REPORT.get(adata))


def leiden_at_k(
    latent: np.ndarray, k: int, n_neighbors: int = 30, seed: int = 18, n_threads: int = 0
) -> np.ndarray:
    """Return exactly `k` Leiden clusters of `latent` (cells × latent): integers, 0 the largest."""
    latent = np.asarray(latent, dtype=np.float64)
    check_distinct(latent, k)
    if len(latent) == 1:
        return np.zeros(1, dtype=np.int64)
    graph = neighbor_graph(latent, n_neighbors, seed=seed, n_threads=n_threads)
    leiden = LeidenGraph(graph.obsp[keys.CONNECTIVITIES.name], seed)
    return number_by_size(search_resolution(leiden, latent, k, seed).labels)


def kmeans_at_k(latent: np.ndarray, k: int, n_restarts: int = 10, seed: int = 18) -> np.ndarray:
    """Return exactly `k` k-means clusters of `latent` (cells × latent): integers, 0 the largest."""
    latent = np.asarray(latent, dtype=np.float64)
    check_distinct(latent, k)
    partition = Partition(partition_kmeans(latent, k, n_restarts, seed), {})
    return number_by_size(reach_k(latent, partition, k, seed).labels)


def _leiden(
    adata: AnnData,
    latent: np.ndarray,
    config: ClusterConfig,
    progress: Progress | None,
    result: Result,
) -> Partition:
    if len(latent) == 1:
        return Partition(np.zeros(1, dtype=np.int64), {})
    if config.sketch is not None and config.sketch < len(latent):
        return _leiden_of_sketch(adata, latent, config, config.sketch, progress)
    graph = neighbor_graph(latent, config.n_neighbors, seed=config.seed, n_threads=config.n_threads)
    result.slots[keys.NEIGHBORS] = {**graph.uns["neighbors"], "stage": "cluster"}
    for slot in (keys.DISTANCES, keys.CONNECTIVITIES):
        result.slots[slot] = graph.obsp[slot.name]
    n_neighbors = int(graph.uns["neighbors"]["params"]["n_neighbors"])
    facts: dict[str, Any] = {"n_neighbors": n_neighbors}
    leiden = LeidenGraph(keys.CONNECTIVITIES.get(graph), config.seed, config.leiden)
    if config.n_clusters is not None:
        partition = search_resolution(leiden, latent, config.n_clusters, config.seed, progress)
        return Partition(partition.labels, facts | partition.facts)
    if (latent == latent[0]).all():
        warn(f"all {len(latent):,} cells lie on one point of {keys.LATENT}: one cluster")
        return Partition(np.zeros(len(latent), dtype=np.int64), facts)
    if config.resolution is not None:
        facts["resolution"] = config.resolution
        return Partition(leiden.partition(config.resolution), facts)
    if progress is not None:
        progress("number of clusters", 0, 1)
    splits = find_splits(latent, keys.CONNECTIVITIES.get(graph), leiden, config.seed)
    k = splits.recommend()
    if progress is not None:
        progress(f"number of clusters: {k}", 1, 1)
    chosen = {"chosen_by": "boundaries", "fine_clusters": splits.max_clusters}
    return Partition(splits.partition(k), facts | chosen)


def _leiden_of_sketch(
    adata: AnnData,
    latent: np.ndarray,
    config: ClusterConfig,
    n_cells: int,
    progress: Progress | None,
) -> Partition:
    """Cluster random cells, which keep the density of all; the others follow their neighbours."""
    rng = np.random.default_rng(config.seed)
    in_sketch = np.zeros(len(latent), bool)
    in_sketch[rng.choice(len(latent), n_cells, replace=False)] = True
    points = latent[in_sketch]
    partition = _leiden(adata, points, replace(config, sketch=None), progress, Result())
    labels = np.empty(len(latent), np.int64)
    labels[in_sketch] = partition.labels
    if progress is not None:
        progress(f"cells outside the sketch: {len(latent) - n_cells:,}", 0, 1)
    labels[~in_sketch] = labels_by_neighbors(points, partition.labels, latent[~in_sketch], VOTERS)
    return Partition(labels, partition.facts | {"sketch": n_cells})


def _kmeans(
    adata: AnnData,
    latent: np.ndarray,
    config: ClusterConfig,
    progress: Progress | None,
    result: Result,
) -> Partition:
    k, facts = config.n_clusters, {}
    if k is None:
        k = choose_number(latent, config)
        facts = {"chosen_by": "boundaries"}
    labels = partition_kmeans(latent, k, config.n_restarts, config.seed)
    return reach_k(latent, Partition(labels, facts), k, config.seed)


def _gmm(
    adata: AnnData,
    latent: np.ndarray,
    config: ClusterConfig,
    progress: Progress | None,
    result: Result,
) -> Partition:
    """Return the model's mixture, or a refitted one if another number is requested."""
    k = config.n_clusters
    facts: dict[str, Any] = {}
    if k is None or keys.POSTERIOR.found_in(adata):
        posterior = np.asarray(keys.POSTERIOR.get(adata))
        check_finite(posterior, keys.POSTERIOR)
        facts["components"] = posterior.shape[1]
        labels = posterior.argmax(axis=1)
        if k is None:
            return Partition(labels, facts)
        if k == posterior.shape[1]:
            return reach_k(latent, Partition(labels, facts), k, config.seed)
        log.info(
            "the model has %d components: a mixture of %d is fitted to %s",
            facts["components"],
            k,
            keys.LATENT,
        )
    labels, n_rounds = partition_mixture(latent, k, config.n_restarts, config.seed)
    if n_rounds:
        warn(f"the mixture of {k} has not converged in {n_rounds} rounds")
    return reach_k(latent, Partition(labels, facts | {"refitted": k}), k, config.seed)


def choose_number(latent: np.ndarray, config: ClusterConfig) -> int:
    """Return the number of clusters that the data show, on a subsample of many cells."""
    if len(latent) > MAX_CELLS_TO_CHOOSE:
        rng = np.random.default_rng(config.seed)
        latent = latent[np.sort(rng.choice(len(latent), MAX_CELLS_TO_CHOOSE, replace=False))]
    if len(latent) == 1 or (latent == latent[0]).all():
        return 1
    graph = neighbor_graph(latent, config.n_neighbors, seed=config.seed, n_threads=config.n_threads)
    weights = keys.CONNECTIVITIES.get(graph)
    leiden = LeidenGraph(weights, config.seed, config.leiden)
    return find_splits(latent, weights, leiden, config.seed).recommend()


def _regroup(
    result: Result, latent: np.ndarray, k: int, config: ClusterConfig, facts: dict[str, Any]
) -> Regroup:
    """Return how a subsample is clustered: as all cells were, by the same rule or into `k`."""
    if config.method == "leiden":
        if keys.CONNECTIVITIES not in result.slots or not {"resolution", "chosen_by"} & set(facts):
            # one cell, or all cells at one point: any subsample is one cluster
            return lambda cells, _: np.zeros(len(cells), dtype=np.int64)
        connectivities = sparse.csr_matrix(result.slots[keys.CONNECTIVITIES])

        def by_leiden(cells: np.ndarray, seed: int) -> np.ndarray:
            weights = connectivities[cells][:, cells]
            leiden = LeidenGraph(weights, seed, config.leiden)
            if "resolution" not in facts:
                splits = find_splits(latent[cells], weights, leiden, seed)
                return splits.partition(splits.recommend())
            labels = leiden.partition(facts["resolution"])
            if facts.get("merged") or facts.get("split"):
                return reach_k(latent[cells], Partition(labels, {}), k, seed).labels
            return labels

        return by_leiden

    def by_points(cells: np.ndarray, seed: int) -> np.ndarray:
        points, n_clusters = latent[cells], min(k, len(cells))
        if config.method == "kmeans":
            return partition_kmeans(points, n_clusters, config.n_restarts, seed)
        # the model's own mixture was fitted to all cells
        return partition_mixture(points, n_clusters, config.n_restarts, seed)[0]

    return by_points


def _stability(
    labels: np.ndarray, regroup: Regroup, config: ClusterConfig, progress: Progress | None
) -> pd.DataFrame:
    """Return clusters × cells, mean and lowest Jaccard index in subsamples."""

    def report(number: int) -> None:
        if progress is not None:
            progress(f"subsample {number}", number, config.stability)

    jaccard = pd.DataFrame(recovery(labels, regroup, config.stability, config.seed, report))
    table = pd.DataFrame(
        {"cells": np.bincount(labels), "mean": jaccard.mean(), "lowest": jaccard.min()}
    )
    table.index = table.index.astype(str)
    loose = table["mean"][table["mean"] < STABLE].sort_values()
    named = ", ".join(f"{name} ({mean:.2f})" for name, mean in loose.iloc[:N_NAMED].items())
    more = f" and {len(loose) - N_NAMED} more" if len(loose) > N_NAMED else ""
    log.info(
        "%d of %d clusters come back in %d subsamples with a mean Jaccard index of %g or more%s",
        len(table) - len(loose),
        len(table),
        config.stability,
        STABLE,
        f"; not {named}{more}" if named else "",
    )
    return table


def _compare(
    adata: AnnData, labels: np.ndarray, config: ClusterConfig, result: Result
) -> dict[str, Any]:
    """Return the agreement with the reference column as ``uns['scale_cluster_report']``."""
    reference, column = _reference(adata, config)
    known = reference.notna().to_numpy()
    n_unlabelled = int((~known).sum())
    compared = agreement(reference[known], labels[known], n_unlabelled=n_unlabelled)
    if n_unlabelled:
        log.info(
            "%d of %d cells have no label in %r and are left out", n_unlabelled, adata.n_obs, column
        )
    slot = _COLUMNS[config.method]
    if column == slot.name and not equal(adata.obs[column], result.slots[slot]):
        # this call overwrites the column; the report names the one that keeps its values
        column = free_name(adata, slot)
    return {"method": config.method, "reference": column, **compared.as_dict()}


def _reference(adata: AnnData, config: ClusterConfig) -> tuple[pd.Series, str]:
    """Return the reference labels as text (missing if a cell has none), and their column.

    A column that this call writes is the author's before the first call, and kept by it; later it
    is ours, and the author's is under the name it was kept under.
    """
    column = str(config.reference)
    if column not in adata.obs:
        candidates = [str(name) for name in adata.obs if is_like_labels(adata.obs[name])]
        raise InputError(
            f"obs has no column {column!r} to compare with",
            "one of " + ", ".join(candidates[:12])
            if candidates
            else "a column of labels, and obs has none",
            "name it with --reference",
        )
    history = receipts(adata)
    replaced = column in (_COLUMNS[config.method].name, keys.CLUSTER.name)
    if replaced and is_ours(adata, keys.parse(f"obs/{column}"), history):
        original_column = kept_column(column, history)
        if original_column is None or original_column not in adata.obs:
            raise InputError(
                f"obs[{column!r}] holds clusters of `scale cluster`, which this call replaces",
                "a column of known labels",
                "name another column with --reference",
            )
        log.info("obs[%r] holds earlier clusters: compared with %r", column, original_column)
        column = original_column
    return _as_labels(adata, column), column


def _as_labels(adata: AnnData, column: str) -> pd.Series:
    values = adata.obs[column]
    known = values.notna()
    if not known.any():
        raise InputError(
            f"obs[{column!r}] has no label in any of {len(values):,} cells", "known labels"
        )
    if not is_like_labels(values):
        raise InputError(
            f"obs[{column!r}] has {values.nunique():,} distinct values ({values.dtype})",
            f"labels, at most {MOST_CLASSES:,} different ones, not measurements",
        )
    values = as_integers(values)
    return values.astype(object).where(known).map(str, na_action="ignore")
