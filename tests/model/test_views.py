"""The start of the latent space, held to dense NumPy: eigenvectors, null, shrinkage, and the encoder's linear map."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.linear_model import Ridge
from sklearn.metrics import adjusted_rand_score

from scale_toolkit.core.rows import MatrixRows, binarise
from scale_toolkit.model import views
from scale_toolkit.model.products import ProductsOnHost
from scale_toolkit.model.views import (
    VIEWS,
    Kinship,
    Shuffled,
    WeightedRows,
    find_start,
    leading_eigenvectors,
    linear_map,
    null_edge,
)


def sums_of(counts):
    return np.asarray((counts > 0).sum(0)).ravel()


def dense_kinship(view, counts):
    """The matrix of a view as its definition says it, dense and in float64."""
    weights = view.weighting(sums_of(counts), counts.shape[0])(counts).toarray().astype(float)
    if view.cosine:
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    gram = weights @ weights.T
    np.fill_diagonal(gram, 0)
    return gram / np.sqrt(np.outer(gram.sum(1), gram.sum(1))) if view.cosine else gram


def kinship(view, counts, n_threads=1):
    weigh = view.weighting(sums_of(counts), counts.shape[0])
    return Kinship(WeightedRows(MatrixRows(counts), weigh, n_threads), cosine=view.cosine)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_eigenvectors_are_numpys(plant, view):
    counts = plant(90, 200, 4).X
    block = np.random.default_rng(0).standard_normal((90, 20)).astype(np.float32)
    values, vectors = leading_eigenvectors(kinship(view, counts), block, 6, 7)
    expected, expected_vectors = np.linalg.eigh(dense_kinship(view, counts))
    np.testing.assert_allclose(values, expected[::-1][:6], rtol=1e-4)
    overlap = np.abs((vectors * expected_vectors[:, ::-1][:, :6]).sum(0))
    assert overlap[:4].min() > 0.999  # the first and what is planted


def test_more_threads_and_smaller_blocks_give_the_same_products(plant, monkeypatch):
    counts = plant(90, 200, 4).X
    dense = np.random.default_rng(0).standard_normal((90, 5)).astype(np.float32)
    expected = kinship(VIEWS[0], counts).times(dense)
    monkeypatch.setattr(views, "_BLOCK_PEAKS", 500)
    np.testing.assert_allclose(kinship(VIEWS[0], counts, 3).times(dense), expected, rtol=1e-4, atol=1e-6)


def test_shuffling_keeps_the_sums_of_cells_and_peaks():
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix((rng.random((300, 2000)) < 0.02).astype(np.float32))
    shuffled = Shuffled(MatrixRows(counts), np.arange(300), rng)
    rows = shuffled.rows(np.arange(300))
    np.testing.assert_allclose(rows.sum(1), counts.sum(1), rtol=0.1)
    np.testing.assert_allclose(shuffled.peak_sums.sum(), counts.sum(), rtol=0.02)
    assert set(rows.data) == {1}
    assert counts.has_canonical_format


def test_null_edge_is_what_independent_peaks_give():
    rng = np.random.default_rng(1)
    counts = sparse.csr_matrix((rng.random((400, 1500)) < 0.05).astype(np.float32))
    for view in VIEWS:
        edge = null_edge(view, ProductsOnHost(MatrixRows(counts), 1), np.arange(400), 400, rng)
        second = np.linalg.eigvalsh(dense_kinship(view, counts))[-2]
        assert edge == pytest.approx(second, rel=0.1)


def test_null_edge_of_a_part_of_the_cells_foretells_that_of_all():
    rng = np.random.default_rng(2)
    counts = sparse.csr_matrix((rng.random((1600, 1500)) < 0.05).astype(np.float32))
    source = ProductsOnHost(MatrixRows(counts), 1)
    for view in VIEWS:
        exact = null_edge(view, source, np.arange(1600), 1600, rng)
        foretold = null_edge(view, source, np.sort(rng.choice(1600, 600, replace=False)), 1600, rng)
        assert foretold == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("k", [3, 6])
def test_dimensions_follow_the_planted_clusters(plant, k):
    cells = plant(400, 1000, k)
    start = find_start(ProductsOnHost(MatrixRows(cells.X), 1), sums_of(cells.X), None, 0)
    assert k - 1 <= start.coordinates.shape[1] <= k + 1
    labels = KMeans(k, n_init=5, random_state=0).fit_predict(start.coordinates)
    assert adjusted_rand_score(cells.obs["cell_type"], labels) > 0.97
    np.testing.assert_allclose(np.linalg.norm(start.coordinates, axis=1), 1, rtol=1e-5)


def test_noise_alone_has_no_more_than_the_fewest_dimensions():
    rng = np.random.default_rng(3)
    counts = sparse.csr_matrix((rng.random((300, 800)) < 0.05).astype(np.float32))
    start = find_start(ProductsOnHost(MatrixRows(counts), 1), sums_of(counts), None, 0)
    assert max(start.above_chance.values()) <= 2
    assert start.coordinates.shape == (300, views.FEWEST_DIMENSIONS)


def test_as_many_dimensions_as_asked_for(plant):
    counts = plant(100, 300, 3).X
    assert find_start(ProductsOnHost(MatrixRows(counts), 1), sums_of(counts), 12, 0).coordinates.shape == (100, 12)


def test_the_start_of_all_cells_by_way_of_a_part_is_that_of_all_at_once(plant, monkeypatch):
    counts = plant(600, 1000, 5).X
    source, sums = ProductsOnHost(MatrixRows(counts), 1), sums_of(counts)
    expected = find_start(source, sums, None, 0).coordinates
    monkeypatch.setattr(views, "SUBSET_PEAKS", int(counts.nnz / 3))
    got = find_start(source, sums, None, 0).coordinates
    assert got.shape == expected.shape
    overlap = np.linalg.svd(np.linalg.qr(got)[0].T @ np.linalg.qr(expected)[0])[1]
    assert overlap.min() > 0.99


def test_linear_map_is_ridge_regression(plant):
    opened = binarise(plant(60, 100).X)
    target = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
    rows = WeightedRows(MatrixRows(opened), binarise, 1)
    penalty = 0.1 * opened.sum(1).mean()
    expected = Ridge(penalty, fit_intercept=False).fit(opened.toarray(), target).coef_.T
    np.testing.assert_allclose(linear_map(rows, target, 0.1, 60), expected, atol=1e-3)
