from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.optimize import brentq
from scipy.special import expit

from scale_toolkit.core.fit_intercepts import logistic_gradient
from scale_toolkit.model import calibrate
from scale_toolkit.model.calibrate import believed_counts, calibrated, like_cells, margins


def drawn(n_cells=600, n_peaks=900, d=3, seed=0):
    """Cells with known latent vectors, loadings, intercepts, depth, and their open peaks."""
    rng = np.random.default_rng(seed)
    h, w = rng.normal(size=(n_cells, d)) + 1, rng.normal(0, 0.7, (n_peaks, d))
    b, s = rng.normal(-3, 1, n_peaks), rng.normal(0, 0.4, n_cells)
    p = expit((h - h.mean(0)) @ w.T + b + s[:, None])
    return h, w, b, s, p, rng.random(p.shape) < p, rng


@pytest.mark.parametrize("factor", [2.0, 1.0, 0.6])
@pytest.mark.parametrize("n_cells", [400, 900])  # every cell alone, and groups of cells
def test_loadings_that_are_too_large_or_too_small_are_put_right(factor, n_cells):
    h, w, _, s, p, opened, rng = drawn(n_cells)
    gone = opened & (rng.random(opened.shape) < 0.1)
    kept = opened & ~gone
    arrays = (factor * w, np.zeros(w.shape[0]), h, s, kept.sum(0), (h, s))
    weight, bias, how = calibrated(*arrays, sparse.csr_matrix(kept * 1.0), sparse.csr_matrix(gone * 1.0), rng)
    assert how.t == pytest.approx(1 / factor, rel=0.06)
    assert np.linalg.norm(weight - w) < 0.07 * np.linalg.norm(w)  # loadings without error are hardly shrunk
    fitted = expit(h @ weight.T + bias + s[:, None])
    np.testing.assert_allclose(fitted.sum(0), believed_counts(kept.sum(0), s), rtol=0.1)
    assert np.abs(fitted - 0.9 * p).mean() < 0.012


def test_without_anything_hidden_only_the_margins_are_set():
    h, w, _, s, _, opened, rng = drawn(300)
    none = sparse.csr_matrix(opened.shape)
    weight, bias, how = calibrated(w, np.zeros(len(w)), h, s, opened.sum(0), (h, s), sparse.csr_matrix(opened * 1.0), none, rng)
    assert how.t == 1 and how.c == 0 and weight is w
    sums = expit(h @ w.T + bias + s[:, None]).sum(0)
    np.testing.assert_allclose(sums, believed_counts(opened.sum(0), s), rtol=1e-3)


def test_few_hidden_peaks_do_not_move_the_loadings_far():
    h, w, _, s, _, opened, rng = drawn(50, 40)
    gone = np.zeros_like(opened)
    gone[tuple(np.argwhere(opened)[0])] = True
    found = calibrated(
        w, np.zeros(40), h, s, opened.sum(0), (h, s),
        sparse.csr_matrix((opened & ~gone) * 1.0), sparse.csr_matrix(gone * 1.0), rng,
    )  # fmt: skip
    assert 0.5 < found[2].t < 1.5


def test_peaks_lose_what_they_have_by_chance_and_keep_what_is_clear():
    """A tenth of the peaks have an effect, and all loadings have the error of a maximum-likelihood fit."""
    rng = np.random.default_rng(5)
    n_cells, n_peaks, d = 700, 3000, 4
    h, s = rng.normal(size=(n_cells, d)), rng.normal(0, 0.3, n_cells)
    effect = np.arange(n_peaks) < n_peaks // 10
    true = np.where(effect[:, None], rng.normal(0, 0.8, (n_peaks, d)), 0)
    b = rng.normal(-3, 0.7, n_peaks)
    p = expit(h @ true.T + b + s[:, None])
    opened = rng.random(p.shape) < p
    gone = opened & (rng.random(opened.shape) < 0.1)
    kept = opened & ~gone
    information = (p * (1 - p)).sum(0)  # h has unit variance, so I_j is about this times the identity
    noisy = true + rng.normal(size=true.shape) / np.sqrt(information)[:, None]
    arrays = (noisy, b, h, s, kept.sum(0), (h, s), sparse.csr_matrix(kept * 1.0), sparse.csr_matrix(gone * 1.0))
    weight, _, how = calibrated(*arrays, rng)
    assert how.c >= 0.7
    share = believed_counts(kept.sum(0), s) / n_cells
    centred = h - h.mean(0)
    evidence = n_cells * share * (1 - share) * ((noisy @ np.cov(centred.T, bias=True)) * noisy).sum(1)
    oracle = evidence / (evidence + how.c * d)
    np.testing.assert_allclose(weight, how.t * oracle[:, None] * noisy, rtol=1e-6, atol=1e-9)
    error = lambda loadings: ((loadings - true) ** 2).sum(1)  # noqa: E731
    scales = np.linspace(0, 1, 21)
    best_common = min(error(scale * noisy)[~effect].mean() + error(scale * noisy)[effect].mean() for scale in scales)
    assert error(weight)[~effect].mean() + error(weight)[effect].mean() < 0.75 * best_common
    assert np.linalg.norm(weight[effect]) > 0.85 * np.linalg.norm(true[effect])


def test_margins_solve_each_peaks_equation():
    rng = np.random.default_rng(0)
    h, weight = rng.normal(size=(20, 3)), rng.normal(size=(50, 3))
    lift, offset, size = h @ weight.T, rng.normal(size=20), rng.integers(1, 9, 20).astype(float)
    target = rng.uniform(0.5, size.sum() - 0.5, 50)
    found = margins(h, weight, offset, size, target, np.zeros(50))
    exact = [
        brentq(lambda x, j=j: size @ expit(lift[:, j] + offset + x) - target[j], -40, 40)  # an outside root finder
        for j in range(50)
    ]
    np.testing.assert_allclose(found, exact, atol=2e-3)
    extreme = margins(h, weight, offset, size, np.array([0.0] * 25 + [size.sum()] * 25), np.zeros(50))
    assert np.isfinite(extreme).all()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_margins_are_those_of_a_device(n_threads, monkeypatch):
    rng = np.random.default_rng(3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    h, weight, offset, size, shift = (
        rng.normal(size=shape).astype(np.float32) for shape in ((40, 3), (5000, 3), (40,), (40,), (2, 5000))
    )
    size, shift = 1 + size**2, (shift, rng.integers(0, 2, 40))
    target = rng.uniform(0, size.sum(), 5000).astype(np.float32)
    start = np.full(5000, -1.0)
    for groups in (None, shift):
        on_threads = margins(h, weight, offset, size, target, start, shift=groups)
        clipped = np.clip(target, 1e-3, size.sum() - 1e-3)
        on_device = calibrate._margins_on(torch.device("cpu"), h, weight, offset, size, clipped, start, 1e-4, groups)
        # where nearly all are open, rounding moves the margin of a sum by more on some processors
        is_steep = np.abs(on_device) < 8
        np.testing.assert_allclose(on_threads[is_steep], on_device[is_steep], atol=2e-3)
        np.testing.assert_allclose(on_threads[~is_steep], on_device[~is_steep], rtol=2e-3)
    assert np.isfinite(margins(30 * h, weight, offset, size, target, start)).all()  # odds beyond float32


@pytest.mark.parametrize("n_threads", [1, 2])
def test_logistic_gradient_is_numpys(n_threads):
    rng = np.random.default_rng(4)
    base, lift, hidden, weight = rng.normal(-3, 2, 40_000), rng.normal(size=40_000), rng.random(40_000) < 0.2, rng.random(40_000)
    base[:2] = 800, -800
    beta, x = np.array([1.3, -0.2]), np.stack([lift, np.ones(40_000)])
    p = expit(base + beta @ x)
    gradient, information = logistic_gradient(base, lift, hidden, weight, beta, n_threads)
    np.testing.assert_allclose(gradient, x @ (weight * (hidden - p)), rtol=1e-10)
    np.testing.assert_allclose(information, (x * (weight * p * (1 - p))) @ x.T, rtol=1e-10, atol=1e-12)


def test_believed_counts_are_the_posterior_means_under_the_true_distribution():
    rng = np.random.default_rng(0)
    n_cells, n_peaks = 500, 40_000
    s = rng.normal(0, 0.5, n_cells)
    b = rng.choice([-5.0, -3.0, -1.0], n_peaks, p=[0.6, 0.3, 0.1])
    expected = np.array([expit(one + s).sum() for one in (-5.0, -3.0, -1.0)])
    true = expected[np.searchsorted([-5.0, -3.0, -1.0], b)]
    counts = rng.poisson(true * 0.999)
    found = believed_counts(counts, s)
    for count in (0, 2, 5, 10, 20, 30):
        here = counts == count
        assert found[here].mean() == pytest.approx(true[here].mean(), rel=0.12), count
    assert np.ptp(found[counts == 3]) == 0
    frequent = counts > 100
    np.testing.assert_allclose(found[frequent].mean(), counts[frequent].mean(), rtol=0.02)


def test_like_cells_groups_only_many_cells():
    rng = np.random.default_rng(0)
    points, offset = rng.normal(size=(800, 2)), rng.normal(size=800)
    np.testing.assert_array_equal(like_cells(points[:100], offset[:100], rng), np.arange(100))
    group = like_cells(points, offset, rng, n=50)
    assert len(np.unique(group)) <= 50
    within = np.mean([points[group == g].var(0).sum() for g in np.unique(group)])
    assert within < 0.3 * points.var(0).sum()
