"""Clusters of the latent space, against scikit-learn and scanpy, and exactly k of them whatever the data."""

from __future__ import annotations

import json
import random
import warnings

import anndata
import igraph
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.cluster.hierarchy import cut_tree, ward
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture

from scale_toolkit import keys
from scale_toolkit.config import ClusterConfig
from scale_toolkit.core import clustering, leiden
from scale_toolkit.errors import InputError, MissingSlotError, ScaleWarning
from scale_toolkit.stages import _latent
from scale_toolkit.stages import cluster as module
from scale_toolkit.stages.cluster import cluster, cluster_report, kmeans_at_k, leiden_at_k
from scale_toolkit.stages.receipts import receipts

FEW = f"ignore:.*fewer than n_neighbors:{ScaleWarning.__module__}.{ScaleWarning.__qualname__}"


def with_latent(latent, posterior=None, **obs) -> anndata.AnnData:
    cells = anndata.AnnData(obs=pd.DataFrame(obs, index=[f"cell{i}" for i in range(len(latent))]))
    keys.LATENT.set(cells, np.asarray(latent, dtype=np.float32))
    if posterior is not None:
        keys.POSTERIOR.set(cells, np.asarray(posterior, dtype=np.float32))
    return cells


def blobs(n_cells=150, n_clusters=4, apart=8.0, seed=0, dims=5):
    rng = np.random.default_rng(seed)
    truth = np.arange(n_cells) % n_clusters
    return apart * rng.normal(size=(n_clusters, dims))[truth] + rng.normal(size=(n_cells, dims)), truth


def notes(cells) -> dict:
    return receipts(cells)[-1]["notes"]


def labels_of(cells) -> np.ndarray:
    return cells.obs["scale_cluster"].cat.codes.to_numpy()


@pytest.fixture
def loose() -> anndata.AnnData:
    """150 cells in four clouds that run into one another, so that seeds and options matter."""
    latent, truth = blobs(apart=1.2)
    return with_latent(latent, cell_type=truth.astype(str))


# ---- what is written


@pytest.mark.parametrize("method", ["leiden", "kmeans", "gmm"])
def test_planted_clusters_come_back_named_by_size(method):
    latent, truth = blobs()
    order = np.argsort(np.isin(truth, [2]), kind="stable")  # the cells of cluster 2 last
    latent, truth = latent[order][:-9], truth[order][:-9]
    cells = cluster(with_latent(latent), method=method, n_clusters=4)
    found = cells.obs["scale_cluster"]
    assert adjusted_rand_score(truth, found) == 1
    assert list(found.cat.categories) == ["0", "1", "2", "3"]
    assert list(found.value_counts().loc[["0", "1", "2", "3"]]) == sorted(np.bincount(truth), reverse=True)
    pd.testing.assert_series_equal(cells.obs[method], found, check_names=False)
    assert set(cells.obs) == {method, "scale_cluster"}


def test_equally_large_clusters_are_named_by_their_first_cell():
    latent = np.repeat([[5.0, 0], [0, 0], [9, 9]], 10, axis=0) + np.random.default_rng(0).normal(0, 0.1, (30, 2))
    cells = cluster(with_latent(latent), method="kmeans", n_clusters=3)
    np.testing.assert_array_equal(labels_of(cells), np.repeat([0, 1, 2], 10))


def test_the_chosen_column_is_the_last_methods_and_each_keeps_its_own(loose):
    cluster(loose, n_clusters=4)
    by_leiden = loose.obs["leiden"].copy()
    cluster(loose, method="kmeans", n_clusters=3)
    pd.testing.assert_series_equal(loose.obs["leiden"], by_leiden)
    pd.testing.assert_series_equal(loose.obs["scale_cluster"], loose.obs["kmeans"], check_names=False)
    assert loose.obs["scale_cluster"].nunique() == 3


def test_the_result_can_be_written_and_read(loose, tmp_path):
    cluster(loose, n_clusters=4, reference="cell_type")
    loose.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_series_equal(again.obs["scale_cluster"], loose.obs["scale_cluster"])
    assert str(cluster_report(again)) == str(cluster_report(loose))
    np.testing.assert_array_equal(again.obsp["connectivities"].toarray(), loose.obsp["connectivities"].toarray())
    json.loads(again.uns["scale"])


def test_a_view_is_not_written_to(loose):
    whole = loose.copy()
    part = cluster(loose[:100], method="kmeans", n_clusters=2)
    assert part.shape[0] == 100
    assert list(loose.obs) == list(whole.obs)


# ---- each method against its library


def test_neighbours_are_those_of_scanpy(loose):
    cluster(loose, n_neighbors=12)
    other = loose.copy()
    sc.pp.neighbors(other, n_neighbors=12, use_rep="X_scale")
    np.testing.assert_allclose(loose.obsp["connectivities"].toarray(), other.obsp["connectivities"].toarray(), atol=1e-5)
    np.testing.assert_allclose(loose.obsp["distances"].toarray(), other.obsp["distances"].toarray(), atol=1e-5)
    assert loose.uns["neighbors"]["params"] | {"random_state": 0} == dict(other.uns["neighbors"]["params"])


def test_leiden_is_as_good_as_scanpys(loose):
    cluster(loose, resolution=1.3)
    other = loose.copy()
    sc.tl.leiden(other, resolution=1.3, flavor="igraph", n_iterations=-1, directed=False, random_state=0, key_added="oracle")

    weights = loose.obsp["connectivities"].toarray().astype(float)
    degree = weights.sum(axis=1)

    def modularity(labels):
        same = np.asarray(labels)[:, None] == np.asarray(labels)[None, :]
        return ((weights - 1.3 * np.outer(degree, degree) / degree.sum()) * same).sum() / degree.sum()

    assert modularity(loose.obs["leiden"]) == pytest.approx(modularity(other.obs["oracle"]), rel=0.01)
    assert adjusted_rand_score(loose.obs["leiden"], other.obs["oracle"]) > 0.8
    assert modularity(loose.obs["leiden"]) > modularity(np.arange(150) % 4) + 0.1


def test_kmeans_is_scikit_learns(loose):
    cluster(loose, method="kmeans", n_clusters=5, n_restarts=3, seed=7)
    oracle = KMeans(5, n_init=3, random_state=7).fit_predict(np.asarray(loose.obsm["X_scale"], dtype=float))
    assert adjusted_rand_score(loose.obs["kmeans"], oracle) == 1


def test_gmm_is_the_models_most_responsible_component(loose):
    posterior = np.random.default_rng(1).dirichlet(np.ones(6), 150)
    keys.POSTERIOR.set(loose, posterior.astype(np.float32))
    cluster(loose, method="gmm")
    assert adjusted_rand_score(loose.obs["gmm"], posterior.argmax(axis=1)) == 1
    assert notes(loose) == {"components": 6, "found": 6}
    as_found = loose.obs["gmm"].copy()
    cluster(loose, method="gmm", n_clusters=6)
    pd.testing.assert_series_equal(loose.obs["gmm"], as_found)


def test_gmm_without_k_leaves_empty_components_out(loose):
    keys.POSTERIOR.set(loose, np.eye(9, dtype=np.float32)[np.arange(150) % 3 * 4])
    cluster(loose, method="gmm")
    assert loose.obs["gmm"].nunique() == len(loose.obs["gmm"].cat.categories) == 3


def test_gmm_with_another_k_is_refitted_as_scikit_learn_would(loose):
    keys.POSTERIOR.set(loose, np.eye(6, dtype=np.float32)[np.arange(150) % 6])
    cluster(loose, method="gmm", n_clusters=4, n_restarts=2, seed=3)
    latent = np.asarray(loose.obsm["X_scale"], dtype=float)
    oracle = GaussianMixture(4, covariance_type="diag", n_init=2, random_state=3).fit_predict(latent)
    assert adjusted_rand_score(loose.obs["gmm"], oracle) > 0.99
    assert notes(loose) == {"components": 6, "refitted": 4, "merged": 0, "split": 0, "found": 4}


def test_gmm_with_k_needs_no_posterior_and_without_k_says_so(loose):
    cluster(loose, method="gmm", n_clusters=3)
    assert loose.obs["gmm"].nunique() == 3
    with pytest.raises(MissingSlotError, match=r"scale_posterior.*scale train"):
        cluster(loose, method="gmm")


def test_the_refitted_mixture_does_not_depend_on_the_latents_scale():
    latent, _ = blobs(apart=2.0)
    large, small = (cluster(with_latent(latent * scale), method="gmm", n_clusters=4) for scale in (1.0, 1e-5))
    assert adjusted_rand_score(large.obs["gmm"], small.obs["gmm"]) > 0.99


def test_a_mixture_that_has_not_converged_says_so(loose, monkeypatch):
    monkeypatch.setattr(clustering, "GaussianMixture", lambda *a, **k: GaussianMixture(*a, **k, max_iter=1, tol=1e-12))
    with pytest.warns(ScaleWarning, match="has not converged in 1 rounds"):
        cluster(loose, method="gmm", n_clusters=4)


# ---- exactly k


@given(
    seed=st.integers(0, 2**32 - 1),
    n_cells=st.integers(2, 60),
    kinds=st.integers(1, 60),
    dims=st.integers(1, 4),
    share=st.floats(0, 1),
    method=st.sampled_from(["leiden", "kmeans", "gmm"]),
)
@settings(deadline=None, max_examples=40)
@pytest.mark.filterwarnings(FEW)
def test_exactly_k_clusters_come_back(seed, n_cells, kinds, dims, share, method):
    """Of cells that repeat, in any number of dimensions, k from 1 to as many as there are distinct cells."""
    rng = np.random.default_rng(seed)
    latent = (rng.normal(size=(kinds, dims)) * rng.choice([1e-3, 1, 100]))[rng.integers(0, kinds, n_cells)].astype(np.float32)
    k = 1 + int(share * (len(np.unique(latent, axis=0)) - 1))
    cells = cluster(with_latent(latent), method=method, n_clusters=k, n_restarts=1, n_neighbors=8)
    assert sorted(set(cells.obs["scale_cluster"]), key=int) == [str(i) for i in range(k)]
    again = cluster(with_latent(latent), method=method, n_clusters=k, n_restarts=1, n_neighbors=8)
    pd.testing.assert_frame_equal(cells.obs, again.obs)


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_as_many_clusters_as_distinct_points_are_the_points(method):
    points = np.repeat(np.arange(12.0)[:, None] * [1, 3], 5, axis=0)
    cells = cluster(with_latent(points), method=method, n_clusters=12)
    assert adjusted_rand_score(cells.obs["scale_cluster"], points[:, 0]) == 1


def test_points_too_close_for_kmeans_are_still_told_apart():
    latent = np.zeros((20, 2), dtype=np.float32)
    latent[3, 1] = np.float32(1e-30)
    labels = kmeans_at_k(latent, 2)
    np.testing.assert_array_equal(np.flatnonzero(labels == 1), [3])


def test_leiden_finds_k_by_resolution_alone_where_one_gives_it(loose):
    cluster(loose, n_clusters=6)
    facts = notes(loose)
    assert (facts["found"], facts["found_at_resolution"], facts["merged"], facts["split"]) == (6, 6, 0, 0)
    searched = loose.obs["leiden"].copy()
    cluster(loose, resolution=facts["resolution"])
    pd.testing.assert_series_equal(loose.obs["leiden"], searched)


def test_the_graph_is_made_once_and_the_tries_are_bounded_and_told(loose, monkeypatch):
    graphs, told = [], []
    make = module.neighbor_graph
    monkeypatch.setattr(module, "neighbor_graph", lambda *a, **k: graphs.append(1) or make(*a, **k))
    cluster(loose, n_clusters=90, progress=lambda *what: told.append(what))
    assert len(graphs) == 1
    assert 1 < len(told) <= clustering.MAX_TRIES
    assert told[0] == (f"resolution 1: {told[0][0].split()[2]} clusters", 1, clustering.MAX_TRIES)
    assert notes(loose)["resolutions_tried"] == len(told)


def test_islands_more_than_k_are_merged_by_ward():
    """No resolution joins cells that no edge joins: five far islands, three clusters asked."""
    latent, truth = blobs(n_cells=100, n_clusters=5, apart=60.0)
    cells = cluster(with_latent(latent), n_clusters=3, n_neighbors=8)
    facts = notes(cells)
    assert (facts["found_at_resolution"], facts["merged"], facts["split"], facts["found"]) == (5, 2, 0, 3)
    oracle = cut_tree(ward(latent), 3).ravel()
    assert adjusted_rand_score(cells.obs["leiden"], oracle) == 1
    assert adjusted_rand_score(truth, cluster(with_latent(latent), n_clusters=5, n_neighbors=8).obs["leiden"]) == 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
@settings(deadline=None, max_examples=30)
def test_merging_is_wards_linkage(seed, k):
    latent = np.random.default_rng(seed).normal(size=(12, 3))
    merged = clustering.merge_closest(latent, np.arange(12), k)
    assert adjusted_rand_score(merged, cut_tree(ward(latent), k).ravel()) == 1


def test_splitting_takes_the_cluster_with_the_largest_sum_of_squares():
    rng = np.random.default_rng(0)
    wide = np.concatenate([rng.normal(-5, 1, (20, 2)), rng.normal(5, 1, (20, 2))])
    latent = np.concatenate([rng.normal(100, 1, (40, 2)), wide])
    labels = clustering.split_widest(latent, np.repeat([0, 1], 40), 3, seed=0)
    assert adjusted_rand_score(labels, np.repeat([0, 1, 2], [40, 20, 20])) == 1


def test_a_component_nobody_belongs_to_is_made_up_for_by_a_split():
    latent, truth = blobs(n_clusters=4)
    posterior = np.eye(4)[np.minimum(truth, 2)]  # the fourth component is empty, its cells are in the third
    cells = cluster(with_latent(latent, posterior), method="gmm", n_clusters=4)
    assert adjusted_rand_score(truth, cells.obs["gmm"]) == 1
    assert notes(cells) == {"components": 4, "merged": 0, "split": 1, "found": 4}


@pytest.mark.parametrize("method", ["leiden", "kmeans", "gmm"])
def test_more_clusters_than_cells_or_points_is_an_error(method):
    with pytest.raises(InputError, match=r"151 clusters requested of 150 cells; expected at most as many clusters.* -k"):
        cluster(with_latent(blobs()[0]), method=method, n_clusters=151)
    three = np.repeat([[0.0, 0], [0, 1], [2, 2]], 20, axis=0)
    with pytest.raises(InputError, match=r"4 clusters requested, but .* only 3 distinct points in 60 cells"):
        cluster(with_latent(three), method=method, n_clusters=4)
    assert cluster(with_latent(three), method=method, n_clusters=3).obs["scale_cluster"].nunique() == 3


@pytest.mark.parametrize("method", ["leiden", "kmeans"])
@pytest.mark.parametrize(("n_clusters", "scale"), [(2, 1.0), (7, 1e-3), (12, 1e3)])
def test_without_a_number_the_data_decide_at_any_scale(method, n_clusters, scale):
    latent, truth = blobs(n_cells=600, n_clusters=n_clusters, apart=5.0, dims=8)
    cells = cluster(with_latent(latent * scale), method=method)
    assert notes(cells)["found"] == n_clusters
    assert notes(cells)["chosen_by"] == "boundaries"
    assert adjusted_rand_score(truth, cells.obs[method]) > 0.98


def test_types_of_one_percent_are_found_beside_large_ones():
    rng = np.random.default_rng(3)
    sizes = [900, 700, 300, 60, 20, 20]
    truth = np.repeat(np.arange(6), sizes)
    latent = 6 * rng.normal(size=(6, 8))[truth] + rng.normal(size=(2000, 8))
    cells = cluster(with_latent(latent))
    assert adjusted_rand_score(truth, cells.obs["leiden"]) > 0.98
    assert notes(cells)["found"] == 6


def test_one_cloud_is_one_cluster():
    latent = np.random.default_rng(0).normal(size=(500, 6)) * [5, 2, 1, 1, 1, 1]
    assert notes(cluster(with_latent(latent)))["found"] == 1


def test_a_resolution_replaces_the_choice(loose):
    cluster(loose, resolution=4.0)
    assert notes(loose)["resolution"] == 4.0
    assert "chosen_by" not in notes(loose)


def test_leidenalg_reaches_the_quality_of_igraph(loose):
    weights = cluster(loose.copy()).obsp["connectivities"].toarray().astype(float)
    degree = weights.sum(axis=1)
    quality = {}
    for engine in ("igraph", "leidenalg"):
        labels = np.asarray(cluster(loose.copy(), resolution=1.3, leiden=engine).obs["leiden"])
        same = labels[:, None] == labels[None, :]
        expected = 1.3 * np.outer(degree, degree) / degree.sum()
        quality[engine] = ((weights - expected) * same).sum() / degree.sum()
    assert quality["igraph"] == pytest.approx(quality["leidenalg"], rel=0.01)


def test_leidenalg_runs_and_repeats(loose, monkeypatch):
    monkeypatch.setattr(leiden.LeidenGraph, "_by_igraph", None)  # a call would fail
    first = labels_with(loose, resolution=2.0, leiden="leidenalg", seed=4)
    np.testing.assert_array_equal(first, labels_with(loose, resolution=2.0, leiden="leidenalg", seed=4))


def test_the_igraph_generator_of_the_caller_stays_in_place(loose):
    default = labels_with(loose, resolution=2.0)
    mine = random.Random(5)
    igraph.set_random_number_generator(mine)
    try:
        state = mine.getstate()
        igraph.Graph.Erdos_Renyi(n=20, p=0.5)
        assert mine.getstate() != state  # igraph draws from it
        np.testing.assert_array_equal(labels_with(loose, resolution=2.0), default)
        state = mine.getstate()
        igraph.Graph.Erdos_Renyi(n=20, p=0.5)
        assert mine.getstate() != state  # and still does
    finally:
        igraph.set_random_number_generator(random)


def test_the_check_refuses_more_clusters_than_cells_before_any_work(loose):
    with pytest.raises(InputError, match="151 clusters requested of 150 cells"):
        cluster.stage.check(loose, ClusterConfig(n_clusters=151))
    with pytest.raises(InputError, match="no column 'type'"):
        cluster.stage.check(loose, ClusterConfig(reference="type"))


def test_the_plain_functions_give_what_the_stage_gives(loose):
    latent = loose.obsm["X_scale"]
    for method, labels in (("leiden", leiden_at_k(latent, 5, 20, 4)), ("kmeans", kmeans_at_k(latent, 5, 10, 4))):
        cluster(loose, method=method, n_clusters=5, n_neighbors=20, seed=4)
        np.testing.assert_array_equal(labels_of(loose), labels)
    assert list(leiden_at_k(latent[:1], 1)) == list(kmeans_at_k(latent[:1], 1)) == [0]


# ---- every option


def labels_with(cells, **options) -> np.ndarray:
    return labels_of(cluster(cells.copy(), **options))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"method": "leiden", "n_clusters": 4}, {"method": "kmeans", "n_clusters": 4}),
        ({"method": "gmm", "n_clusters": 4}, {"method": "kmeans", "n_clusters": 4}),
        ({"n_clusters": 3}, {"n_clusters": 4}),
        ({"resolution": 0.3}, {"resolution": 3.0}),
        ({"n_neighbors": 6, "resolution": 1.0}, {"n_neighbors": 40, "resolution": 1.0}),
    ],
)
def test_an_option_changes_the_clusters(loose, one, other):
    assert not np.array_equal(labels_with(loose, **one), labels_with(loose, **other))


@pytest.mark.parametrize("fixed", [{"method": "leiden", "resolution": 3.0}, {"method": "kmeans", "n_clusters": 12}])
def test_the_seed_changes_the_clusters_and_repeats_them(fixed):
    cells = with_latent(np.random.default_rng(0).normal(size=(200, 4)))
    fixed = fixed | {"n_restarts": 1}
    assert not np.array_equal(labels_with(cells, seed=1, **fixed), labels_with(cells, seed=2, **fixed))
    np.testing.assert_array_equal(labels_with(cells, seed=1, **fixed), labels_with(cells, seed=1, **fixed))


@pytest.mark.parametrize("method", ["kmeans", "gmm"])
def test_more_restarts_find_a_better_fit(method):
    latent = np.random.default_rng(0).normal(size=(200, 4))
    cells = with_latent(latent)

    def within(n_restarts):
        labels = labels_with(cells, method=method, n_clusters=15, n_restarts=n_restarts, seed=2)
        return sum(((latent[labels == c] - latent[labels == c].mean(axis=0)) ** 2).sum() for c in range(15))

    one, many = within(1), within(20)
    assert one != many
    if method == "kmeans":
        assert many < one


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_reach_the_neighbour_search_and_blas(loose, threads, monkeypatch):
    from threadpoolctl import threadpool_info

    seen = {}
    search, run = _latent.NearestNeighbors, module._leiden
    monkeypatch.setattr(_latent, "NearestNeighbors", lambda **k: seen.update(k) or search(**k))

    def probe(*what):
        seen["pools"] = {pool["num_threads"] for pool in threadpool_info()}
        return run(*what)

    monkeypatch.setattr(module, "_leiden", probe)
    cluster(loose, n_threads=threads)
    assert seen["n_jobs"] == threads
    assert max(seen["pools"]) <= threads


# ---- known labels


def test_the_report_equals_its_oracles_and_leaves_unlabelled_cells_out():
    latent, truth = blobs(apart=1.5)
    names = pd.Series(truth).map({0: "B", 1: "T", 2: "NK", 3: "mono"}).where(np.arange(150) % 7 > 0)
    cells = with_latent(latent)
    cells.obs["cell_type"] = pd.Categorical(names)
    cluster(cells, n_clusters=5, reference="cell_type")
    known = names.notna().to_numpy()
    reference, found = names[known], cells.obs["leiden"][known]
    report = cells.uns["scale_cluster_report"]
    assert report["ari"] == pytest.approx(adjusted_rand_score(reference, found), abs=1e-12)
    assert report["nmi"] == pytest.approx(normalized_mutual_info_score(reference, found), abs=1e-12)
    assert (report["n_cells"], report["n_unlabelled"]) == (known.sum(), 150 - known.sum())
    assert (report["method"], report["reference"]) == ("leiden", "cell_type")
    table = pd.DataFrame(report["confusion"], report["classes"], report["clusters"])
    oracle = pd.crosstab(reference.to_numpy(), found.to_numpy()).reindex(index=table.index, columns=table.columns)
    np.testing.assert_array_equal(table, oracle)
    assert list(table.index) == ["B", "NK", "T", "mono"]
    assert list(report["matched"])[:4] == list(table.index)
    assert notes(cells)["report"]["ari"] == report["ari"]
    assert notes(cells)["report"]["confusion"] == report["confusion"].tolist()


def test_a_reference_that_is_overwritten_is_the_authors_and_stays_so(loose):
    authors = loose.obs["cell_type"].to_numpy()
    loose.obs["leiden"] = authors
    with pytest.warns(ScaleWarning, match="leiden_original"):
        cluster(loose, n_clusters=4, reference="leiden")
    expected = adjusted_rand_score(authors, loose.obs["scale_cluster"])
    assert expected < 1
    assert cluster_report(loose).ari == pytest.approx(expected)
    assert loose.uns["scale_cluster_report"]["reference"] == "leiden_original"
    np.testing.assert_array_equal(loose.obs["leiden_original"], authors)
    cluster(loose, n_clusters=4, reference="leiden")  # the author's labels, not the first clusters
    assert cluster_report(loose).ari == pytest.approx(expected)
    cluster(loose, method="kmeans", n_clusters=4, reference="leiden")  # two methods are compared
    other = adjusted_rand_score(loose.obs["leiden"], loose.obs["kmeans"])
    assert cluster_report(loose).ari == pytest.approx(other)


@pytest.mark.parametrize("column", ["leiden", "scale_cluster"])
def test_clusters_are_not_compared_with_themselves(loose, column):
    cluster(loose, n_clusters=4)
    with pytest.raises(InputError, match="holds clusters of `scale cluster`, which this call replaces"):
        cluster(loose, n_clusters=4, reference=column)


def test_a_later_call_without_a_reference_leaves_no_old_report(loose):
    cluster(loose, n_clusters=4, reference="cell_type")
    cluster(loose, n_clusters=4)
    with pytest.raises(MissingSlotError, match="scale_cluster_report"):
        cluster_report(loose)
    assert "report" not in notes(loose)


def test_whole_numbers_with_gaps_keep_their_names(loose):
    loose.obs["day"] = np.where(np.arange(150) < 5, np.nan, np.arange(150) % 3)
    cluster(loose, n_clusters=3, reference="day")
    assert cluster_report(loose).classes == ("0", "1", "2")
    assert cluster_report(loose).n_unlabelled == 5


def test_a_reference_that_is_not_there_lists_what_is(loose):
    loose.obs["depth"] = np.linspace(0.5, 2, 150)
    loose.obs["donor"] = "one"
    with pytest.raises(
        InputError, match=r"no column 'celltype' to compare with; expected one of cell_type, donor; .*--reference"
    ):
        cluster(loose, n_clusters=4, reference="celltype")
    assert "scale_cluster" not in loose.obs


def test_a_reference_without_labels_or_of_measurements_is_an_error(loose):
    loose.obs["depth"] = np.linspace(0.5, 2, 150)
    loose.obs["nothing"] = np.nan
    with pytest.raises(InputError, match=r"obs\['depth'\] has 150 distinct values .*not measurements"):
        cluster(loose, n_clusters=4, reference="depth")
    with pytest.raises(InputError, match=r"obs\['nothing'\] has no label in any of 150 cells"):
        cluster(loose, n_clusters=4, reference="nothing")


# ---- awkward data


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_latent_that_is_not_finite_is_an_error(loose, bad):
    loose.obsm["X_scale"][[3, 8], 1] = bad
    with pytest.raises(InputError, match=r"obsm\['X_scale'\] is NaN or infinite in 2 of 150 cells.*scale train"):
        cluster(loose, n_clusters=4)


def test_a_posterior_that_is_not_finite_is_an_error(loose):
    keys.POSTERIOR.set(loose, np.full((150, 3), np.nan, dtype=np.float32))
    with pytest.raises(InputError, match=r"scale_posterior.* NaN or infinite in 150 of 150 cells"):
        cluster(loose, method="gmm")


def test_no_latent_names_train():
    with pytest.raises(MissingSlotError, match=r"obsm\['X_scale'\] is missing; expected the output of `scale train`"):
        cluster(anndata.AnnData(np.zeros((3, 2), np.float32)))


def test_no_cells_or_no_dimensions_is_an_error():
    for shape in ((0, 3), (5, 0)):
        with pytest.raises(InputError, match=f"has shape \\({shape[0]}, {shape[1]}\\)"):
            cluster(with_latent(np.zeros(shape)))


def test_cells_on_one_point_are_one_cluster():
    cells = with_latent(np.full((40, 3), 2.5))
    with pytest.warns(ScaleWarning, match="all 40 cells lie on one point"):
        cluster(cells)
    assert list(cells.obs["leiden"].cat.categories) == ["0"]
    for method in ("leiden", "kmeans", "gmm"):
        assert set(cluster(cells, method=method, n_clusters=1).obs["scale_cluster"]) == {"0"}


def test_fewer_cells_than_neighbours_says_so_and_takes_them_all():
    cells = with_latent(blobs(n_cells=12, n_clusters=2)[0])
    with pytest.warns(ScaleWarning, match="12 cells are fewer than n_neighbors 30"):
        cluster(cells)
    assert notes(cells)["n_neighbors"] == cells.uns["neighbors"]["params"]["n_neighbors"] == 12
    assert (np.diff(cells.obsp["distances"].indptr) == 11).all()


@pytest.mark.filterwarnings(FEW)
@pytest.mark.parametrize("n_cells", [1, 2, 3])
@pytest.mark.parametrize("method", ["leiden", "kmeans", "gmm"])
def test_a_handful_of_cells(n_cells, method):
    latent = np.arange(n_cells * 2, dtype=float).reshape(n_cells, 2)
    for k in range(1, n_cells + 1):
        assert cluster(with_latent(latent), method=method, n_clusters=k).obs["scale_cluster"].nunique() == k
    assert cluster(with_latent(latent)).obs["leiden"].notna().all()


def test_one_latent_dimension(loose):
    one = with_latent(loose.obsm["X_scale"][:, :1])
    for method in ("leiden", "kmeans", "gmm"):
        assert cluster(one, method=method, n_clusters=3).obs["scale_cluster"].nunique() == 3


def test_x_is_never_looked_at():
    latent, _ = blobs()
    cells = with_latent(latent)
    full = anndata.AnnData(sparse.csr_matrix((150, 30), dtype=np.float32), obs=cells.obs.copy(), obsm=dict(cells.obsm))
    pd.testing.assert_frame_equal(cluster(cells, n_clusters=4).obs, cluster(full, n_clusters=4).obs)


def test_the_callers_random_numbers_are_left_alone(loose):
    import random

    random.seed(3)
    expected = random.random()
    random.seed(3)
    cluster(loose, n_clusters=4)
    assert random.random() == expected


# ---- real data


@pytest.mark.parametrize("method", ["leiden", "kmeans", "gmm"])
def test_leukemia_from_a_spectral_latent(real, method):
    cells = real("leukemia")
    counts = sparse.csr_matrix(cells.X).astype(np.float64)
    depth, open_in = np.asarray(counts.sum(axis=1)).ravel(), np.asarray((counts > 0).sum(axis=0)).ravel()
    weighted = sparse.diags(1e4 / depth) @ counts @ sparse.diags(np.log1p(len(depth) / np.maximum(open_in, 1)))
    left, values, _ = sparse.linalg.svds(weighted.log1p().tocsr(), k=31, random_state=0)
    order = np.argsort(-values)[1:]
    latent = left[:, order] * values[order]
    cells.obsm["X_scale"] = (latent / np.linalg.norm(latent, axis=1, keepdims=True)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cluster(cells, method=method, n_clusters=6, reference="cell_type")
    report = cluster_report(cells)
    assert cells.obs["scale_cluster"].nunique() == 6
    assert report.ari > 0.5
    assert report.nmi > 0.5
    assert report.n_cells == 391


# ---- what comes back when cells are left out


@pytest.mark.parametrize(
    "options", [{}, {"n_clusters": 4}, {"method": "kmeans", "n_clusters": 4}, {"method": "gmm", "n_clusters": 4}]
)
def test_clusters_that_are_there_come_back_and_halves_of_one_do_not(options, tmp_path, caplog):
    caplog.set_level("INFO")
    latent, truth = blobs(300)
    cells = cluster(with_latent(latent), stability=10, **options)
    assert adjusted_rand_score(truth, labels_of(cells)) == 1
    table = cells.uns["scale_cluster_stability"]
    assert (table["mean"] == 1).all() and (table["lowest"] == 1).all()
    assert table["cells"].to_dict() == cells.obs["scale_cluster"].value_counts().to_dict()
    assert "4 of 4 clusters come back in 10 subsamples" in caplog.text
    cells.write_h5ad(tmp_path / "cells.h5ad")
    pd.testing.assert_frame_equal(anndata.read_h5ad(tmp_path / "cells.h5ad").uns["scale_cluster_stability"], table)
    if "n_clusters" in options:
        cluster(cells, stability=10, **options | {"n_clusters": 6})
        table = cells.uns["scale_cluster_stability"]
        assert len(table) == 6
        assert table["mean"].min() < module.STABLE  # two clouds were cut, where they have no gap
        assert (table["lowest"] <= table["mean"]).all() and table["mean"].between(0, 1).all()
        assert f"({table['mean'].min():.2f})" in caplog.text
        assert notes(cells)["stability"] == table["mean"].round(3).to_dict()
    before = cells.obs.copy()
    cluster(cells, **options | ({"n_clusters": 6} if "n_clusters" in options else {}))
    assert "scale_cluster_stability" not in cells.uns  # of other clusters
    pd.testing.assert_frame_equal(cells.obs, before)


@pytest.mark.parametrize("method", ["leiden", "kmeans", "gmm"])
@pytest.mark.filterwarnings(FEW)
def test_stability_of_few_cells_and_of_cells_that_repeat(method):
    for points in (np.ones((1, 2)), np.ones((6, 2)), np.repeat(np.arange(5.0)[:, None], 3, axis=0), np.arange(5.0)[:, None]):
        k = len(np.unique(points))
        cells = cluster(with_latent(points), method=method, n_clusters=k, stability=30, n_neighbors=3)
        table = cells.uns["scale_cluster_stability"]
        assert len(table) == k
        assert table["mean"].dropna().between(0, 1).all()


def test_stability_is_the_same_again(loose):
    once = cluster(loose.copy(), n_clusters=5, stability=4).uns["scale_cluster_stability"]
    pd.testing.assert_frame_equal(cluster(loose.copy(), n_clusters=5, stability=4).uns["scale_cluster_stability"], once)
    assert not once.equals(cluster(loose.copy(), n_clusters=5, stability=4, seed=1).uns["scale_cluster_stability"])
