import dataclasses
import os
import subprocess
import sys

import anndata
import numpy as np
import pytest
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.config import PRESETS, TrainConfig
from scale_toolkit.errors import (
    DeviceError,
    InputError,
    MissingSlotError,
    OptionError,
    ScaleWarning,
    TrainingError,
)
from scale_toolkit.model.kinship import VIEWS
from scale_toolkit.stages.train import fast_lr

QUICK = {"max_iter": 8, "n_components": 3, "latent": 4, "n_threads": 1}


def quick(adata, **options):
    return scale.train(adata.copy(), **QUICK | options)


def test_every_slot_of_the_contract_is_written(planted):
    trained = quick(planted)
    assert keys.LATENT.get(trained).shape == (120, 4)
    assert keys.DECODER.get(trained).shape == (300, 4)
    assert keys.POSTERIOR.get(trained).shape == (120, 3)
    np.testing.assert_array_equal(keys.LATENT.get(trained), keys.LATENT_SCALE.get(trained))
    for slot in (keys.LATENT, keys.DECODER, keys.BIAS, keys.OFFSET, keys.POSTERIOR):
        values = np.asarray(slot.get(trained))
        assert values.dtype == slot.dtype
        assert np.isfinite(values).all()
    np.testing.assert_allclose(keys.POSTERIOR.get(trained).sum(1), 1, rtol=1e-5)
    component = keys.COMPONENT.get(trained).astype(int)
    np.testing.assert_array_equal(component, keys.POSTERIOR.get(trained).argmax(1))
    dense = planted.X.toarray() > 0
    np.testing.assert_array_equal(keys.CELL_OPEN_RATE.get(trained), dense.mean(1))
    np.testing.assert_array_equal(keys.PEAK_OPEN_RATE.get(trained), dense.mean(0))
    mixture = keys.MIXTURE.get(trained)
    assert {name: value.shape for name, value in mixture.items()} == {
        "weights": (3,),
        "means": (3, 4),
        "variances": (3, 4),
    }
    assert not keys.HIDDEN.found_in(trained)
    curves = keys.HISTORY.get(trained)
    assert len(curves["loss"]) == len(curves["divergence"]) == len(curves["held_out"]) - 1  # the start's value comes first
    np.testing.assert_array_equal(trained.X.toarray(), planted.X.toarray())


def test_result_survives_a_file(planted, tmp_path):
    trained = quick(planted)
    trained.write_h5ad(tmp_path / "trained.h5ad")
    again = anndata.read_h5ad(tmp_path / "trained.h5ad")
    np.testing.assert_array_equal(keys.LATENT.get(again), keys.LATENT.get(trained))
    np.testing.assert_array_equal(keys.HISTORY.get(again)["loss"], keys.HISTORY.get(trained)["loss"])
    assert scale.receipts(again)[-1]["stage"] == "train"


CHANGES = {
    "preset": "paper",
    "n_components": 4,
    "latent": 3,
    "encode_dim": (8,),
    "decode_dim": (6,),
    "lr": 0.01,
    "batch_size": 50,
    "max_iter": 4,
    "max_epochs": 1,
    "weight_decay": 0.5,
    "log_transform": True,
    "seed": 1,
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainConfig)])
def test_every_option_changes_the_result(planted, name):
    if name == "n_threads":
        from threadpoolctl import threadpool_info

        seen = []
        quick(planted, n_threads=1, max_iter=4)  # load the libraries
        scale.train(planted.copy(), max_iter=4, n_threads=1, progress=lambda *_: seen.append(threadpool_info()))
        assert {pool["num_threads"] for pools in seen for pool in pools} == {1}
        return
    if name == "device":
        with pytest.raises(DeviceError):
            quick(planted, device="xpu")
        return
    if name in ("batch_key", "covariates"):
        return  # tests/stages/test_batches.py: with cells that differ between batches
    if name in ("gpu_memory", "precision", "deterministic"):
        return  # tests/stages/test_gpu.py: no GPU is needed to see what they change
    if name == "patience":
        epochs = [scale.receipts(quick(planted, max_iter=400, patience=p))[-1]["notes"]["epochs"] for p in (1, 0)]
        assert epochs[0] < epochs[1]
        return
    if name == "all_peaks":
        planted.var["selected"] = np.arange(planted.n_vars) < 200
        with pytest.warns(ScaleWarning, match="modelling 200 of 300 peaks"):
            plain = quick(planted, max_iter=8)
        changed = quick(planted, max_iter=8, all_peaks=True)
        assert [keys.BIAS.get(a).notna().sum() for a in (plain, changed)] == [200, 300]
        assert "selected" not in changed.var and changed.var["selected_original"].sum() == 200
        return
    # without patience the last weights are kept, even if the start was as good
    plain, changed = (quick(planted, **({"max_iter": 8, "patience": 0} | options)) for options in ({}, {name: CHANGES[name]}))
    slots = (keys.LATENT, keys.POSTERIOR, keys.DECODER)
    results = [np.concatenate([slot.get(a).ravel() for slot in slots]) for a in (plain, changed)]
    assert results[0].shape != results[1].shape or not np.array_equal(*results)


@pytest.mark.parametrize("preset", ["fast", "paper", "release"])
def test_epochs_are_bounded_and_a_short_training_has_its_mixture(planted, preset):
    options = {"preset": preset, "encode_dim": (8,), "patience": 0, "n_components": 3, "n_threads": 1}
    trained = scale.train(planted.copy(), max_epochs=4, **options)
    assert scale.receipts(trained)[-1]["notes"]["epochs"] == len(keys.HISTORY.get(trained)["loss"]) == 4
    means = keys.MIXTURE.get(trained)["means"]
    assert np.abs(means[0] - means[1]).max() > 0.01  # a prior that no mixture was fitted to has them all at 0


def test_same_seed_gives_the_same_bytes(planted):
    first, second = (quick(planted, max_iter=40) for _ in range(2))
    for slot in (keys.LATENT, keys.DECODER, keys.BIAS, keys.OFFSET, keys.POSTERIOR):
        assert np.asarray(slot.get(first)).tobytes() == np.asarray(slot.get(second)).tobytes()
    assert first.uns[keys.RECEIPTS.name] == second.uns[keys.RECEIPTS.name]


def test_the_fast_learning_rate_falls_with_the_root_of_the_cells():
    assert [fast_lr(n) for n in (10, 1000)] == [0.003, 0.003]
    np.testing.assert_allclose(fast_lr(100_000), 0.0003)


def test_presets_fill_what_is_left_out_and_nothing_else():
    for preset, values in PRESETS.items():
        resolved = TrainConfig(preset=preset).resolved()
        assert {name: getattr(resolved, name) for name in values} == values
    assert TrainConfig(preset="paper", lr=0.5).resolved().lr == 0.5
    assert TrainConfig(preset="paper", weight_decay=0.0).resolved().weight_decay == 0
    assert TrainConfig(preset="paper").resolved().lr == 0.002
    assert TrainConfig(preset="release").resolved().lr == 0.0002


def test_selected_peaks_alone_are_modelled(planted):
    selected = np.arange(300) % 3 > 0
    marked = planted.copy()
    keys.SELECTED.set(marked, selected)
    with pytest.warns(ScaleWarning, match="modelling 200 of 300 peaks"):
        trained = quick(marked)
    subset = quick(planted[:, selected].copy())
    np.testing.assert_array_equal(keys.LATENT.get(trained), keys.LATENT.get(subset))
    np.testing.assert_array_equal(np.isnan(keys.BIAS.get(trained)), ~selected)
    np.testing.assert_array_equal(keys.DECODER.get(trained)[selected], keys.DECODER.get(subset))
    assert (keys.DECODER.get(trained)[~selected] == 0).all()
    np.testing.assert_array_equal(keys.CELL_OPEN_RATE.get(trained), keys.CELL_OPEN_RATE.get(subset))


def test_hidden_layers_decode_linearly(planted):
    trained = quick(planted, decode_dim=(6, 5))
    assert keys.HIDDEN.get(trained).shape == (120, 5)
    keys.WEIGHT_PEAKS.set(trained, np.ones((trained.n_vars, 5), np.int8))
    assert keys.DECODER.get(trained).shape == (300, 5)
    again = scale.train(trained, **QUICK)
    assert not keys.HIDDEN.found_in(again) and not keys.WEIGHT_PEAKS.found_in(again)  # of a former model


def test_counts_and_open_peaks_give_the_same_model(planted):
    """The model is of open peaks: how many reads one has changes nothing unless the encoder is asked to see it."""
    ones = planted.copy()
    ones.X = (ones.X > 0).astype(np.float32)
    np.testing.assert_array_equal(keys.LATENT.get(quick(planted)), keys.LATENT.get(quick(ones)))


@pytest.mark.parametrize("form", [sparse.csc_matrix, lambda x: x.toarray(), sparse.csr_array], ids=["csc", "dense", "array"])
def test_any_form_of_x_gives_the_same_model(planted, form):
    other = planted.copy()
    other.X = form(planted.X)
    np.testing.assert_array_equal(keys.LATENT.get(quick(other)), keys.LATENT.get(quick(planted)))


class TestEncode:
    @pytest.fixture
    def model(self, planted):
        kept = []
        trained = scale.train(planted.copy(), **QUICK, keep_model=kept.append)
        return trained, kept[0]

    def test_same_cells_get_the_same_latent_vectors(self, planted, model):
        trained, data = model
        encoded = scale.encode(planted.copy(), model=data)
        for slot in (keys.LATENT, keys.POSTERIOR, keys.OFFSET, keys.DECODER, keys.BIAS):
            np.testing.assert_array_equal(slot.get(encoded), slot.get(trained))
        assert not keys.HISTORY.found_in(encoded)

    def test_peaks_are_matched_by_name(self, planted, model):
        trained, data = model
        order = np.random.default_rng(0).permutation(300)
        encoded = scale.encode(planted[:, order].copy(), model=data)
        np.testing.assert_allclose(keys.LATENT.get(encoded), keys.LATENT.get(trained), atol=1e-6)
        np.testing.assert_array_equal(keys.DECODER.get(encoded), keys.DECODER.get(trained)[order])

    def test_absent_peaks_are_told_and_new_ones_not_modelled(self, planted, model):
        trained, data = model
        other = planted[:, 10:].copy()
        other.var_names = [*other.var_names[:-1], "chr9:1-2"]
        with pytest.warns(ScaleWarning, match="11 of the model's 300 peaks are not here"):
            encoded = scale.encode(other, model=data)
        assert np.isnan(keys.BIAS.get(encoded)).sum() == 1
        assert np.isnan(keys.BIAS.get(encoded).iloc[-1])
        correlation = np.corrcoef(keys.LATENT.get(encoded).ravel(), keys.LATENT.get(trained).ravel())[0, 1]
        assert correlation > 0.9

    def test_nothing_in_common_is_an_error(self, planted, model):
        other = planted.copy()
        other.var_names = [f"x{j}" for j in range(300)]
        with pytest.raises(InputError, match="none of the model's 300 peaks is here"):
            scale.encode(other, model=model[1])

    def test_foreign_bytes_are_an_error(self, planted):
        with pytest.raises(InputError, match="not a torch file"):
            scale.encode(planted, model=b"not a model")


def test_bad_input_says_what_and_what_to_do(planted):
    bad = planted.copy()
    bad.X = bad.X * 0.5
    with pytest.raises(InputError, match="fractional"):
        quick(bad)
    with pytest.raises(InputError, match="1 cells × 300 peaks"):
        quick(planted[:1])
    empty = planted.copy()
    keys.SELECTED.set(empty, np.zeros(300, bool))
    with pytest.raises(InputError, match="marks none of 300 peaks"):
        quick(empty)
    with pytest.raises(OptionError, match="n_component"):
        quick(planted, n_component=3)
    with pytest.raises(MissingSlotError, match="run `scale train`"):
        keys.LATENT.get(planted)


def test_device_that_is_not_there_names_the_way_out(planted):
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="--device auto"):
            quick(planted, device="cuda")
    with pytest.raises(DeviceError, match="'gpu'"):
        quick(planted, device="gpu")


def test_training_that_breaks_keeps_the_last_good_weights_and_says_so(planted):
    with pytest.warns(ScaleWarning, match=r"not a number in epoch \d+, in .*; the last good weights are kept"):
        trained = quick(planted, preset="paper", lr=10, max_iter=4000)
    assert np.isfinite(keys.LATENT.get(trained)).all()
    assert "not a number" in scale.receipts(trained)[-1]["notes"]["stopped"]


def test_training_that_breaks_at_once_is_an_error_that_says_what_to_do(planted, monkeypatch):
    from scale_toolkit.model import recipes, trainer

    def broken(*_, **__):
        raise trainer.Diverged(1, "decoder.weight", trainer.History())

    monkeypatch.setattr(recipes, "fit", broken)
    with pytest.raises(TrainingError, match=r"epoch 1, in decoder.weight; lower the learning rate: `lr=0.0003`"):
        quick(planted)


@pytest.mark.gpu
def test_gpu_gives_what_the_cpu_gives(planted):
    """From the same start, after the same steps, before the mixture joins (its EM is another on a GPU).

    `benchmarks/gpu.py` compares whole trainings.
    """
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here: unproved")
    options = {"patience": 0, "max_iter": 4}
    on_cpu, on_gpu = (keys.LATENT.get(quick(planted, device=device, **options)) for device in ("cpu", "cuda"))
    assert np.linalg.norm(on_gpu - on_cpu) < 1e-3 * np.linalg.norm(on_cpu)


@pytest.mark.parametrize(("name", "floor"), [("leukemia", 0.6), ("tiny_two_lines", 0.75)])
def test_real_cells_fall_into_their_types(real, name, floor):
    cells = scale.prepare(real(name), min_peaks=50)
    truth = cells.obs["cell_type"].astype(str)
    scale.train(cells, n_threads=1)
    labels = KMeans(truth.nunique(), n_init=10, random_state=0).fit_predict(keys.LATENT.get(cells))
    assert adjusted_rand_score(truth, labels) > floor


def test_threads_are_limited_in_the_first_call_of_a_process():
    """Torch is loaded by the stage itself, whose limit must still hold for it."""
    code = (
        "import sys, numpy as np, anndata, scale_toolkit as scale\n"
        "from scipy import sparse\n"
        "assert 'torch' not in sys.modules\n"
        "seen = []\n"
        "def look(*what):\n    import torch\n    seen.append(torch.get_num_threads())\n"
        "counts = sparse.random(60, 50, 0.3, 'csr', np.float32, random_state=0)\n"
        "counts.data[:] = 1\n"
        "scale.train(anndata.AnnData(counts), n_components=2, max_iter=2, n_threads=1, progress=look)\n"
        "print(seen[0])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stdout.strip() == "1", done.stderr


def test_progress_names_what_precedes_and_follows_the_epochs(planted):
    seen = []
    scale.train(planted.copy(), max_iter=4, n_threads=1, progress=lambda *step: seen.append(step))
    phases = [step for step in seen if not step[0].startswith("loss")]
    views = [(f"start by {view.name}", done, len(VIEWS)) for done, view in enumerate(VIEWS)]
    assert phases[: len(views) + 1] == [*views, ("projection of the encoder", 0, 0)]
    assert ("calibration", 0, 0) in phases
    assert seen.index(("projection of the encoder", 0, 0)) < seen.index(("calibration", 0, 0)) - 1


def test_progress_counts_epochs_that_are_shorter_than_a_pass(planted, monkeypatch):
    monkeypatch.setattr("scale_toolkit.model.recipes.STEPS_PER_EPOCH", 2)
    seen = []
    scale.train(planted.copy(), batch_size=16, max_iter=20, patience=0, n_threads=1, progress=lambda *step: seen.append(step))
    done, total = zip(*(counts for message, *counts in seen if message.startswith("loss")), strict=True)
    assert done == tuple(range(1, total[0] + 1))
    assert planted.n_obs // 16 > 2  # an epoch is a part of a pass
