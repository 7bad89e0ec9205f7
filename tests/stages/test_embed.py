"""Pictures of the latent space: scanpy's UMAP and scikit-learn's tSNE, the same bytes for the same seed."""

from __future__ import annotations

import os
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from sklearn.manifold import TSNE, trustworthiness
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from scale_toolkit import keys
from scale_toolkit.core import compiled as compiled_module
from scale_toolkit.errors import InputError, MissingSlotError, ScaleWarning
from scale_toolkit.stages import _latent
from scale_toolkit.stages import embed as module
from scale_toolkit.stages.cluster import cluster
from scale_toolkit.stages.embed import embed
from scale_toolkit.stages.receipts import receipts

FEW = "ignore:.*(fewer than n_neighbors|.perplexity. 30 is too large):scale_toolkit.errors.ScaleWarning"
SLOT = {"umap": keys.UMAP, "tsne": keys.TSNE}


def cells_of(n_cells=120, seed=0, dims=4, n_clusters=3, apart=4.0) -> anndata.AnnData:
    rng = np.random.default_rng(seed)
    truth = np.arange(n_cells) % n_clusters
    latent = apart * rng.normal(size=(n_clusters, dims))[truth] + rng.normal(size=(n_cells, dims))
    names = [f"cell{i}" for i in range(n_cells)]
    return anndata.AnnData(obs=pd.DataFrame({"truth": truth}, index=names), obsm={"X_scale": latent.astype(np.float32)})


def picture(cells, **options) -> np.ndarray:
    options = {"n_threads": 1} | options  # threads wait for one another longer than so few cells take
    return SLOT[options.get("method", "umap")].get(embed(cells.copy(), **options))


@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_the_picture_keeps_neighbourhoods_and_clusters(method):
    cells = cells_of()
    embed(cells, method=method, n_threads=1)
    drawn = SLOT[method].get(cells)
    assert (drawn.shape, drawn.dtype) == ((120, 2), np.float32)
    assert np.isfinite(drawn).all()
    assert trustworthiness(cells.obsm["X_scale"], drawn, n_neighbors=10) > 0.85
    assert KNeighborsClassifier(5).fit(drawn, cells.obs["truth"]).score(drawn, cells.obs["truth"]) > 0.97


def test_umap_is_scanpys():
    cells = cells_of()
    embed(cells, n_neighbors=12, min_dist=0.3, seed=5)
    oracle = anndata.AnnData(obsm={"X_scale": cells.obsm["X_scale"].astype(float)})
    oracle.obsp["connectivities"] = cells.obsp["connectivities"].copy()
    oracle.uns["neighbors"] = dict(cells.uns["neighbors"])
    sc.tl.umap(oracle, min_dist=0.3, random_state=5)
    np.testing.assert_array_equal(cells.obsm["X_umap"], oracle.obsm["X_umap"].astype(np.float32))
    sc.pp.neighbors(oracle, n_neighbors=12, use_rep="X_scale")
    np.testing.assert_allclose(cells.obsp["connectivities"].toarray(), oracle.obsp["connectivities"].toarray(), atol=1e-5)


def test_tsne_is_scikit_learns():
    cells = cells_of()
    embed(cells, method="tsne", perplexity=11, seed=5, n_threads=1)
    oracle = TSNE(perplexity=11, init="pca", random_state=5, n_jobs=1).fit_transform(cells.obsm["X_scale"].astype(float))
    np.testing.assert_allclose(cells.obsm["X_tsne"], oracle, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_the_seed_changes_the_picture_and_repeats_it(method):
    # tSNE's start are the principal components, where there are two: then it has no chance in it
    cells = cells_of() if method == "umap" else cells_of(dims=1)
    one = picture(cells, method=method, seed=1)
    assert one.tobytes() == picture(cells, method=method, seed=1).tobytes()
    assert not np.array_equal(one, picture(cells, method=method, seed=2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"n_neighbors": 5}, {"n_neighbors": 30}),
        ({"min_dist": 0.0}, {"min_dist": 0.8}),
        ({"method": "tsne", "perplexity": 5.0}, {"method": "tsne", "perplexity": 30.0}),
    ],
)
def test_an_option_changes_the_picture(one, other):
    cells = cells_of()
    assert not np.allclose(picture(cells, **one), picture(cells, **other))


def test_a_larger_min_dist_keeps_cells_farther_apart():
    cells = cells_of()

    def nearest(min_dist):
        drawn = picture(cells, min_dist=min_dist)
        apart = np.linalg.norm(drawn[:, None] - drawn[None], axis=2)
        return np.median(np.sort(apart, axis=1)[:, 1])

    assert nearest(0.9) > 2 * nearest(0.0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_threads_reach_the_libraries(method, threads, monkeypatch):
    from threadpoolctl import threadpool_info

    seen = {}

    def spy(library, **less):
        def call(**options):
            seen["n_jobs"] = options["n_jobs"]
            seen["pools"] = max(pool["num_threads"] for pool in threadpool_info())
            return library(**options, **less)

        return call

    monkeypatch.setattr(module, "TSNE", spy(TSNE, max_iter=250))
    monkeypatch.setattr(_latent, "NearestNeighbors", spy(_latent.NearestNeighbors))
    embed(cells_of(), method=method, n_threads=threads)
    assert seen["n_jobs"] == threads
    assert seen["pools"] <= threads


# ---- the neighbour graph


def test_the_graph_goes_where_scanpy_looks_and_can_be_written(tmp_path):
    cells = embed(cells_of(), n_neighbors=12)
    assert cells.uns["neighbors"]["params"]["n_neighbors"] == 12
    assert receipts(cells)[-1]["notes"] == {"n_neighbors": 12, "neighbors_key": "neighbors"}
    sc.tl.leiden(cells, flavor="igraph", n_iterations=2, directed=False)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert again.obsm["X_umap"].tobytes() == cells.obsm["X_umap"].tobytes()
    assert (again.obsp["connectivities"] != cells.obsp["connectivities"]).nnz == 0


def test_the_same_graph_as_clusters_is_shared():
    cells = cluster(cells_of(), n_neighbors=12)
    before = cells.obsp["connectivities"].copy()
    embed(cells, n_neighbors=12)
    assert "embed_neighbors" not in cells.uns
    assert cells.uns["neighbors"]["stage"] == "cluster"
    assert (cells.obsp["connectivities"] != before).nnz == 0


def test_another_graph_than_clusters_has_its_own_place():
    cells = cluster(cells_of(), n_neighbors=12)
    described, before = dict(cells.uns["neighbors"]), cells.obsp["connectivities"].copy()
    embed(cells, n_neighbors=20)
    assert cells.uns["neighbors"] == described
    assert (cells.obsp["connectivities"] != before).nnz == 0
    assert cells.uns["embed_neighbors"]["params"]["n_neighbors"] == 20
    other = cells.copy()
    sc.tl.umap(other, min_dist=0.1, random_state=18, neighbors_key="embed_neighbors")
    np.testing.assert_array_equal(other.obsm["X_umap"].astype(np.float32), cells.obsm["X_umap"])

    embed(cells, n_neighbors=12)  # shares again: nothing stale is left
    assert "embed_neighbors" not in cells.uns
    assert not [name for name in cells.obsp if name.startswith("embed")]


def test_its_own_older_graph_is_replaced():
    cells = embed(cells_of(), n_neighbors=12)
    cells.obsm["X_scale"] = cells.obsm["X_scale"][::-1].copy()
    embed(cells, n_neighbors=20)
    assert cells.uns["neighbors"]["params"]["n_neighbors"] == 20
    assert "embed_neighbors" not in cells.uns


def test_clusters_do_not_depend_on_a_picture_drawn_before():
    plain, drawn = cells_of(apart=1.0), cells_of(apart=1.0)
    embed(drawn, n_neighbors=7)
    cluster(plain)
    cluster(drawn)
    pd.testing.assert_series_equal(plain.obs["leiden"], drawn.obs["leiden"])
    assert drawn.uns["neighbors"]["params"]["n_neighbors"] == 30


# ---- awkward data


@pytest.mark.parametrize("n_cells", [0, 1, 2])
@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_fewer_than_three_cells_are_an_error(n_cells, method):
    cells = cells_of(3)[:n_cells].copy()
    with pytest.raises(InputError, match=f"{n_cells} cells; expected at least 3"):
        embed(cells, method=method, n_threads=1)


@pytest.mark.filterwarnings(FEW)
@pytest.mark.parametrize("n_cells", [3, 4, 9, 10, 13])
@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_a_handful_of_cells(n_cells, method):
    cells = cells_of(n_cells)
    drawn = picture(cells, method=method)
    assert np.isfinite(drawn).all()
    assert len(np.unique(drawn, axis=0)) == n_cells
    assert drawn.tobytes() == picture(cells, method=method).tobytes()


def test_few_cells_say_what_is_used_instead():
    cells = cells_of(13)
    with pytest.warns(ScaleWarning, match="13 cells are fewer than n_neighbors 30"):
        embed(cells)
    assert cells.uns["neighbors"]["params"]["n_neighbors"] == 13
    with pytest.warns(ScaleWarning, match="`perplexity` 30 is too large for 13 cells: 4 is used"):
        embed(cells, method="tsne", n_threads=1)
    assert receipts(cells)[-1]["notes"] == {"perplexity": 4.0}


@pytest.mark.filterwarnings(FEW)
@pytest.mark.parametrize("method", ["umap", "tsne"])
@pytest.mark.parametrize("kind", ["one point", "one dimension", "one dimension differs", "far islands", "repeats"])
def test_degenerate_latents_give_finite_pictures(method, kind):
    cells = cells_of(60)
    latent = cells.obsm["X_scale"]
    cells.obsm["X_scale"] = {
        "one point": np.ones_like(latent),
        "one dimension": latent[:, :1],
        "one dimension differs": latent * np.float32([1, 0, 0, 0]),
        "far islands": np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32) + 1000 * (np.arange(60) % 6)[:, None],
        "repeats": np.repeat(latent[:6], 10, axis=0),
    }[kind].astype(np.float32)
    assert np.isfinite(picture(cells, method=method, n_neighbors=8)).all()


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_a_latent_that_is_not_finite_is_an_error(bad):
    cells = cells_of()
    cells.obsm["X_scale"][7, 0] = bad
    with pytest.raises(InputError, match=r"NaN or infinite in 1 of 120 cells.*scale train"):
        embed(cells)


def test_no_latent_names_train():
    with pytest.raises(MissingSlotError, match=r"obsm\['X_scale'\] is missing.*scale train"):
        embed(anndata.AnnData(np.zeros((5, 2), np.float32)))


def test_a_view_is_not_written_to():
    cells = cells_of()
    part = embed(cells[:50], n_neighbors=8)
    assert part.obsm["X_umap"].shape == (50, 2)
    assert "X_umap" not in cells.obsm


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        ("umap", [("neighbours of the cells", 0, 2), ("UMAP layout", 1, 2), ("embedded", 2, 2)]),
        ("tsne", [("tSNE of the latent space", 0, 2), ("embedded", 2, 2)]),
    ],
)
def test_progress_names_each_step(method, steps):
    reported = []
    embed(cells_of(), method=method, progress=lambda *step: reported.append(step))
    assert reported == steps


# ---- the approximate search, for more cells than an exact one can take


def test_each_cell_is_dropped_from_its_own_neighbours():
    indices = np.array([[0, 2, 1], [0, 1, 2], [3, 1, 0], [3, 0, 2]])  # 1 is not its own first, 2 not among its own
    distances = np.array([[0, 1, 2], [0, 0, 4], [5, 6, 7], [0, 8, 9]], dtype=np.float32)
    found = _latent._without_self(indices, distances)
    np.testing.assert_array_equal(found.indices.reshape(4, 2), [[2, 1], [0, 2], [3, 1], [0, 2]])
    np.testing.assert_array_equal(found.data.reshape(4, 2), [[1, 2], [0, 4], [5, 6], [8, 9]])


@pytest.mark.skipif(
    "SCALE_TEST_SLOW" not in os.environ, reason="pynndescent compiles for a minute or more: set SCALE_TEST_SLOW=1"
)
def test_neighbour_descent_finds_nearly_all_neighbours_and_repeats(monkeypatch):
    latent = cells_of(400).obsm["X_scale"].astype(float)
    exact = _latent.neighbor_graph(latent, 10, seed=3, n_threads=1)
    monkeypatch.setattr(_latent, "EXACT_UP_TO", 300)
    found, again = (_latent.neighbor_graph(latent, 10, seed=3, n_threads=1) for _ in range(2))
    both = (found.obsp["distances"] > 0).multiply(exact.obsp["distances"] > 0).nnz
    assert both > 0.98 * exact.obsp["distances"].nnz
    assert (found.obsp["connectivities"] != again.obsp["connectivities"]).nnz == 0
    assert "rp_forest" not in found.uns["neighbors"]


# ---- more cells than umap-learn lays out


@pytest.fixture
def many(monkeypatch):
    """120 cells count as many."""
    monkeypatch.setattr(module, "LAYOUT_OF_UMAP_UP_TO", 100)
    monkeypatch.setattr(_latent, "SCIKIT_LEARN_UP_TO", 100)


def test_many_cells_are_laid_out_by_cores_layout(many, monkeypatch):
    cells = cells_of()
    drawn = picture(cells)
    again, other, loose = picture(cells), picture(cells, seed=5), picture(cells, min_dist=0.9)
    assert drawn.tobytes() == again.tobytes() == picture(cells, n_threads=2).tobytes()
    assert drawn.dtype == np.float32 and (drawn != other).any()
    assert NearestNeighbors(n_neighbors=1).fit(loose).kneighbors()[0].mean() > 1.5 * NearestNeighbors(n_neighbors=1).fit(drawn).kneighbors()[0].mean()
    assert trustworthiness(cells.obsm["X_scale"], drawn, n_neighbors=10) > 0.85
    assert KNeighborsClassifier(5).fit(drawn, cells.obs["truth"]).score(drawn, cells.obs["truth"]) > 0.97
    monkeypatch.undo()
    assert (picture(cells) != drawn).any()


def test_many_cells_have_the_slots_of_few(many, monkeypatch):
    cells = embed(cells_of(), seed=5, min_dist=0.3)
    assert receipts(cells)[-1]["revision"] == module.UMAP_REVISION
    monkeypatch.undo()
    few = embed(cells_of(), seed=5, min_dist=0.3)
    assert cells.uns["umap"]["params"] == pytest.approx(dict(few.uns["umap"]["params"]))
    assert cells.uns["neighbors"] == few.uns["neighbors"]
    for name in ("distances", "connectivities"):
        np.testing.assert_allclose(cells.obsp[name].toarray(), few.obsp[name].toarray(), rtol=1e-5)
    assert "revision" not in receipts(embed(cells_of(), method="tsne"))[-1]


def test_leukemia_from_a_latent_of_real_cells(real):
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    cells = real("leukemia")
    latent = TruncatedSVD(11, random_state=0).fit_transform(TfidfTransformer(sublinear_tf=True).fit_transform(cells.X))[:, 1:]
    cells.obsm["X_scale"] = latent.astype(np.float32)
    embed(cells)
    truth = cells.obs["cell_type"].astype(str)
    assert KNeighborsClassifier(10).fit(cells.obsm["X_umap"], truth).score(cells.obsm["X_umap"], truth) > 0.7


# ---- what umap compiles

COMPILED = """
import numpy as np
from scale_toolkit.stages._latent import neighbor_graph
from scale_toolkit.stages.embed import embed
from umap import layouts, umap_
import anndata, sys, zlib

if sys.argv[1:]:
    from scale_toolkit.stages import _latent
    _latent.keep_umaps = lambda: None
latent = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
cells = embed(anndata.AnnData(obsm={"X_scale": latent}), n_neighbors=8)
made = (umap_.smooth_knn_dist, umap_.compute_membership_strengths, layouts._nb_optimize_layout_euclidean_single_epoch)
print(*(sum(one.stats.cache_hits.values()) for one in made))
print(zlib.crc32(cells.obsp["connectivities"].data.tobytes()), zlib.crc32(cells.obsm["X_umap"].tobytes()))
"""


def test_what_umap_compiles_is_kept_for_the_next_process():
    def run(*words):
        command = [sys.executable, "-W", "ignore", "-c", COMPILED, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    first, again, without = run(), run(), run("without")
    assert (again[0], without[0]) == ("1 1 1", "0 0 0")
    assert first[1] == again[1] == without[1]


IMPORTED = """
import sys
import numba, numpy as np

if not sys.argv[1:]:
    from scale_toolkit.core.compiled import keep_umaps
    keep_umaps()
from pynndescent import distances
assert numba.njit.__module__ == "numba.core.decorators"
print(sum(distances.squared_euclidean.stats.cache_hits.values()))
values = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32)
print(distances.squared_euclidean(*values).hex(), distances.alternative_cosine(*values).hex())
"""


def test_what_pynndescent_compiles_when_imported_is_kept_for_the_next_process():
    def run(*words):
        command = [sys.executable, "-W", "ignore", "-c", IMPORTED, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()

    first, again, without = run(), run(), run("without")
    assert int(again[0]) > int(without[0]) == 0
    assert first[1] == again[1] == without[1]


def test_a_folder_that_keeps_nothing_still_compiles(monkeypatch):
    """A read-only installation: numba finds no folder for its cache, and compiles as without one."""
    asked = []

    def njit(signature, **options):
        asked.append(options.get("cache", False))
        if options.get("cache"):
            raise RuntimeError("no locator available")
        return lambda function: function

    monkeypatch.setattr(compiled_module.numba, "njit", njit)
    with compiled_module._keep_signatures():
        kept = compiled_module.numba.njit("f4(f4)", fastmath=True)(abs)
    assert kept is abs and asked == [True, False] and compiled_module.numba.njit is njit
