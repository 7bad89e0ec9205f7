"""Nothing that the user wrote is lost when a stage writes a slot of the same name."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.errors import ScaleWarning
from scale_toolkit.stages import kept
from scale_toolkit.stages.cluster import cluster
from scale_toolkit.stages.embed import embed
from scale_toolkit.stages.prepare import prepare
from scale_toolkit.stages.receipts import receipts
from scale_toolkit.stages.select_peaks import select_peaks

N_CELLS, N_PEAKS = 60, 90


def cells() -> anndata.AnnData:
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(0.4, (N_CELLS, N_PEAKS)).astype(np.float32))
    made = anndata.AnnData(
        counts,
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(N_CELLS)]),
        var=pd.DataFrame(index=[f"chr1:{100 * i}-{100 * i + 50}" for i in range(N_PEAKS)]),
    )
    centres = 9 * rng.normal(size=(3, 4))
    keys.LATENT.set(made, (centres[np.arange(N_CELLS) % 3] + rng.normal(size=(N_CELLS, 4))).astype(np.float32))
    keys.POSTERIOR.set(made, np.eye(3, dtype=np.float32)[np.arange(N_CELLS) % 3])
    return made


STAGES = {
    "leiden": (lambda a: cluster(a, method="leiden", n_clusters=3), [keys.LEIDEN]),
    "kmeans": (lambda a: cluster(a, method="kmeans", n_clusters=3), [keys.KMEANS]),
    "gmm": (lambda a: cluster(a, method="gmm"), [keys.GMM]),
    "umap": (lambda a: embed(a, n_neighbors=10), [keys.UMAP]),
    "tsne": (lambda a: embed(a, method="tsne", perplexity=5), [keys.TSNE]),
    "prepare": (lambda a: prepare(a, min_peaks=1, min_cells=1), [keys.N_PEAKS, keys.N_COUNTS, keys.N_CELLS]),
    "select-peaks": (lambda a: select_peaks(a, n_peaks=50, mark_only=True), [keys.SELECTED, keys.PEAK_SCORE]),
}


def planted(slot: keys.Slot):
    """Return values that no stage computes."""
    n_rows = N_PEAKS if slot.where.startswith("var") else N_CELLS
    if slot.where.endswith("m"):
        return np.full((n_rows, 2), -7.0)
    if slot is keys.SELECTED:
        return np.ones(n_rows, dtype=bool)
    return np.array([f"mine{i % 4}" for i in range(n_rows)], dtype=object)


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_keeps_what_the_file_held_under_its_slots(name):
    run, slots = STAGES[name]
    adata = cells()
    mine = {}
    for slot in slots:
        mine[slot] = planted(slot)
        slot.set(adata, mine[slot])
    with pytest.warns(ScaleWarning) as caught:
        result = run(adata)
    texts = "\n".join(str(warning.message) for warning in caught)
    for slot in slots:
        survivor = keys.column(slot.where, f"{slot.name}_original")
        np.testing.assert_array_equal(np.asarray(survivor.get(result)), mine[slot])
        assert not kept.equal(slot.get(result), mine[slot])
        assert survivor.name in texts
        if name != "prepare":  # which keeps columns itself, input by input
            assert f"{slot} was not written by scale_toolkit and is kept as {survivor}" in texts
            assert receipts(result)[-1]["kept"][slot.path] == survivor.name
        assert not keys.column(slot.where, f"{slot.name}_original2").found_in(result)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = run(result)  # what our stage wrote is replaced, and what was kept remains
    for slot in slots:
        survivor = keys.column(slot.where, f"{slot.name}_original")
        np.testing.assert_array_equal(np.asarray(survivor.get(again)), mine[slot])
        assert not keys.column(slot.where, f"{slot.name}_original2").found_in(again)


def test_a_column_of_ours_whose_clusters_were_named_by_hand_is_kept():
    adata = cluster(cells(), n_clusters=3)
    adata.obs["leiden"] = adata.obs["leiden"].cat.rename_categories({"0": "B", "1": "T", "2": "NK"})
    named = adata.obs["leiden"].copy()
    with pytest.warns(ScaleWarning, match="leiden_original"):
        cluster(adata, n_clusters=3)
    assert list(adata.obs["leiden_original"]) == list(named)
    assert list(adata.obs["leiden"].cat.categories) == ["0", "1", "2"]


def test_a_second_column_of_the_user_gets_a_number():
    adata = cells()
    adata.obs["leiden_original"] = "first"
    adata.obs["leiden"] = "second"
    with pytest.warns(ScaleWarning, match="leiden_original2"):
        cluster(adata, n_clusters=3)
    assert set(adata.obs["leiden_original"]) == {"first"}
    assert set(adata.obs["leiden_original2"]) == {"second"}


def test_a_graph_of_scanpy_moves_with_its_matrices():
    adata = cells()
    sc.pp.neighbors(adata, n_neighbors=5, use_rep="X_scale")
    graph = adata.obsp["connectivities"].copy()
    with pytest.warns(ScaleWarning) as caught:
        cluster(adata, n_clusters=3, n_neighbors=12)
    assert {str(warning.message).split()[-1] for warning in caught} == {
        "uns['neighbors_original']",
        "obsp['distances_original']",
        "obsp['connectivities_original']",
    }
    described = adata.uns["neighbors_original"]
    assert described["connectivities_key"] == "connectivities_original"
    assert (adata.obsp["connectivities_original"] != graph).nnz == 0
    assert adata.uns["neighbors"]["params"]["n_neighbors"] == 12
    sc.tl.leiden(adata, neighbors_key="neighbors_original", flavor="igraph", n_iterations=2, directed=False)


def test_equal_values_are_not_kept_twice():
    adata = cells()
    adata.obs["kmeans"] = cluster(cells(), method="kmeans", n_clusters=3).obs["kmeans"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cluster(adata, method="kmeans", n_clusters=3)
    assert "kmeans_original" not in adata.obs


def test_receipts_of_earlier_versions_say_what_was_ours():
    adata = cluster(cells(), n_clusters=3)
    history = [{"stage": "cluster"}]
    assert kept.is_ours(adata, keys.LEIDEN, history)
    assert not kept.is_ours(adata, keys.LEIDEN, [{"stage": "embed"}])
    assert not kept.is_ours(adata, keys.LEIDEN, [])
