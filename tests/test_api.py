"""The model as an object, and the functions that work in place: both give what the stages give."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.errors import InputError, OptionError, ScaleWarning, UsageError

QUICK = {"n_components": 3, "latent": 4, "n_threads": 1, "max_iter": 8}


@pytest.fixture(scope="module")
def cells(plant):
    return plant()


@pytest.fixture(scope="module")
def model(cells):
    made = scale.SCALE(cells.copy(), **QUICK)
    made.train()
    return made


@pytest.fixture(scope="module")
def by_stages(cells):
    return scale.train(cells.copy(), **QUICK)


class TestModel:
    def test_it_trains_as_the_stage_does_and_writes_into_the_cells(self, model, by_stages):
        for slot in (keys.LATENT, keys.DECODER, keys.POSTERIOR, keys.OFFSET):
            np.testing.assert_array_equal(slot.get(model.adata), slot.get(by_stages))
        assert model.adata.uns[keys.RECEIPTS.name] == by_stages.uns[keys.RECEIPTS.name]

    def test_its_answers_are_the_slots(self, model):
        cells = model.adata
        assert np.shares_memory(model.get_latent_representation(), cells.obsm["X_scale"])
        soft = model.predict(soft=True)
        np.testing.assert_array_equal(soft, cells.obsm["scale_posterior"])
        assert list(soft.index) == list(cells.obs_names)
        hard = model.predict()
        assert hard.equals(cells.obs["scale_component"])
        assert (hard.astype(str) == soft.idxmax(axis=1)).all()
        imputed = model.get_imputed()
        assert imputed.decoded == 0  # lazy
        np.testing.assert_array_equal(imputed[:5, :], scale.imputed(cells)[:5, :])

    def test_other_cells_are_encoded_and_not_changed(self, model, cells):
        others = cells[:20].copy()
        before = others.copy()
        np.testing.assert_allclose(model.get_latent_representation(others), model.get_latent_representation()[:20], atol=1e-6)
        assert model.predict(others).equals(model.predict()[:20].cat.set_categories(model.predict(others).cat.categories))
        np.testing.assert_allclose(model.get_imputed(others)[:, :], model.get_imputed()[:20, :], atol=1e-6)
        assert list(others.obs) == list(before.obs)
        assert not len(others.obsm)
        assert not others.uns
        assert (others.X != before.X).nnz == 0

    def test_history_has_a_row_an_epoch_and_the_starts_own(self, model):
        history, slot = model.history, model.adata.uns["scale_history"]
        assert history.index.name == "epoch"
        assert history.index[0] == 0
        assert list(history["held_out"]) == list(slot["held_out"])
        assert list(history["loss"].dropna()) == list(slot["loss"])
        assert np.isnan(history["loss"].iloc[0])
        released = scale.SCALE(model.adata.copy(), 3, preset="release", encode_dim=(8,), latent=4, n_threads=1)
        released.train(2)
        assert list(released.history.index) == [1, 2]

    def test_epochs_and_early_stopping(self, cells):
        made = scale.SCALE(cells.copy(), 3, latent=4, n_threads=1)
        made.train(max_epochs=2)
        assert len(made.history["loss"].dropna()) == 2
        made.train(max_epochs=3, lr=0.01)
        assert (made.config.lr, scale.receipts(made.adata)[-1]["options"]["lr"]) == (None, 0.01)
        assert len(made.history["loss"].dropna()) == 3
        made.train(early_stopping_patience=1)
        stopped = len(made.history["loss"].dropna())
        made.train(stopped + 2, early_stopping=False)
        assert len(made.history["loss"].dropna()) == stopped + 2
        with pytest.raises(OptionError, match="early_stopping is False and early_stopping_patience is given"):
            made.train(early_stopping=False, early_stopping_patience=3)

    def test_options_are_checked_when_they_are_given(self, cells):
        with pytest.raises(OptionError, match=r"unknown option 'n_latent'; expected one of .*latent"):
            scale.SCALE(cells, n_latent=3)
        with pytest.raises(OptionError, match="n_components is 0"):
            scale.SCALE(cells, 0)
        with pytest.raises(OptionError, match="max_epochs is 0"):
            scale.SCALE(cells).train(0)

    def test_progress_goes_to_the_function_to_a_bar_or_nowhere(self, cells, monkeypatch):
        steps, bars = [], []
        monkeypatch.setattr("scale_toolkit.api.bar", lambda: bars.append(1) or nullcontext(lambda *_: None))
        for progress in (lambda *step: steps.append(step), False, True):
            scale.SCALE(cells.copy(), n_components=2, n_threads=1).train(max_epochs=1, progress=progress)
        assert [step[1:] for step in steps if step[0].startswith("loss")] == [(1, 1)]
        assert bars == [1]

    def test_before_training_it_says_so(self, cells, tmp_path):
        made = scale.SCALE(cells)
        assert not made.is_trained
        assert repr(made) == "SCALE: 120 cells × 300 peaks, 30 components, latent by the data, preset fast, not trained"
        for ask in (made.get_latent_representation, made.get_imputed, made.predict, lambda: made.history):
            with pytest.raises(UsageError, match=r"the model is not trained; .*call train\(\) first"):
                ask()
        with pytest.raises(UsageError, match="not trained"):
            made.save(tmp_path)

    def test_of_a_view_a_copy_is_taken(self, cells):
        whole = cells.copy()
        made = scale.SCALE(whole[:60], **QUICK)
        made.train()
        assert made.get_latent_representation().shape == (60, 4)
        assert not len(whole.obsm)

    def test_repr_says_how_it_was_trained(self, model):
        epochs = len(model.adata.uns["scale_history"]["loss"])
        assert repr(model) == (
            f"SCALE: 120 cells × 300 peaks, 3 components, latent 4, preset fast, trained for {epochs} epochs"
        )


class TestFiles:
    def test_saved_and_loaded_it_is_the_same(self, model, tmp_path):
        model.save(tmp_path / "deep" / "model", save_anndata=True)
        again = scale.SCALE.load(tmp_path / "deep" / "model")
        np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())
        assert (again.config.latent, again.config.n_components, again.config.seed) == (4, 3, 18)
        pd.testing.assert_frame_equal(again.history, model.history)  # these cells are the model's: taken as they are
        assert repr(again) == repr(model)
        again.train(max_epochs=1)
        assert len(again.history["loss"].dropna()) == 1

    def test_other_cells_are_encoded_into(self, model, cells, tmp_path):
        model.save(tmp_path)
        others = cells[:30].copy()
        again = scale.SCALE.load(tmp_path / "model.pt", others)
        assert again.adata is others
        np.testing.assert_allclose(others.obsm["X_scale"], model.get_latent_representation()[:30], atol=1e-6)
        assert again.history.empty
        assert repr(again).endswith("preset fast, trained")

    def test_another_models_results_are_not_taken_for_this_ones(self, model, cells, tmp_path):
        model.save(tmp_path)
        other = scale.train(cells.copy(), **QUICK | {"seed": 3})
        again = scale.SCALE.load(tmp_path, other)
        np.testing.assert_array_equal(again.get_latent_representation(), model.get_latent_representation())

    def test_nothing_is_replaced_unasked(self, model, tmp_path):
        model.save(tmp_path)
        before = (tmp_path / "model.pt").read_bytes()
        with pytest.raises(UsageError, match=r"model.pt exists; .*overwrite=True"):
            model.save(tmp_path)
        model.save(tmp_path, overwrite=True)
        assert (tmp_path / "model.pt").read_bytes() == before
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match="file is a file; expected a folder"):
            model.save(tmp_path / "file")

    def test_what_is_missing_is_said(self, model, cells, tmp_path):
        with pytest.raises(InputError, match="none does not exist"):
            scale.SCALE.load(tmp_path / "none", cells)
        model.save(tmp_path)
        with pytest.raises(InputError, match=r"comes without cells; expected adata, or adata.h5ad beside it"):
            scale.SCALE.load(tmp_path)
        (tmp_path / "model.pt").write_bytes(b"words")
        with pytest.raises(InputError, match="the model file is not a torch file"):
            scale.SCALE.load(tmp_path, cells)

    def test_the_folder_of_release_1_1_2_loads(self, cells, tmp_path):
        import torch

        rng = np.random.default_rng(0)
        shapes = {
            "pi": (2,), "mu_c": (3, 2), "var_c": (3, 2), "encoder.hidden.0.weight": (8, 300), "encoder.hidden.0.bias": (8,),
            "encoder.sample.mu.weight": (3, 8), "encoder.sample.mu.bias": (3,), "encoder.sample.log_var.weight": (3, 8),
            "encoder.sample.log_var.bias": (3,), "decoder.reconstruction.weight": (300, 3),
            "decoder.reconstruction.bias": (300,),
        }  # fmt: skip
        weights = {name: torch.from_numpy(rng.uniform(0.1, 0.9, shape).astype("f4")) for name, shape in shapes.items()}
        torch.save(weights, tmp_path / "model.pt")
        cells.write_h5ad(tmp_path / "adata.h5ad")
        model = scale.SCALE.load(tmp_path)
        w = {name: value.numpy() for name, value in weights.items()}
        hidden = np.maximum((cells.X.toarray() > 0) @ w["encoder.hidden.0.weight"].T + w["encoder.hidden.0.bias"], 0)
        expected = hidden @ w["encoder.sample.mu.weight"].T + w["encoder.sample.mu.bias"]
        np.testing.assert_allclose(model.get_latent_representation(), expected, rtol=1e-4)
        np.testing.assert_allclose(model.get_latent_representation(cells[:9]), expected[:9], rtol=1e-4)
        assert (model.config.preset, model.config.n_components, model.config.latent) == ("release", 2, 3)


class TestInPlace:
    def test_functions_change_the_cells_they_are_given(self, cells):
        adata = cells.copy()
        assert scale.pp.prepare(adata, min_peaks=5, min_cells=20) is None
        assert scale.pp.select_peaks(adata, n_peaks=50) is None
        assert scale.tl.train(adata, **QUICK) is None
        assert scale.tl.cluster(adata, n_clusters=3, n_threads=1) is None
        assert scale.tl.embed(adata, method="tsne", perplexity=5, n_threads=1) is None
        assert scale.tl.impute(adata, binary=True, n_threads=1) is None
        expected = scale.select_peaks(scale.prepare(cells, min_peaks=5, min_cells=20), n_peaks=50)
        expected = scale.cluster(scale.train(expected, **QUICK), n_clusters=3, n_threads=1)
        expected = scale.impute(scale.embed(expected, method="tsne", perplexity=5, n_threads=1), binary=True, n_threads=1)
        assert adata.shape == expected.shape == (expected.n_obs, 50)
        assert adata.uns[keys.RECEIPTS.name] == expected.uns[keys.RECEIPTS.name]
        np.testing.assert_array_equal(adata.obsm["X_tsne"], expected.obsm["X_tsne"])
        assert (adata.obsm["binary"] != expected.obsm["binary"]).nnz == 0
        pd.testing.assert_frame_equal(adata.obs, expected.obs)
        pd.testing.assert_frame_equal(adata.var, expected.var)
        assert not adata.is_view

    def test_with_copy_the_cells_stay_as_they_are(self, cells):
        before = cells.copy()
        prepared = scale.pp.prepare(cells, copy=True, min_peaks=5, min_cells=20)
        trained = scale.tl.train(prepared, copy=True, **QUICK)
        assert "X_scale" in trained.obsm
        assert not len(prepared.obsm)
        assert not len(cells.obsm)
        pd.testing.assert_frame_equal(cells.obs, before.obs)
        assert cells.shape == before.shape
        assert "n_peaks" in prepared.obs

    def test_a_view_becomes_cells_of_their_own(self, cells):
        whole = cells.copy()
        part = whole[:50]
        scale.tl.train(part, **QUICK)
        assert not part.is_view
        assert part.obsm["X_scale"].shape == (50, 4)
        assert not len(whole.obsm)

    def test_imputing_some_cells_keeps_those(self, by_stages):
        adata = by_stages.copy()
        scale.tl.impute(adata, cells=list(adata.obs_names[:7]), n_threads=1)
        assert adata.obsm["imputed"].shape == (7, 300)

    def test_encode(self, cells, by_stages):
        kept = []
        adata = cells.copy()
        scale.tl.train(adata, keep_model=kept.append, **QUICK)
        fresh = cells.copy()
        scale.tl.encode(fresh, model=kept[0], n_threads=1)
        np.testing.assert_array_equal(fresh.obsm["X_scale"], by_stages.obsm["X_scale"])

    def test_regions_are_left_out(self, cells):
        adata = cells.copy()
        scale.pp.prepare(
            adata, min_peaks=1, min_cells=1, blacklist=pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [10**9]})
        )
        assert not adata.var_names.str.startswith("chr1:").any()


def test_an_unknown_option_is_named(cells):
    with pytest.raises(OptionError, match="unknown option 'n_cluster'"):
        scale.tl.cluster(cells.copy(), n_cluster=3)


@pytest.mark.parametrize(
    "name", ["pp.prepare", "pp.select_peaks", "tl.train", "tl.encode", "tl.cluster", "tl.embed", "tl.impute"]
)
def test_signatures_show_every_option_and_input_of_the_stage(name):
    room, _, function = name.partition(".")
    own = inspect.signature(getattr(getattr(scale, room), function)).parameters
    stages = inspect.signature(getattr(scale, function)).parameters
    left_out = {"config", "progress", "checkpoints", "team"}
    assert set(stages) - left_out <= set(own)
    for option, parameter in stages.items():
        if option in own and option != "adata":
            assert own[option].default == parameter.default, option


def test_names():
    assert scale.pl is scale.plot
    stub = ast.parse(Path(scale.__file__).with_suffix(".pyi").read_text())
    typed = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    (declared,) = (ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign))
    assert set(dir(scale)) == set(scale.__all__) == typed | {"__version__"} == set(declared), "keep __init__.pyi in step"
    for name in scale.__all__:
        assert getattr(scale, name) is not None


def test_the_names_are_there_without_torch():
    code = (
        "import sys, scale_toolkit as scale; from scale_toolkit import SCALE, tl, pp\n"
        "loaded = {'torch', 'scanpy', 'anndata', 'numpy', 'pandas'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "scale.pl; assert not {'torch', 'scanpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cells_that_lack_peaks_are_told(model, cells):
    with pytest.warns(ScaleWarning, match="peaks are not here"):
        model.get_latent_representation(anndata.AnnData(cells.X[:, 50:], var=cells.var.iloc[50:]))
