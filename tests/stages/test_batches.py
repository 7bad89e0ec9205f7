"""`batch_key`: batches leave the latent space, biology stays, and columns that cannot be used are refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.config import TrainConfig
from scale_toolkit.errors import InputError, OptionError, ScaleWarning
from scale_toolkit.stages.batches import read_batches

QUICK = {"max_epochs": 2, "n_threads": 1, "n_components": 4}


@pytest.fixture(scope="module")
def cells():
    return scale.simulate(n_cells=700, n_peaks=4000, n_clusters=4, open_peaks=600, n_batches=3)


@pytest.fixture(scope="module")
def trained(cells):
    models = []
    return scale.train(cells.copy(), batch_key="batch", keep_model=models.append, **QUICK), models[0]


def ari(adata):
    labels = KMeans(4, n_init=10, random_state=0).fit_predict(adata.obsm["X_scale"])
    return adjusted_rand_score(adata.obs["cell_type"], labels)


def test_batches_leave_the_latent_space_and_types_stay(cells, trained):
    assert ari(scale.train(cells.copy(), **QUICK)) < 0.5
    assert ari(trained[0]) > 0.9


def test_a_type_of_one_batch_stays_apart(cells):
    is_elsewhere = (cells.obs["cell_type"] == "type4") & (cells.obs["batch"] != "batch1")
    assert ari(scale.train(cells[~is_elsewhere].copy(), batch_key="batch", **QUICK)) > 0.85


def test_without_an_effect_nothing_changes(cells):
    same = scale.simulate(n_cells=300, n_peaks=2000, n_clusters=4, open_peaks=300)
    same.obs["batch"] = pd.Categorical(np.random.default_rng(0).choice(["a", "b"], 300))
    plain, keyed = scale.train(same.copy(), **QUICK), scale.train(same.copy(), batch_key="batch", **QUICK)
    np.testing.assert_array_equal(plain.obsm["X_scale"], keyed.obsm["X_scale"])
    assert not keys.BATCH_OFFSET.found_in(keyed)


def test_the_shifts_explain_the_batches_peaks(cells, trained):
    shifts = keys.BATCH_OFFSET.get(trained[0])
    assert list(shifts.columns) == ["batch1", "batch2", "batch3"]
    opened, batch = (cells.X > 0).astype(float), cells.obs["batch"].to_numpy()
    is_frequent = np.asarray(opened.mean(0)).ravel() > 0.05
    rates = np.log(np.stack([np.asarray(opened[batch == name].mean(0)).ravel() for name in shifts.columns]) + 1e-3)
    rates -= rates.mean(0)
    for rate, name in zip(rates, shifts.columns, strict=True):
        assert np.corrcoef(rate[is_frequent], shifts[name][is_frequent])[0, 1] > 0.7


def test_imputed_values_are_those_of_the_average_batch(trained):
    adata = trained[0].copy()
    scale.impute(adata)
    imputed, batch = adata.obsm["imputed"], adata.obs["batch"].to_numpy()
    raw = (adata.X > 0).toarray()
    types = adata.obs["cell_type"].to_numpy()
    spreads = []
    for values in (raw, imputed):
        means = [
            np.stack([values[(types == kind) & (batch == name)].mean(0) for name in ("batch1", "batch2", "batch3")])
            for kind in ("type1", "type2")
        ]
        spreads.append(np.mean([(np.log(mean + 0.01)).std(0).mean() for mean in means]))
    assert spreads[1] < 0.35 * spreads[0]


def test_other_cells_are_encoded_in_their_batch(cells, trained):
    adata, model = trained
    again = scale.encode(cells.copy(), model=model)
    np.testing.assert_allclose(again.obsm["X_scale"], adata.obsm["X_scale"], atol=1e-5)
    renamed = cells.copy()
    renamed.obs = renamed.obs.rename(columns={"batch": "sample"})
    again = scale.encode(renamed.copy(), model=model, batch_key="sample")
    np.testing.assert_allclose(again.obsm["X_scale"], adata.obsm["X_scale"], atol=1e-5)
    with pytest.warns(ScaleWarning, match="obs has no column 'batch', which the model was trained with"):
        average = scale.encode(renamed.copy(), model=model)
    assert np.abs(average.obsm["X_scale"] - adata.obsm["X_scale"]).max() > 0.1
    with pytest.raises(InputError, match="obs has no column 'lane'"):
        scale.encode(renamed.copy(), model=model, batch_key="lane")
    with pytest.raises(InputError, match="2 columns of batches and covariates are given"):
        scale.encode(cells.copy(), model=model, batch_key="batch", covariates=("cell_type",))


def test_a_batch_that_the_model_has_not_seen_is_encoded_as_the_average(cells, trained):
    some = cells[:40].copy()
    some.obs["batch"] = ["new"] * 20 + list(some.obs["batch"].astype(str)[20:])
    with pytest.warns(ScaleWarning, match=r"20 of 40 cells are of batches that the model has not seen \(new\)"):
        encoded = scale.encode(some, model=trained[1])
    np.testing.assert_allclose(encoded.obsm["X_scale"][20:], trained[0].obsm["X_scale"][20:40], atol=1e-5)


def test_a_model_without_batches_says_that_the_key_has_no_effect(cells):
    models = []
    scale.train(cells.copy(), keep_model=models.append, **QUICK)
    with pytest.warns(ScaleWarning, match="the model knows no batches"):
        scale.encode(cells.copy(), model=models[0], batch_key="batch")


def test_a_covariate_is_taken_out_too(cells):
    adata = cells.copy()
    adata.obs["lane"] = np.random.default_rng(0).choice(["x", "y"], adata.n_obs)
    batches = read_batches(adata, TrainConfig(batch_key="batch", covariates="lane"))
    assert len(batches.names) == 6
    assert batches.titles[0] == "batch1 | x"
    assert [batches.names[code] for code in batches.codes[:50]] == list(
        zip(adata.obs["batch"][:50], adata.obs["lane"][:50], strict=True)
    )


@pytest.mark.parametrize(
    ("options", "column", "message"),
    [
        ({"batch_key": "nope"}, None, r"obs has no column 'nope' \(batch_key\); expected one of "),
        ({"batch_key": "x"}, "a", r"obs\['x'\] holds one batch \('a'\) \(batch_key\); expected two or more; drop"),
        ({"batch_key": "x"}, "missing", r"200 of 700 cells have no value in obs\['x'\] \(batch_key\); expected a batch"),
        ({"batch_key": "x"}, "barcodes", r"obs\['x'\] has 700 batches for 700 cells \(batch_key\); expected several"),
        ({"batch_key": "x"}, "numbers", r"obs\['x'\] has 700 distinct values \(batch_key\)"),
        ({"batch_key": "batch", "covariates": "x"}, "same", r"obs\['x'\] is confounded with obs\['batch'\]"),
        ({"batch_key": "batch", "covariates": "x"}, "nested", r"obs\['x'\] is confounded with obs\['batch'\]"),
        ({"batch_key": "batch", "covariates": "batch"}, None, r"'batch' is given twice as a batch or a covariate"),
        ({"batch_key": "batch", "covariates": "x"}, "a", r"obs\['x'\] holds one value \('a'\) \(covariates\)"),
    ],
)
def test_columns_that_cannot_be_used(cells, options, column, message):
    adata = cells.copy()
    batch = adata.obs["batch"].astype(str)
    values = {
        "a": "a",
        "missing": batch.where(np.arange(700) >= 200, " "),
        "barcodes": adata.obs_names,
        "numbers": np.linspace(0, 1, 700),
        "same": batch.str.upper(),
        "nested": np.where(batch == "batch1", "deep", "shallow"),
    }
    if column is not None:
        adata.obs["x"] = values[column]
    before = adata.obs.copy()
    with pytest.raises(InputError, match=message):
        scale.train(adata, **options)
    pd.testing.assert_frame_equal(adata.obs, before)


def test_a_batch_of_three_cells_is_warned_about_and_used(cells):
    adata = cells.copy()
    adata.obs["batch"] = ["rare"] * 3 + list(adata.obs["batch"].astype(str)[3:])
    with pytest.warns(ScaleWarning, match=r"1 of 4 batches have fewer than 10 cells \(rare\)"):
        scale.train(adata, batch_key="batch", **QUICK)
    assert ari(adata) > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariates": "lane"}, "covariates is lane and batch_key is left out; expected both"),
        ({"batch_key": "batch", "preset": "paper"}, "batch_key is batch and preset is paper"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(OptionError, match=message):
        TrainConfig(**options)


def test_a_file_is_replayed_and_validated_with_its_batches(cells, trained):
    assert scale.verify(trained[0].copy(), cells.copy()).reproduced
    adata = trained[0].copy()
    scale.impute(adata, validate=True, validate_by="cell_type")
    assert keys.VALIDATION.found_in(adata)


def test_the_report_shows_that_batches_mix_and_structure_stays(trained):
    report = keys.BATCHES.get(trained[0])
    assert list(report["names"]) == ["batch1", "batch2", "batch3"]
    assert report["n_cells"].sum() == 700
    assert report["auroc_before"] > 0.95 > 0.65 > report["auroc_after"]
    assert (report["mixing_before"] < 0.2).all()
    assert (report["mixing_after"] > 0.8).all()
    assert (report["purity_after"] > report["purity_before"] - 0.05).all()
    assert (report["shared_peaks"] > 0.99).all()
    from scale_toolkit.stages.receipts import receipts

    notes = receipts(trained[0])[-1]["notes"]["batches"]
    assert notes["auroc_after"] == round(report["auroc_after"], 4)


def test_batches_without_a_common_type_are_warned_about():
    cells = scale.simulate(n_cells=900, n_peaks=4000, n_clusters=6, open_peaks=400, n_batches=3)
    # types 1 and 2 in the first batch, 3 and 4 in the second, 5 and 6 in the third
    type_number, batch_number = (cells.obs[name].str[-1].astype(int).to_numpy() for name in ("cell_type", "batch"))
    nested = cells[(type_number + 1) // 2 == batch_number].copy()
    with pytest.warns(ScaleWarning, match="taking out the batches has blurred clusters within them"):
        scale.train(nested, batch_key="batch", **QUICK)
