import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

from scale_toolkit.core.depth import cell_offsets, open_sums, rasch
from scale_toolkit.core.rows import MatrixRows, binarise
from scale_toolkit.core.weighting import fit_weighting
from scale_toolkit.model.cells import CellsOnHost
from scale_toolkit.model.start import decoder_step, fit_mixture


@pytest.fixture
def opened(plant):
    return binarise(plant(60, 80).X)


def test_open_sums_count_open_peaks(planted):
    cells, peaks = open_sums(MatrixRows(planted.X))
    dense = planted.X.toarray() > 0
    np.testing.assert_array_equal(cells, dense.sum(1))
    np.testing.assert_array_equal(peaks, dense.sum(0))


@settings(max_examples=25)
@given(st.integers(2, 30), st.integers(2, 40), st.floats(0.05, 0.9), st.integers(0, 2**31))
def test_rasch_gives_back_the_sums(n_cells, n_peaks, rate, seed):
    rng = np.random.default_rng(seed)
    x = rng.random((n_cells, n_peaks)) < rate * rng.random(n_peaks) * 1.5
    cells, peaks = x.sum(1), x.sum(0)
    inside = ((cells > 0) & (cells < n_peaks)).all() and ((peaks > 0) & (peaks < n_cells)).all()
    s, b = rasch(cells, peaks)
    assert np.isfinite(s).all()
    assert np.isfinite(b).all()
    if inside:
        p = expit(s[:, None] + b)
        np.testing.assert_allclose(p.sum(0), peaks, atol=1e-4)
        np.testing.assert_allclose(p.sum(1), cells, atol=1e-4)


def test_rasch_is_the_maximum_of_the_likelihood():
    x = np.random.default_rng(3).random((8, 12)) < np.linspace(0.2, 0.8, 12)
    s, b = rasch(x.sum(1), x.sum(0))

    def loss(parameters):
        logits = parameters[:8, None] + parameters[8:]
        return np.logaddexp(0, logits).sum() - logits[x].sum()

    best = minimize(loss, np.zeros(20), method="BFGS")
    assert loss(np.concatenate([s, b])) <= best.fun + 1e-6
    np.testing.assert_allclose(s[:, None] + b, best.x[:8, None] + best.x[8:], atol=1e-3)


def test_grouped_sums_stay_close_to_exact():
    rng = np.random.default_rng(4)
    cells, peaks = rng.integers(50, 900, 400), rng.integers(1, 200, 2000)
    cells = (cells * peaks.sum() / cells.sum()).astype(int)
    exact, grouped = rasch(cells, peaks), rasch(cells, peaks, groups=50)
    p, q = (expit(s[:, None] + b) for s, b in (exact, grouped))
    np.testing.assert_allclose(q.sum(0), p.sum(0), rtol=0.01)


def test_cell_offsets_solve_the_cells_own_equation():
    rng = np.random.default_rng(5)
    b = rng.normal(-2, 1, 300)
    sums = rng.integers(1, 200, 40)
    s = cell_offsets(sums, b)
    np.testing.assert_allclose(expit(s[:, None] + b).sum(1), sums, rtol=1e-6)


def test_weighting_is_log_tf_idf_and_empty_cells_stay_empty(opened):
    counts = sparse.vstack([opened * 3, sparse.csr_matrix((1, 80), dtype=np.float32)], format="csr")
    peak_sums = np.asarray((counts > 0).sum(0)).ravel()
    peak_sums[5] = 0
    got = fit_weighting(61, peak_sums)(counts).toarray()
    dense = counts.toarray()
    share = dense / np.maximum(dense.sum(1, keepdims=True), 1)
    idf = np.where(peak_sums > 0, np.log(1 + 61 / np.maximum(peak_sums, 1)), 0)
    np.testing.assert_allclose(got, np.log1p(1e4 * share * idf), rtol=1e-5)
    np.testing.assert_array_equal(got[-1], 0)


def test_decoder_step_is_newtons_at_zero(opened):
    rng = np.random.default_rng(6)
    z = rng.normal(size=(60, 3)).astype(np.float32)
    s, b = rasch(*open_sums(MatrixRows(opened)))
    got = decoder_step(CellsOnHost(MatrixRows(opened), binarise), z, s, b, ridge=2.0)
    p = expit(s[:, None] + b)
    depth = p.sum(1)
    covariance = (z * (depth / depth.sum())[:, None]).T @ z
    gradient = (opened.toarray() - p).T @ z
    for j in range(0, 80, 7):
        hessian = (p[:, j] * (1 - p[:, j])).sum() * covariance + 2.0 * np.eye(3)
        np.testing.assert_allclose(got[j], np.linalg.solve(hessian, gradient[j]), rtol=1e-3, atol=1e-5)


def test_decoder_step_raises_the_likelihood(planted):
    x = binarise(planted.X)
    z = np.eye(3)[planted.obs["cell_type"].cat.codes] - 1 / 3
    s, b = rasch(*open_sums(MatrixRows(x)))
    w = decoder_step(CellsOnHost(MatrixRows(x), binarise), z.astype(np.float32), s, b, ridge=1.0)
    flat = s[:, None] + b
    logits = flat + z @ w.T

    def likelihood(a):
        return (x.toarray() * a - np.logaddexp(0, a)).sum()

    assert likelihood(logits) > likelihood(flat) + 100


def test_decoder_step_with_grouped_peaks_stays_close(planted):
    x = binarise(planted.X)
    z = np.random.default_rng(7).normal(size=(120, 3)).astype(np.float32)
    s, b = rasch(*open_sums(MatrixRows(x)))
    exact, grouped = (
        decoder_step(CellsOnHost(MatrixRows(x), binarise), z, s, b, 1.0),
        decoder_step(CellsOnHost(MatrixRows(x), binarise), z, s, b, 1.0, groups=20),
    )
    assert np.corrcoef(exact.ravel(), grouped.ravel())[0, 1] > 0.99


def test_mixture_of_more_components_than_cells_is_valid():
    z = np.random.default_rng(8).normal(size=(4, 2))
    weights, means, variances = fit_mixture(z, 9, seed=0)
    assert weights.shape == (9,)
    assert means.shape == variances.shape == (9, 2)
    assert weights.sum() == pytest.approx(1)
    assert (variances > 0).all()
    assert torch.isfinite(torch.from_numpy(means)).all()
