"""The start of the latent space, held to dense NumPy and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.special import expit, logit
from sklearn.cluster import KMeans
from sklearn.linear_model import Ridge
from sklearn.metrics import adjusted_rand_score

import scale_toolkit as scale
from scale_toolkit.core import open_peaks
from scale_toolkit.core.chance import draw_by_depth
from scale_toolkit.core.depth import depth_alone, rasch
from scale_toolkit.core.open_peaks import OpenPeaks, WeightedRows
from scale_toolkit.core.rows import MatrixRows
from scale_toolkit.core.weighting import fit_weighting
from scale_toolkit.model import eigenvectors, views
from scale_toolkit.model.eigenvectors import Search, leading_eigenvectors
from scale_toolkit.model.encoder_view import EncoderView
from scale_toolkit.model.kinship import VIEWS, kinship_of
from scale_toolkit.model.products import ProductsOnHost, SeenRows
from scale_toolkit.model.views import (
    Null,
    Remainder,
    expected_of,
    find_start,
    linear_map,
)


def peaks_of(counts, n_threads=1):
    return OpenPeaks.of_source(MatrixRows(counts), n_threads)


def products_of(counts, n_threads=1):
    opened = peaks_of(counts, n_threads)
    return ProductsOnHost(opened, MatrixRows(counts)), opened.peak_sums()


def noise(n_cells, n_peaks, rng):
    return sparse.csr_matrix((rng.random((n_cells, n_peaks)) < 0.05).astype(np.float32))


def with_slopes(opened, chances, logits):
    """Chances after one Newton step in each cell's t, logit p_ij + t_i (b_j − b̄_i), from their
    derivative by t in finite differences.

    At chances between two depths the weights of b̄ differ a little from those on the line between
    the two depths.
    """
    variances = chances * (1 - chances)
    from_mean = logits - (variances @ logits / variances.sum(1))[:, None]
    step = 1e-5

    def shifted(t):
        return expit(logit(chances) + t * from_mean)

    slope = (shifted(step) - shifted(-step)) / (2 * step)
    score = ((opened - chances) * slope / variances).sum(1)
    information = (slope**2 / variances).sum(1)
    return chances + (score / information)[:, None] * slope


def dense_kinship(view, counts):
    """The matrix of a view by its definition, dense and in float64; chances at each depth that
    `depth_alone` keeps, and between two of them on the line.
    """
    opened = (counts > 0).toarray()
    depth = depth_alone(opened.sum(1), opened.sum(0))
    chances = with_slopes(opened, depth.shares.astype(float) @ depth.probabilities, depth.logits)
    counted = (np.maximum(opened.sum(0), 1) / len(opened)) ** -view.exponent
    residuals = opened - chances
    noise = depth.shares.astype(float) @ (depth.probabilities * (1 - depth.probabilities) * counted)
    scale = np.square(noise).sum(1) ** -0.25
    gram = (residuals * counted) @ residuals.T * np.outer(scale, scale)
    np.fill_diagonal(gram, 0)
    return gram


def kinship(view, counts, n_threads=1):
    products, peak_sums = products_of(counts, n_threads)
    depth = expected_of(products, products.n_open(), peak_sums)
    return kinship_of(products, view, peak_sums, products.n_cells, depth)


@pytest.mark.parametrize("fewest_cells", [64, 7])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_products_are_numpys(plant, view, n_threads, kept, fewest_cells, monkeypatch):
    monkeypatch.setattr(open_peaks, "FEWEST_CELLS", fewest_cells)
    if not kept:
        monkeypatch.setattr(open_peaks, "KEPT_WEIGHTS", 0)
    counts = plant(90, 200, 4).X
    products, peak_sums = products_of(counts, n_threads)
    rows = products.weighted(view.peak_weights(peak_sums, 90))
    weights = (counts > 0).toarray() * (np.maximum(peak_sums, 1) / 90) ** (-view.exponent / 2)
    rng = np.random.default_rng(0)
    cells, peaks = rng.standard_normal((90, 5)), rng.standard_normal((200, 5))
    as_tensors = (torch.from_numpy(dense.astype(np.float32)) for dense in (peaks, cells))
    for got, expected in zip(
        (product(dense) for product, dense in zip((rows.times, rows.transposed_times), as_tensors, strict=True)),
        (weights @ peaks, weights.T @ cells),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(rows.square_norms(), np.square(weights).sum(1), rtol=1e-5)


def test_chosen_cells_are_those_rows(plant):
    counts = plant(90, 200, 4).X
    chosen = peaks_of(counts).chosen(np.array([5, 3, 80]))
    expected = counts[[5, 3, 80]]
    indices, pointers = chosen.rows(np.arange(3))
    np.testing.assert_array_equal(indices, expected.indices)
    np.testing.assert_array_equal(pointers, expected.indptr)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_eigenvectors_are_numpys(plant, view):
    counts = plant(90, 200, 4).X
    block = np.random.default_rng(0).standard_normal((90, 20)).astype(np.float32)
    values, vectors = leading_eigenvectors(kinship(view, counts), torch.from_numpy(block), 6, 7)
    vectors = vectors.numpy()
    expected, expected_vectors = np.linalg.eigh(dense_kinship(view, counts))
    np.testing.assert_allclose(values, expected[::-1][:6], rtol=1e-4)
    overlap = np.abs((vectors * expected_vectors[:, ::-1][:, :6]).sum(0))
    assert overlap[:3].min() > 0.999  # what is planted


def edge_of(view, products, peak_sums, cells, rng):
    return chance_of(view, products, peak_sums, cells, rng).edge


def chance_of(view, products, peak_sums, cells, rng):
    depth = expected_of(products, products.n_open(), peak_sums)
    matrix = kinship_of(products, view, peak_sums, products.n_cells, depth)
    return Null(products, depth, cells, rng).chance(view, matrix, rng)


def test_a_search_that_goes_on_finds_what_a_longer_one_finds(plant):
    counts = plant(300, 500, 12).X
    block = torch.from_numpy(np.random.default_rng(0).standard_normal((300, 24)).astype(np.float32))
    expected = np.linalg.eigvalsh(dense_kinship(VIEWS[0], counts))[::-1]
    search = Search(kinship(VIEWS[0], counts), block)
    few, _ = search.leading(6, 3)
    more, vectors = search.leading(14, 5)
    assert (np.abs(more - expected[:14]) / expected[:14]).max() < 1e-3
    assert (few <= more[:6] * (1 + 1e-5)).all()
    # from its own vectors, two products are enough
    again, _ = leading_eigenvectors(kinship(VIEWS[0], counts), vectors, 14, 2)
    np.testing.assert_allclose(again, expected[:14], rtol=1e-3)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_every_pair_of_cells_has_the_same_noise(view):
    """Of cells that differ in depth alone, drawn again and again."""
    rng = np.random.default_rng(2)
    rates = np.exp(rng.normal(-2, 0.8, 600)) * np.exp(rng.normal(0, 0.7, (120, 1)))
    depth = depth_alone((-np.expm1(-rates)).sum(1), (-np.expm1(-rates)).sum(0))
    squares = np.zeros((120, 120))
    for seed in range(60):
        peaks, pointers = draw_by_depth(depth, seed)
        counts = sparse.csr_matrix((np.ones(len(peaks), np.float32), peaks, pointers), (120, 600))
        squares += dense_kinship(view, counts) ** 2 / 60
    by_cell = squares.sum(1) / 119
    assert by_cell.mean() == pytest.approx(1, abs=0.1)
    assert by_cell.std() < 0.1
    opened = np.diff(counts.indptr)
    assert abs(by_cell[opened < np.median(opened)].mean() / by_cell.mean() - 1) < 0.05


def test_null_edge_is_what_independent_peaks_give():
    rng = np.random.default_rng(1)
    counts = noise(400, 1500, rng)
    for view in VIEWS:
        largest = np.linalg.eigvalsh(dense_kinship(view, counts))[-1]
        assert edge_of(view, *products_of(counts), np.arange(400), rng) == pytest.approx(largest, rel=0.1)


def test_chance_reaches_less_where_types_leave_less_to_chance():
    """Half of the peaks are open in 9 of 10 cells of one type and in 1 of 10 of the other."""
    rng = np.random.default_rng(5)
    rates = np.where((np.arange(400)[:, None] < 200) == (np.arange(600) % 2 == 0), 0.9, 0.1)
    counts = sparse.csr_matrix((rng.random((400, 600)) < rates).astype(np.float32))
    products, peak_sums = products_of(counts)
    for view in VIEWS:
        chance = chance_of(view, products, peak_sums, np.arange(400), rng)
        matrix, block = kinship(view, counts), rng.standard_normal((400, 6)).astype(np.float32)
        values, vectors = leading_eigenvectors(matrix, torch.from_numpy(block), 4, 12)
        reach = chance.reach(Remainder(matrix, rng), values, vectors)
        assert values[1] < reach < 0.15 * chance.edge


def test_the_spread_of_a_remainder_is_numpys(plant):
    counts = plant(300, 500, 4).X
    for view in VIEWS:
        block = np.random.default_rng(0).standard_normal((300, 20)).astype(np.float32)
        values, vectors = leading_eigenvectors(kinship(view, counts), torch.from_numpy(block), 3, 7)
        expected = np.linalg.eigvalsh(dense_kinship(view, counts))[:-3]
        remainder = Remainder(kinship(view, counts), np.random.default_rng(1))
        mean, spread = remainder.moments(values, vectors)
        assert mean == pytest.approx(expected.sum() / 300, rel=0.01)
        assert spread == pytest.approx(expected.std(), rel=0.05)


def saturated(rng):
    """Deep cells whose frequent peaks are saturated: only depth differs, and by much."""
    rates = np.exp(rng.normal(0, 1.2, 1500) - 2.5)
    depths = np.exp(rng.normal(0, 0.8, (400, 1)))
    is_open = rng.random((400, 1500)) < 1 - np.exp(-rates * depths)
    return sparse.csr_matrix(is_open.astype(np.float32))


def test_depth_alone_is_the_rasch_model():
    """At the depths of all cells, of which twelve are kept, within what the line between two of
    them leaves.
    """
    opened = saturated(np.random.default_rng(4)).toarray() > 0
    depth = depth_alone(opened.sum(1), opened.sum(0))
    s, b = rasch(opened.sum(1), opened.sum(0))
    exact = expit(s[:, None] + b)
    np.testing.assert_allclose(depth.shares @ depth.probabilities, exact, atol=0.01)
    np.testing.assert_allclose(depth.shares.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(depth.shares @ depth.n_open, exact.sum(1), rtol=0.02)


def test_depth_alone_gives_no_dimension():
    rng = np.random.default_rng(4)
    counts = saturated(rng)
    depth = np.log(np.diff(counts.indptr))
    for view in VIEWS:
        # with only each peak's mean taken away, depth is the leading eigenvector
        weights = counts.toarray() * view.peak_weights(counts.toarray().sum(0), 400)
        curve = np.linalg.svd(weights - weights.mean(0))[0][:, 0]
        assert abs(np.corrcoef(curve, depth)[0, 1]) > 0.9
        matrix, block = kinship(view, counts), rng.standard_normal((400, 4)).astype(np.float32)
        values, vectors = leading_eigenvectors(matrix, torch.from_numpy(block), 1, 12)
        assert abs(np.corrcoef(vectors[:, 0], depth)[0, 1]) < 0.5
        edge = edge_of(view, *products_of(counts), np.arange(400), rng)
        assert values[0] == pytest.approx(edge, rel=0.3)


def with_background(rng, shares):
    """Cells of one type, each with a share of open peaks that are as frequent as any other."""
    profile = rng.lognormal(0, 1.3, 2000)
    profile /= profile.sum()
    profiles = shares[:, None] / 2000 + (1 - shares[:, None]) * profile
    is_open = rng.random((len(shares), 2000)) < -np.expm1(-400 * profiles)
    return sparse.csr_matrix(is_open.astype(np.float32))


def test_slopes_follow_the_share_of_background():
    rng = np.random.default_rng(6)
    shares = rng.uniform(0, 0.6, 400)
    products, peak_sums = products_of(with_background(rng, shares))
    slopes = expected_of(products, products.n_open(), peak_sums).slopes
    assert np.corrcoef(slopes, -shares)[0, 1] > 0.95


def test_peaks_of_one_frequency_show_no_slope():
    counts = sparse.csr_matrix(np.tile(np.eye(20, dtype=np.float32), (5, 3)))
    products, peak_sums = products_of(counts)
    assert not expected_of(products, products.n_open(), peak_sums).slopes.any()


def test_background_gives_no_dimension():
    rng = np.random.default_rng(6)
    shares = rng.uniform(0, 0.6, 400)
    counts = with_background(rng, shares)
    products, peak_sums = products_of(counts)
    for view in VIEWS:
        block = torch.from_numpy(rng.standard_normal((400, 4)).astype(np.float32))
        without = depth_alone(products.n_open(), peak_sums)
        matrix = kinship_of(products, view, peak_sums, 400, without)
        values, vectors = leading_eigenvectors(matrix, block, 1, 12)
        edge = edge_of(view, products, peak_sums, np.arange(400), rng)
        assert values[0] > 1.5 * edge
        assert abs(np.corrcoef(vectors[:, 0], shares)[0, 1]) > 0.9
        values, vectors = leading_eigenvectors(kinship(view, counts), block, 1, 12)
        assert values[0] < 1.1 * edge
        assert abs(np.corrcoef(vectors[:, 0], shares)[0, 1]) < 0.3


def test_null_edge_of_a_part_of_the_cells_foretells_that_of_all():
    rng = np.random.default_rng(2)
    made = products_of(noise(1600, 1500, rng))
    for view in VIEWS:
        exact = edge_of(view, *made, np.arange(1600), rng)
        few = np.sort(rng.choice(1600, 600, replace=False))
        assert edge_of(view, *made, few, rng) == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("k", [3, 6])
def test_dimensions_follow_the_planted_clusters(plant, k):
    cells = plant(400, 1000, k)
    start = find_start(*products_of(cells.X), None, 0)
    assert k - 1 <= start.coordinates.shape[1] <= k + 1
    labels = KMeans(k, n_init=5, random_state=0).fit_predict(start.coordinates)
    assert adjusted_rand_score(cells.obs["cell_type"], labels) > 0.97
    np.testing.assert_allclose(np.linalg.norm(start.coordinates, axis=1), 1, rtol=1e-5)


def test_the_dimensions_of_many_clusters_are_found_by_every_view():
    """More than the first eigenvectors asked for: those that are added come from random columns."""
    cells = scale.simulate(n_cells=1500, n_peaks=4000, n_clusters=28, open_peaks=300, seed=0)
    above = find_start(*products_of(sparse.csr_matrix(cells.X)), None, 0).above_chance
    assert min(above.values()) >= 26


def test_noise_alone_has_no_more_than_the_fewest_dimensions():
    rng = np.random.default_rng(3)
    counts = noise(300, 800, rng)
    start = find_start(*products_of(counts), None, 0)
    assert max(start.above_chance.values()) <= 2
    assert start.coordinates.shape == (300, views.FEWEST_DIMENSIONS)


def test_as_many_dimensions_as_asked_for(plant):
    counts = plant(100, 300, 3).X
    assert find_start(*products_of(counts), 12, 0).coordinates.shape == (100, 12)


def test_the_start_of_all_cells_by_way_of_a_part_is_that_of_all_at_once(plant, monkeypatch):
    counts = plant(600, 1000, 5).X
    made = products_of(counts)
    expected = find_start(*made, None, 0).coordinates
    monkeypatch.setattr(views, "SUBSET_PEAKS", int(counts.nnz / 3))
    monkeypatch.setattr(views, "NULL_PEAKS", int(counts.nnz / 3))
    got = find_start(*made, None, 0).coordinates
    assert got.shape == expected.shape
    overlap = np.linalg.svd(np.linalg.qr(got)[0].T @ np.linalg.qr(expected)[0])[1]
    assert overlap.min() > 0.99


def test_products_of_tall_matrices_are_those_of_numpy(monkeypatch):
    monkeypatch.setattr(eigenvectors, "_BLOCK", 64)
    left, right = np.random.default_rng(0).normal(size=(2, 1000, 5)).astype(np.float32)
    product = eigenvectors.inner_product(torch.from_numpy(left), torch.from_numpy(right)).numpy()
    np.testing.assert_allclose(product, left.T.astype(float) @ right, rtol=1e-12)


@pytest.mark.parametrize("log_transform", [False, True])
def test_linear_map_is_ridge_regression(plant, log_transform):
    counts = plant(60, 100).X
    products, peak_sums = products_of(counts)
    see = EncoderView(log_transform, fit_weighting(60, peak_sums))
    rows = products.seen(see)
    assert isinstance(rows.rows, SeenRows if log_transform else WeightedRows)
    weights = see(counts).toarray().astype(float)
    target = np.random.default_rng(0).standard_normal((60, 3)).astype(np.float32)
    penalty = 0.1 * np.square(weights).sum(1).mean()
    expected = Ridge(penalty, fit_intercept=False).fit(weights, target).coef_.T
    np.testing.assert_allclose(linear_map(rows, target, 0.1, 0, 15), expected, atol=1e-4)
    loose = linear_map(rows, target, 0.1, 0.05)
    residual = weights.T @ (weights @ loose - target) + penalty * loose  # of the normal equations
    assert np.linalg.norm(residual) < 0.05 * np.linalg.norm(weights.T @ target)
