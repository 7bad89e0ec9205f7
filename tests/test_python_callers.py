"""What a Python caller may do: NumPy numbers, views, backed objects, model files in folders, options of one call."""

from __future__ import annotations

import anndata
import numpy as np
import pytest

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.errors import InputError, ScaleWarning

QUICK = {"max_iter": 4, "n_threads": 1}


def test_numpy_numbers_reach_the_receipt(planted):
    made = scale.train(planted, n_components=np.int64(3), **QUICK)
    assert scale.receipts(made)[0]["options"]["n_components"] == 3
    made = scale.cluster(made, method="kmeans", n_clusters=np.int64(1) + 1)
    made = scale.cluster(made, method="kmeans", n_clusters=4.0)
    assert made.obs["scale_cluster"].nunique() == 4


def test_options_of_one_call_are_not_the_next_ones_defaults(planted):
    model = scale.SCALE(planted, 3, n_threads=1)
    model.train(max_epochs=2, early_stopping=False, progress=False)
    assert model.history.index[-1] == 2
    assert (model.config.max_epochs, model.config.patience) == (None, None)
    model.train(max_iter=8, progress=False)
    last = scale.receipts(planted)[-1]["options"]
    assert (last["max_epochs"], last["patience"], last["max_iter"]) == (None, None, 8)


def test_a_backed_anndata_is_trained(planted, tmp_path):
    planted.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    made = scale.train(backed, n_components=3, **QUICK)
    in_memory = scale.train(planted, n_components=3, **QUICK)
    np.testing.assert_array_equal(made.obsm["X_scale"], in_memory.obsm["X_scale"])
    assert scale.receipts(made)[0]["input"] == scale.receipts(in_memory)[0]["input"]


def test_a_view_is_trained_and_becomes_an_anndata_of_its_own(planted):
    view = planted[:60]
    model = scale.SCALE(view, 3)
    model.train(progress=False, **QUICK)
    assert model.adata is view and not view.is_view
    assert view.obsm["X_scale"].shape[0] == 60
    assert "X_scale" not in planted.obsm


def test_a_model_file_in_a_folder_finds_the_cells_beside_it(planted, tmp_path):
    model = scale.SCALE(planted, 3)
    model.train(progress=False, **QUICK)
    model.save(tmp_path / "saved", save_anndata=True)
    for path in (tmp_path / "saved", tmp_path / "saved" / "model.pt"):
        loaded = scale.SCALE.load(path)
        np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())


def test_a_save_that_fails_leaves_nothing(planted, tmp_path, monkeypatch):
    model = scale.SCALE(planted, 3)
    model.train(progress=False, **QUICK)
    planted.obs["mixed"] = [1, "a", None] * 40
    with pytest.raises(InputError, match=r"obs\['mixed'\] holds values of different types"):
        model.save(tmp_path / "saved", save_anndata=True)
    assert not (tmp_path / "saved").exists()
    del planted.obs["mixed"]
    monkeypatch.setattr("scale_toolkit.io.files.write_bytes", lambda *_: 1 / 0)  # after the cells are written
    with pytest.raises(ZeroDivisionError):
        model.save(tmp_path / "saved", save_anndata=True)
    assert not (tmp_path / "saved").exists()
    monkeypatch.undo()
    model.save(tmp_path / "saved", save_anndata=True)
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["adata.h5ad", "model.pt"]


def test_what_training_reads_is_in_the_digest(planted):
    digests = set()
    for step in (2, 3):
        planted.var["selected"] = np.arange(planted.n_vars) % step == 0
        with pytest.warns(ScaleWarning, match=r"by var\['selected'\]"):
            trained = scale.train(planted.copy(), n_components=3, **QUICK)
        digests.add(scale.receipts(trained)[0]["input"])
    assert len(digests) == 2


def test_what_clustering_and_imputing_read_is_in_the_digest(planted):
    made = scale.train(planted, n_components=3, **QUICK)

    def digests(cells):
        return {
            "gmm": scale.receipts(scale.cluster(cells.copy(), method="gmm"))[-1]["input"],
            "binary": scale.receipts(scale.impute(cells.copy(), binary=True))[-1]["input"],
        }

    before = digests(made)
    made.obsm["scale_posterior"][0] = (0, 0, 1)
    made.obs["scale_open_rate"] *= 1.5
    after = digests(made)
    assert before["gmm"] != after["gmm"]
    assert before["binary"] != after["binary"]


def test_the_hidden_layer_that_imputing_reads_is_in_the_digest(planted):
    made = scale.train(planted, n_components=3, decode_dim=(6,), **QUICK)
    before = scale.receipts(scale.impute(made.copy()))[-1]["input"]
    made.obsm[keys.HIDDEN.name][0] += 1
    assert scale.receipts(scale.impute(made.copy()))[-1]["input"] != before


@pytest.mark.parametrize(("indices", "indptr"), [(np.int32, np.int64), (np.int64, np.int32), (np.int64, np.int64)])
def test_every_stage_takes_index_arrays_of_any_type(plant, indices, indptr):
    """A matrix of more than 2³¹ stored values has int64; a file may have one of each."""

    def analysed(adata):
        made = scale.prepare(adata, min_peaks=5, min_cells=2)
        retyped(made)
        made = scale.select_peaks(made, n_peaks=80)
        retyped(made)
        made = scale.train(made, n_components=3, max_iter=10, n_threads=1)
        made = scale.cluster(made, method="kmeans", n_clusters=3, n_threads=1)
        made = scale.markers(made, n_threads=1)
        return scale.impute(made, numeric=True, validate=True, n_threads=1)

    def retyped(adata):
        adata.X.indices, adata.X.indptr = adata.X.indices.astype(types[0]), adata.X.indptr.astype(types[1])

    types = (np.int32, np.int32)
    wanted = analysed(plant(60, 100))
    types = (indices, indptr)
    cells = plant(60, 100)
    retyped(cells)
    found = analysed(cells)
    np.testing.assert_array_equal(found.X.toarray(), wanted.X.toarray())
    np.testing.assert_array_equal(found.obsm["X_scale"], wanted.obsm["X_scale"])
    np.testing.assert_array_equal(found.obsm["imputed"], wanted.obsm["imputed"])
    assert [receipt["input"] for receipt in scale.receipts(found)] == [receipt["input"] for receipt in scale.receipts(wanted)]
