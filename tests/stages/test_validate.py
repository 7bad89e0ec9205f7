from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import scale_toolkit as scale
from scale_toolkit import keys, plot
from scale_toolkit.errors import InputError, MissingSlotError, NothingLeftError
from scale_toolkit.stages.receipts import receipts

QUICK = {"n_components": 3, "latent": 4, "max_iter": 150, "n_threads": 1}


@pytest.fixture(scope="module")
def trained(plant):
    """300 planted cells × 400 peaks, trained, and the bytes of the model."""
    model = []
    adata = scale.train(plant(300, 400, open_share=0.15), seed=1, keep_model=model.append, **QUICK)
    return adata, model[0]


def validated(trained, *, with_model=False, **options):
    adata, model = trained
    return scale.impute(adata.copy(), validate=True, n_threads=1, model=model if with_model else None, **options)


@pytest.fixture(scope="module")
def proved(trained):
    return validated(trained)


def test_report_and_slots(proved):
    report = json.loads(keys.VALIDATION.get(proved))
    assert report["way"] == "trained without them"
    assert report["share"] == pytest.approx(0.1, abs=0.01)
    for way in ("matched", "unmatched"):
        assert set(report[way]) == {"model", "frequency", "neighbours", "tfidf_svd"}
        assert all(0 < one["auprc"] < 1 and 0 < one["auroc"] < 1 for one in report[way].values())
    assert report["matched"]["frequency"]["auroc"] == pytest.approx(0.5, abs=0.03)
    assert report["matched"]["model"]["auroc"] > 0.6  # planted programs are found
    assert report["unmatched"]["frequency"]["auroc"] > 0.55
    assert len(report["calibration"]["ratio"]) == 10
    assert report["metacell"]["imputed"] > report["metacell"]["measured"]
    assert sum(one["cells"] for one in report["clusters"].values()) == proved.n_obs
    assert "imputed" not in proved.obsm and "binary" not in proved.obsm
    assert keys.TRUST.get(proved).sum() == report["peaks"]["trusted"]
    assert keys.CELL_RECOVERY.get(proved).between(0, 1).sum() > 200
    assert receipts(proved)[-1]["notes"]["trusted"] == report["peaks"]["trusted"]


def test_values_are_read_between_cells_in_four_ways(trained):
    adata = trained[0].copy()
    adata.obs["half"] = np.where(np.arange(300) % 2, "x", "y")  # says nothing
    by_type, by_chance = (
        json.loads(keys.VALIDATION.get(validated((adata, trained[1]), with_model=True, validate_by=column)))
        for column in ("cell_type", "half")
    )
    between = by_type["between_cells"]
    assert between["column"] == "cell_type" and between["markers"] == 20 and between["neighbours"] == 30
    assert set(between["auc"]) == {"raw", "neighbours", "own", "equal"}
    assert between["auc"]["equal"] > 0.99 > 0.9 > between["auc"]["raw"] > 0.55
    assert set(between["groups"]) == set(by_type["clusters"]) == set(adata.obs["cell_type"].unique())
    assert sum(group["cells"] for group in between["groups"].values()) == between["cells"] == 150
    for way, mean in between["auc"].items():
        assert mean == pytest.approx(np.mean([group[way] for group in between["groups"].values()]))
    assert by_chance["between_cells"]["auc"]["equal"] == pytest.approx(0.5, abs=0.06)


def test_cells_without_a_label_and_small_groups_are_left_out_between_cells(trained):
    adata = trained[0].copy()
    label = adata.obs["cell_type"].astype(object).to_numpy().copy()
    label[:4], label[4:20] = "rare", " "
    adata.obs["label"] = label
    report = json.loads(keys.VALIDATION.get(validated((adata, trained[1]), with_model=True, validate_by="label")))
    assert report["between_cells"]["groups"]["rare"] is None
    assert report["between_cells"]["cells"] == 140


def test_what_fails_early_fails_before_the_training(trained, monkeypatch):
    from scale_toolkit.stages import validate as module

    monkeypatch.setattr(module, "train_model", lambda *_: pytest.fail("trained"))
    for inputs, words in [
        ({"cells": "nonsense =="}, "cannot be answered"),
        ({"peaks": "chrX:1-2"}, "no peak is on chrX"),
        ({"per_group": "no"}, "obs has no column 'no'"),
        ({"validate_by": "no"}, r"obs has no column 'no' \(validate_by\)"),
    ]:
        adata = trained[0].copy()
        before = dict(adata.uns)
        with pytest.raises(InputError, match=words):
            scale.impute(adata, validate=True, **inputs)
        assert adata.uns.keys() == before.keys() and receipts(adata) == receipts(trained[0])


def test_a_verdict_of_the_chosen_cells_and_trusted_peaks_of_the_same_call(trained):
    options = {"with_model": True, "validate_share": 0.4}
    made = validated(trained, cells="cell_type == 'type1'", only_trusted=True, numeric=True, **options)
    whole = validated(trained, **options)
    chosen = (trained[0].obs["cell_type"] == "type1").to_numpy()
    assert made.n_obs == chosen.sum()
    np.testing.assert_array_equal(keys.CELL_RECOVERY.get(made), keys.CELL_RECOVERY.get(whole)[chosen])
    assert list(keys.IMPUTED_PEAKS.get(made)) == list(whole.var_names[keys.TRUST.get(whole)])


def test_the_peaks_that_are_trusted_are_those_planted(proved):
    """Of 400 peaks those of the three programs (every tenth, from 0, 1 and 2) differ between clusters; the others don't."""
    programs = np.isin(np.arange(400) % 10, [0, 1, 2])
    trust = keys.TRUST.get(proved).to_numpy()
    assert trust.sum() > 20
    assert programs[trust].mean() > 0.8  # 0.95 are asked for, of some 40; three tenths by chance
    rates = keys.FALSE_SIGN_RATE.get(proved).to_numpy()
    assert rates[trust].mean() <= 0.05 < rates[~trust].mean()


def test_nothing_depends_on_chance_but_the_seed(trained, proved):
    again, other = validated(trained), validated(trained, seed=5)
    assert keys.VALIDATION.get(again) == keys.VALIDATION.get(proved)
    assert keys.VALIDATION.get(other) != keys.VALIDATION.get(proved)


def test_the_model_and_the_counts_stay_as_they_were(trained, proved):
    before, _ = trained
    for slot in (keys.LATENT, keys.DECODER, keys.BIAS, keys.OFFSET):
        np.testing.assert_array_equal(slot.get(proved), slot.get(before))
    assert (proved.X != before.X).nnz == 0


def test_with_a_model_reads_are_thinned_and_it_is_said_to_be_optimistic(trained, proved):
    found = validated(trained, with_model=True, validate_share=0.4)
    report = json.loads(keys.VALIDATION.get(found))
    assert report["way"].startswith("optimistic")
    counts = trained[0].X.data
    assert report["share"] == pytest.approx((0.4**counts).mean(), abs=0.01)
    assert report["matched"]["model"]["auroc"] > json.loads(keys.VALIDATION.get(proved))["matched"]["model"]["auroc"]


def test_options(trained, proved):
    report = json.loads(keys.VALIDATION.get(proved))
    more = json.loads(keys.VALIDATION.get(validated(trained, validate_share=0.3)))
    assert more["share"] == pytest.approx(0.3, abs=0.02) and more["hidden"] > 2 * report["hidden"]
    strict, loose = (validated(trained, with_model=True, validate_share=0.4, trust_level=level) for level in (0.001, 0.4))
    assert keys.TRUST.get(strict).sum() < keys.TRUST.get(loose).sum()


def test_with_numeric_both_are_made(trained):
    both = validated(trained, with_model=True, numeric=True)
    assert both.obsm["imputed"].shape == both.shape


def test_only_trusted_writes_the_trusted_peaks(trained, proved):
    made = scale.impute(proved.copy(), only_trusted=True, numeric=True, binary=True)
    names = proved.var_names[keys.TRUST.get(proved)]
    assert list(keys.IMPUTED_PEAKS.get(made)) == list(names)
    whole = scale.impute(trained[0].copy()).obsm["imputed"]
    np.testing.assert_array_equal(made.obsm["imputed"], whole[:, keys.TRUST.get(proved)])
    with pytest.raises(InputError, match=r"of 400 peaks are trusted; expected all of them.*write to obsm"):
        scale.impute(proved.copy(), only_trusted=True, to="layers")
    with pytest.raises(MissingSlotError, match=r"run `scale impute --validate`"):
        scale.impute(trained[0].copy(), only_trusted=True)
    none = proved.copy()
    none.var["scale_trust"] = False
    with pytest.raises(NothingLeftError, match="none of 400 peaks is trusted"):
        scale.impute(none, only_trusted=True)


def test_training_again_forgets_the_verdict(proved):
    again = scale.train(proved.copy(), seed=2, **QUICK)
    assert not any(slot.found_in(again) for slot in keys.VERDICT)


def test_peaks_that_were_not_modelled_are_not_trusted(trained):
    adata = trained[0].copy()
    adata.var["scale_bias"] = adata.var["scale_bias"].where(np.arange(400) >= 7)
    found = scale.impute(adata, validate=True, n_threads=1)
    assert not keys.TRUST.get(found)[:7].any()
    assert keys.FALSE_SIGN_RATE.get(found)[:7].isna().all()


def test_bad_input(trained):
    adata, model = trained
    no_counts = adata.copy()
    no_counts.X = no_counts.X * 0.5
    with pytest.raises(InputError, match="negative, fractional"):
        scale.impute(no_counts, validate=True)
    no_receipt = adata.copy()
    del no_receipt.uns["scale"]
    with pytest.raises(InputError, match="a receipt of `scale train` is missing"):
        scale.impute(no_receipt, validate=True)
    encoded = scale.encode(adata.copy(), model=model)
    with pytest.raises(InputError, match=r"a model trained elsewhere.*--model"):
        scale.impute(encoded, validate=True)
    other = adata.copy()
    other.varm["scale_decoder"] = other.varm["scale_decoder"] + 1
    with pytest.raises(InputError, match="does not hold the decoder of this file"):
        scale.impute(other, validate=True, model=model)
    with pytest.raises(InputError, match="the model file is"):
        scale.impute(adata.copy(), validate=True, model=b"words")


def test_imputing_alone_still_needs_no_torch():
    code = "import sys, scale_toolkit.stages.impute; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_figures(proved, tmp_path):
    report = json.loads(keys.VALIDATION.get(proved))
    ax = plot.recovery(proved, save=tmp_path / "a.pdf")
    heights = [bar.get_height() for bar in ax.patches]
    assert heights == [report["matched"][name]["auprc"] for name in ("model", "frequency", "neighbours", "tfidf_svd")]
    groups = plot.recovery(proved, by_cluster=True)
    assert [label.get_text() for label in groups.get_xticklabels()] == list(report["clusters"])
    ax = plot.reliability(proved, save=tmp_path / "b.pdf")
    line = next(line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(line.get_xydata(), np.c_[report["calibration"]["predicted"], report["calibration"]["observed"]])
    assert (tmp_path / "a.pdf").exists() and (tmp_path / "b.pdf").exists()
    with pytest.raises(MissingSlotError, match="impute --validate"):
        bare = proved.copy()
        del bare.uns["scale_validation"]
        plot.recovery(bare)
