"""Every sentence: its figure against NumPy, SciPy, pandas and scikit-learn, and the case where there is nothing to say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples

from scale_toolkit.report import findings


def categories(values):
    return pd.Series(pd.Categorical(np.asarray(values).astype(str)))


@given(seed=st.integers(0, 10**6), n=st.integers(3, 60))
def test_depth_correlations_are_pearsons(seed, n):
    rng = np.random.default_rng(seed)
    latent, depth = rng.normal(size=(n, 4)), rng.integers(1, 5000, n)
    depth[0] += 1 + depth.max()
    latent[:, 3] = 7
    found = findings.depth_correlations(latent, depth)
    expected = [scipy.stats.pearsonr(latent[:, j], np.log10(depth)).statistic for j in range(3)]
    np.testing.assert_allclose(found[:3], expected, rtol=1e-9, atol=1e-12)
    assert np.isnan(found[3])


def test_a_dimension_that_follows_depth_is_named():
    rng = np.random.default_rng(0)
    depth = rng.integers(100, 5000, 300)
    latent = rng.normal(size=(300, 4))
    latent[:, 2] = -np.log10(depth) + 0.2 * rng.normal(size=300)
    (one,) = findings.of_depth(latent, depth)
    r = np.corrcoef(latent[:, 2], np.log10(depth))[0, 1]
    assert one.level == "warning"
    assert one.text == f"latent dimension 3 follows depth, r = {r:.2f} with log10 of a cell's open peaks"
    assert findings.of_depth(rng.normal(size=(300, 4)), depth) == []
    assert findings.of_depth(latent, np.full(300, 7)) == []


def test_small_clusters():
    labels = categories([0] * 50 + [1] * 9 + [2] * 10)
    (one,) = findings.of_sizes(labels)
    assert one.text == "1 cluster has fewer than 10 cells: 1 (9)"
    many = findings.of_sizes(categories(np.arange(40) // 2))[0]
    assert many.text.startswith("20 clusters have fewer than 10 cells: ")
    assert many.text.endswith(" and 12 more")
    assert findings.of_sizes(categories([0] * 10 + [1] * 10)) == []


def test_silhouettes_are_scikit_learns():
    rng = np.random.default_rng(1)
    latent, labels = rng.normal(size=(90, 3)) + np.repeat(np.eye(3), 30, 0) * 4, np.repeat([0, 1, 2], 30)
    width, cells = findings.silhouettes(latent, labels)
    np.testing.assert_allclose(width, silhouette_samples(latent, labels))
    np.testing.assert_array_equal(cells, np.arange(90))
    assert len(findings.silhouettes(latent, np.zeros(90))[0]) == 0
    width, cells = findings.silhouettes(rng.normal(size=(9000, 2)), rng.integers(0, 3, 9000))
    assert len(width) == len(np.unique(cells)) == findings.MOST_CELLS


def test_clusters_that_are_not_set_apart():
    rng = np.random.default_rng(2)
    latent = rng.normal(size=(120, 2)) + np.repeat([[0, 0], [0, 0], [30, 0]], 40, 0)
    groups = np.repeat(["a", "b", "c"], 40)
    width, _ = findings.silhouettes(latent, groups)
    (one,) = findings.of_separation(width, groups)
    means = pd.Series(silhouette_samples(latent, groups)).groupby(groups).mean()
    below = [f"{name} ({means[name]:.2f})" for name in "ab" if means[name] < 0]
    assert means["c"] > 0.9
    assert (
        one.text == f"{len(below)} of 3 clusters are not set apart from the next (mean silhouette below 0): {', '.join(below)}"
    )
    assert findings.of_separation(np.ones(4), np.array(list("aabb"))) == []


def test_clusters_that_do_not_come_back():
    mean = pd.Series({"0": 0.9, "1": 0.59, "2": 0.6, "3": 0.2, "4": np.nan})
    (one,) = findings.of_stability(mean)
    assert one.text == "2 of 5 clusters do not come back when a fifth of the cells is left out: 3 (0.20), 1 (0.59)"
    assert one.level == "warning"
    assert findings.of_stability(mean[:1]) == []


def test_batches_apart_and_clusters_of_one_batch():
    rng = np.random.default_rng(3)
    batch = categories(np.repeat(["x", "y"], 60))
    mixed = rng.normal(size=(120, 3))
    assert findings.of_batches(mixed, batch) == []
    apart = mixed + np.repeat([[0, 0, 0], [6, 0, 0]], 60, 0)
    clusters = categories(np.r_[np.repeat(0, 40), np.tile([1, 2], 10), np.tile([1, 2], 30)])
    first, second = findings.of_batches(apart, batch, clusters)
    width = silhouette_samples(apart, batch).mean()
    assert first.text == f"cells lie apart by batch: mean silhouette of the batches {width:.2f} (0: mixed, 1: apart)"
    assert second.text == "cluster 0 is 100% batch x (50% of all cells)"
    many = categories(np.arange(120) // 15)
    assert findings.of_batches(mixed, batch, many)[0].text.startswith(
        "8 clusters are of one batch almost alone: 0 (100% x), 1 ("
    )


def test_batches_that_were_taken_out():
    report = {
        "names": np.array(["x", "y"], object),
        "n_cells": np.array([100, 300]),
        "spread": np.array([0.1, 0.2]),
        "mixing_before": np.array([0.0, 0.2]),
        "mixing_after": np.array([1.0, 0.8]),
        "purity_before": np.array([np.nan, 0.95]),
        "purity_after": np.array([np.nan, 0.7]),
        "auroc_before": 1.0,
        "auroc_after": 0.55,
    }
    note, warning = findings.of_batches_taken_out(report)
    assert (note.level, warning.level) == ("note", "warning")
    assert "mixing of neighbours 0.15, now 0.85" in note.text
    assert "AUROC of 1.00, now 0.55" in note.text
    assert warning.text == "clusters within batch y were blurred: neighbours of the same cluster 95%, now 70%"
    assert len(findings.of_batches_taken_out(report | {"purity_after": report["purity_before"]})) == 1
    (nothing,) = findings.of_batches_taken_out(report | {"spread": np.zeros(2)})
    assert "nothing was taken out" in nothing.text


def test_a_batch_with_missing_names():
    rng = np.random.default_rng(3)
    batch = pd.Series(pd.Categorical(["x"] * 30 + ["y"] * 30 + [None] * 10))
    assert findings.of_batches(rng.normal(size=(70, 2)), batch, categories(np.arange(70) % 2)) == []


@pytest.mark.parametrize(
    ("depth", "words"),
    [
        (100, "shallower than the rest: 100 open peaks a cell (median), the others 400"),
        (900, "deeper than the rest: 900"),
        (500, None),
    ],
)
def test_clusters_of_another_depth(depth, words):
    found = findings.of_cluster_depth(categories([0] * 30 + [1] * 20), np.r_[np.full(30, 400), np.full(20, depth)])
    assert [one.text for one in found if "cluster 1" in one.text][:1] == ([] if words is None else [found[-1].text])
    if words:
        assert words in found[-1].text


def test_the_mixture():
    posterior = np.full((10, 5), 0.05)
    posterior[:, 0] = 0.8
    (one,) = findings.of_posterior(posterior)
    assert one.text == "1 of the mixture's 5 components hold a cell"
    posterior[:3] = 0.2
    assert (
        findings.of_posterior(posterior)[0].text == "the mixture is undecided about 30% of the cells (no component above 50%)"
    )
    assert findings.of_posterior(np.eye(4)) == []


PATIENT = {"patience": 5}


@pytest.mark.parametrize(
    ("held_out", "notes", "options", "words"),
    [
        ([-9, -8, *[-7.4] * 6], {"epochs": 7, "best_epoch": 2}, PATIENT, ["training ended after 7 epochs"]),
        (np.linspace(-9, -7, 20), {"epochs": 19, "best_epoch": 19}, PATIENT, ["was still rising at the end (epoch 19)"]),
        ([-7, -8, -8, -8, -8, -8, -8], {"epochs": 6, "best_epoch": 0}, PATIENT, ["never rose above its start"]),
        (np.linspace(-9, -7, 20), {"epochs": 19, "best_epoch": 19}, {"patience": 0}, []),
        ([], {"epochs": 19, "stopped": "the loss was not a number"}, PATIENT, ["training was cut short: the loss"]),
        ([], {}, {}, []),
    ],
)  # fmt: skip
def test_training(held_out, notes, options, words):
    found = findings.of_training({"held_out": np.asarray(held_out)}, notes, options)
    assert len(found) == len(words)
    for one, part in zip(found, words):
        assert part in one.text


def test_preparation_and_encoding():
    (one,) = findings.of_preparation({"cells_before": 1000, "cells": 600, "peaks_before": 100, "peaks": 90})
    assert one.text == "40% of the cells were left out (400 of 1,000)"
    assert "--min-peaks" in one.do
    assert findings.of_preparation({}) == []
    assert findings.of_encoding({"pretrained": True, "peaks_missing": 1200})[0].text.startswith("1,200 of the pretrained")
    assert findings.of_encoding({"pretrained": True, "peaks_missing": 0}) == findings.of_encoding({}) == []


def test_validation():
    report = {
        "way": "trained without them",
        "matched": {"model": {"auprc": 0.4}, "frequency": {"auprc": 0.3}, "neighbours": {"auprc": None}},
        "calibration": {"ratio": [0.9, 1.1]},
    }
    assert findings.of_validation(report) == []
    report["matched"]["frequency"]["auprc"] = 0.5
    report["calibration"]["ratio"] = [0.9, 1.4]
    report["way"] = "optimistic: the decoder has seen them"
    texts = [one.text for one in findings.of_validation(report)]
    assert texts[0] == "hidden peaks are found better by frequency than by the model (AUPRC 0.400)"
    assert texts[1] == "imputed probabilities differ by up to 40% (seen over predicted 0.90 to 1.40)"
    assert texts[2].endswith("its figures are optimistic")


def test_warnings_come_first():
    found = [findings.Finding("note", "a"), findings.Finding("warning", "b"), findings.Finding("note", "c")]
    assert [one.text for one in findings.in_order(found)] == ["b", "a", "c"]
