"""Nothing that the user wrote is lost when a stage writes a slot of the same name."""

from __future__ import annotations

import dataclasses
import re
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.cli.app import main
from scale_toolkit.errors import ScaleWarning
from scale_toolkit.registry import STAGES as STAGES_KNOWN
from scale_toolkit.stages import kept
from scale_toolkit.stages.cluster import cluster
from scale_toolkit.stages.embed import embed
from scale_toolkit.stages.impute import impute
from scale_toolkit.stages.prepare import prepare
from scale_toolkit.stages.receipts import receipts
from scale_toolkit.stages.select_peaks import select_peaks
from scale_toolkit.stages.stage import Result
from scale_toolkit.stages.train import train

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


#: Without the layer of `genes`: its result is cells × genes, and the cells × peaks that it was given stay as they are.
REGISTERED = [
    slot
    for slot in keys.all_slots()
    if slot.stage.split()[0] in STAGES_KNOWN and slot.stage != "simulate" and slot.where != "layers"
]


def value_of(slot: keys.Slot, number: float):
    n_rows = N_PEAKS if slot.where.startswith("var") else N_CELLS
    if slot.where == "uns":
        return {"mine": number}
    if slot.where.endswith("p"):
        return sparse.identity(n_rows, format="csr") * number
    return np.full((n_rows, 2), number) if slot.where.endswith("m") else np.full(n_rows, number)


def same(first, second) -> bool:
    if isinstance(first, dict):
        return first["mine"] == second["mine"]
    return kept.equal(first, second)


@pytest.mark.parametrize("slot", REGISTERED, ids=str)
def test_every_slot_of_every_stage_keeps_what_no_receipt_explains(slot):
    """The stage writes this slot and nothing else; what computes its value is replaced."""
    stage = STAGES_KNOWN[slot.stage.split()[0]].load().stage
    adata = cells()
    slot.set(adata, value_of(slot, 7.0))

    def run(adata, config, *, progress=None):
        empty = anndata.AnnData(adata.X, obs=adata.obs[[]].copy(), var=adata.var[[]].copy())
        empty.uns = {name: value for name, value in adata.uns.items() if name != slot.name}
        value = value_of(slot, number)
        if slot is keys.NEIGHBORS:  # which says itself whose it is
            value["stage"] = stage.name
        return Result({slot: value}, target=empty if stage.makes_new else None)

    changed = dataclasses.replace(stage, run=run, check=None, requires=())
    original = keys.column(slot.where, f"{slot.name}_original")
    number = 1.0
    with pytest.warns(ScaleWarning, match="was not written by scale_toolkit and is kept as"):
        result, _ = changed.apply(adata, stage.config())
    assert same(original.get(result), value_of(slot, 7.0))
    assert same(slot.get(result), value_of(slot, 1.0))
    number = 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result, _ = changed.apply(result, stage.config())  # what the receipt explains is replaced
    assert same(slot.get(result), value_of(slot, 2.0))
    if not stage.makes_new:
        assert same(original.get(result), value_of(slot, 7.0))


@pytest.fixture(scope="module")
def trained(plant) -> anndata.AnnData:
    return train(plant(60, 100), n_components=3, max_iter=5, n_threads=1)


@pytest.mark.parametrize("where", ["obsm", "layers"])
@pytest.mark.parametrize("name", ["imputed", "binary"])
@pytest.mark.parametrize("some", [False, True], ids=["all cells", "some cells"])
def test_imputed_values_of_another_program_are_kept(trained, where, name, some, tmp_path):
    """In memory, computed block by block, and left on disk by the command line."""
    adata = trained.copy()
    mine = np.full(adata.shape, 7.0)
    getattr(adata, where)[name] = mine
    adata.write_h5ad(tmp_path / "in.h5ad")
    wanted = list(adata.obs_names[::2] if some else adata.obs_names)
    options = {"numeric": name == "imputed", "binary": name == "binary", "to": where}
    message = f"{where}['{name}'] was not written by scale_toolkit and is kept as {where}['{name}_original']"
    for function in (impute, impute.streamed):
        with pytest.warns(ScaleWarning, match=re.escape(message)):
            made = function(adata.copy(), **options, cells=wanted if some else None)
        made = made if isinstance(made, anndata.AnnData) else made[0]
        np.testing.assert_array_equal(getattr(made, where)[f"{name}_original"], mine[: len(wanted)])
    (tmp_path / "cells.txt").write_text("\n".join(wanted))
    words = ["--numeric" if name == "imputed" else "--binary", "--to", where, "-o", str(tmp_path / "out.h5ad")]
    for source in ("in.h5ad", "out.h5ad"):
        words[-1] = str(tmp_path / f"{source[:-5]}_out.h5ad") if source == "out.h5ad" else str(tmp_path / "out.h5ad")
        only = ["--cells", str(tmp_path / "cells.txt")] if some else []
        with pytest.raises(SystemExit) as end:
            main(["impute", str(tmp_path / source), *only, *words])
        assert end.value.code == 0
        written = anndata.read_h5ad(words[-1])
        np.testing.assert_array_equal(getattr(written, where)[f"{name}_original"], mine[: len(wanted)])
        assert f"{name}_original2" not in getattr(written, where)
        ours = getattr(written, where)[name]
        assert (ours.max() if name == "binary" else np.max(ours)) <= 1


def test_training_leaves_imputed_values_of_another_program(plant, tmp_path):
    adata = plant(60, 100)
    adata.obsm["imputed"] = np.full((60, 5), 7.0)
    adata.layers["binary"] = np.full((60, 100), 7.0)
    adata.write_h5ad(tmp_path / "in.h5ad")
    with pytest.raises(SystemExit) as end:
        main(f"train {tmp_path}/in.h5ad -k 3 --max-iter 5 --n-threads 1 -o {tmp_path}/out.h5ad".split())
    assert end.value.code == 0
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert (written.obsm["imputed"] == 7).all() and (written.layers["binary"] == 7).all()


def test_clusters_that_were_named_by_hand_are_kept_in_the_chosen_column_too():
    adata = cluster(cells(), n_clusters=3)
    adata.obs["scale_cluster"] = adata.obs["scale_cluster"].cat.rename_categories({"0": "B", "1": "T", "2": "NK"})
    named = list(adata.obs["scale_cluster"])
    with pytest.warns(ScaleWarning, match="scale_cluster_original"):
        cluster(adata, n_clusters=3)
    assert list(adata.obs["scale_cluster_original"]) == named


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
