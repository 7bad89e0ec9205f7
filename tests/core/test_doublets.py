"""Doublets and the linear map they are encoded with, against dense arithmetic and planted truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from scale_toolkit.core import doublets, projection
from scale_toolkit.core.weighting import fit_weighting


def planted(n_cells=400, n_peaks=600, n_groups=4, n_doublets=32, seed=0):
    """Cells of groups with peaks of their own; the last `n_doublets` are unions of two groups."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n_cells) % n_groups
    rate = np.full((n_groups, n_peaks), 0.05)
    for group in range(n_groups):
        rate[group, 40 * group : 40 * group + 40] = 0.5
    depth = rng.uniform(0.7, 1.4, n_cells)
    opened = rng.random((n_cells, n_peaks)) < rate[groups] * depth[:, None]
    is_doublet = np.arange(n_cells) >= n_cells - n_doublets
    partners = (groups[is_doublet] + rng.integers(1, n_groups, n_doublets)) % n_groups
    opened[is_doublet] |= rng.random((n_doublets, n_peaks)) < rate[partners]
    return sparse.csr_matrix(opened.astype(np.float32)), groups, is_doublet


def latent_of(opened, n_latent=4):
    """Directions of a truncated SVD of the weighted rows."""
    rows = fit_weighting(opened.shape[0], np.asarray(opened.sum(0)).ravel())(opened).toarray()
    left, values, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    coordinates = left[:, :n_latent] * values[:n_latent]
    return coordinates / np.sqrt((coordinates**2).mean(1, keepdims=True))


def test_the_map_is_the_ridge_regression_of_dense_algebra(monkeypatch):
    monkeypatch.setattr(projection, "TOLERANCE", 1e-10)
    opened, _, _ = planted(n_cells=60, n_peaks=90, n_doublets=4)
    latent = latent_of(opened, 3)
    fitted = projection.fit_latent_map(opened, latent, np.random.default_rng(0))
    rows = fitted.weighting(opened).toarray().astype(float)
    alpha = projection.RIDGE * (rows**2).sum(1).mean()
    expected = np.linalg.solve(rows.T @ rows + alpha * np.eye(90), rows.T @ latent)
    np.testing.assert_allclose(fitted.loadings, expected, rtol=1e-3, atol=1e-5)
    coordinates = rows @ expected
    unit = coordinates / np.linalg.norm(coordinates, axis=1, keepdims=True) * np.sqrt(3)
    np.testing.assert_allclose(fitted(opened), unit, atol=1e-3)


def test_a_cell_without_open_peaks_is_mapped_to_zero():
    opened, _, _ = planted(n_cells=60, n_peaks=90, n_doublets=4)
    fitted = projection.fit_latent_map(opened, latent_of(opened, 3), np.random.default_rng(0))
    assert not fitted(sparse.csr_matrix((1, 90), dtype=np.float32)).any()


def test_the_map_of_a_part_of_many_cells_is_nearly_that_of_all(monkeypatch):
    opened, _, _ = planted()
    latent = latent_of(opened)
    of_all_cells = projection.fit_latent_map(opened, latent, np.random.default_rng(0))(opened)
    monkeypatch.setattr(projection, "MOST_CELLS", 200)
    of_200_cells = projection.fit_latent_map(opened, latent, np.random.default_rng(0))(opened)
    assert np.median((of_all_cells * of_200_cells).mean(1)) > 0.85


def test_a_union_is_open_where_either_cell_is():
    opened, _, _ = planted(n_cells=20, n_peaks=30, n_doublets=2)
    first, second = np.array([0, 3, 5]), np.array([7, 3, 1])
    dense = opened.toarray() > 0
    result = doublets.union(opened, first, second)
    np.testing.assert_array_equal(result.toarray(), (dense[first] | dense[second]).astype(np.float32))


def test_pairs_are_of_unlike_cells():
    groups = np.arange(300) % 3
    latent = np.eye(3)[groups] + np.random.default_rng(0).normal(0, 0.05, (300, 3))
    first, second = doublets.unlike_pairs(latent, 500, np.random.default_rng(1))
    assert len(first) == len(second) == 500
    # a third of random pairs are of one group, half of the pairs are kept
    assert (groups[first] != groups[second]).all()


def test_neighbours_are_counted_as_numpy_counts_them():
    rng = np.random.default_rng(0)
    vectors, log_depth = rng.normal(size=(30, 2)), rng.normal(size=30)
    features = doublets.neighbour_features(vectors, log_depth, 10)
    depth = (log_depth - log_depth[:10].mean()) / log_depth[:10].std() * np.sqrt(2)
    for column, weight in enumerate(doublets.DEPTH_WEIGHTS):
        points = np.column_stack([vectors, weight * depth])
        distances = np.linalg.norm(points[:, None] - points[None], axis=2)
        np.fill_diagonal(distances, np.inf)
        nearest = np.argsort(distances, axis=1)[:, :10]
        n_simulated = (nearest >= 10).sum(1)
        np.testing.assert_allclose(features[:, column], np.log((n_simulated + 1) / (11 - n_simulated)))
    np.testing.assert_array_equal(features[:, -1], log_depth)


def test_the_cut_is_as_far_from_the_cells_as_from_the_simulated():
    rng = np.random.default_rng(0)
    observed = np.concatenate([rng.normal(0, 1, 9800), rng.normal(6, 1, 200)])
    simulated = rng.normal(9, 2, 20_000)
    threshold, rate, detectable = doublets.cut(observed, simulated)
    # 3 standard deviations from either middle
    assert threshold == pytest.approx(3, abs=0.15)
    assert detectable == (simulated > threshold).mean()
    assert rate == pytest.approx(0.02, abs=0.003)


def test_a_cut_of_constant_scores_is_between_them():
    assert doublets.cut(np.zeros(10), np.ones(20)) == (0.5, 0.0, 1.0)
    assert doublets.cut(np.zeros(10), np.zeros(20))[1:] == (0.0, 0.0)


@pytest.mark.parametrize("group", [20_000, 150])
def test_planted_doublets_score_highest(monkeypatch, group):
    monkeypatch.setattr(doublets, "GROUP", group)
    opened, _, is_doublet = planted()
    latent = latent_of(opened)
    rng = np.random.default_rng(0)
    scores = doublets.score_doublets(opened, latent, projection.fit_latent_map(opened, latent, rng), rng)
    assert roc_auc_score(is_doublet, scores.observed) > 0.95
    assert scores.rate == pytest.approx(0.08, abs=0.02 + 1e-9)
    assert scores.separation > 0.7
    assert 0 <= scores.observed.min() <= scores.observed.max() <= 1


def test_features_that_separate_nothing_give_little_separation():
    features = np.column_stack([np.random.default_rng(0).normal(size=(600, 2)), np.zeros(600)])
    assert doublets._scored(features[:200], features[200:]).separation < 0.3
