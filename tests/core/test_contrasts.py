"""Differences between conditions: against statsmodels, uniform under permuted samples, and found where planted."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import sparse, stats
from scipy.special import digamma, expit, polygamma

from scale_toolkit.core import contrasts
from scale_toolkit.core.differential import Bins, depth_bins


def simulate(sizes, n_peaks=400, sd=0.3, effect=None, seed=0, rate=0.1, depth_shift=None):
    """Return open peaks (cells × peaks), the sample of each cell, and the bins of the true depths."""
    rng = np.random.default_rng(seed)
    samples = np.repeat(np.arange(len(sizes)), sizes)
    shift = np.zeros(len(sizes)) if depth_shift is None else np.asarray(depth_shift)
    depth = rng.normal(0, 0.4, len(samples)) + shift[samples]
    base = np.log(rng.uniform(rate / 4, 2 * rate, n_peaks))
    logits = base + depth[:, None] + rng.normal(0, sd, (len(sizes), n_peaks))[samples]
    if effect is not None:
        logits = logits + effect[samples]
    is_open = sparse.csr_matrix(rng.random(logits.shape) < expit(logits))
    return is_open, samples, depth_bins(np.exp(depth))


def compared(is_open, samples, bins, in_first):
    counts = contrasts.count_samples(is_open, samples, len(in_first), bins)
    return contrasts.compare_samples(counts, np.asarray(in_first, bool), bins, n_threads=1)


def test_counts_are_those_of_the_matrix():
    is_open, samples, bins = simulate([30, 20, 40], n_peaks=25)
    counts = contrasts.count_samples(is_open, samples, 3, bins)
    dense, x = is_open.toarray(), bins.x[bins.of_cell]
    for sample in range(3):
        cells = samples == sample
        np.testing.assert_array_equal(counts.open_cells[:, sample], dense[cells].sum(axis=0))
        np.testing.assert_allclose(counts.weighted[:, sample], (dense[cells] * x[cells, None]).sum(axis=0), atol=1e-9)
        np.testing.assert_array_equal(counts.cells[sample], np.bincount(bins.of_cell[cells], minlength=len(bins.x)))


def few_bins(n_cells, seed=1):
    of_cell = np.random.default_rng(seed).integers(0, 4, n_cells)
    x = np.array([-1.2, -0.3, 0.4, 1.1])
    return Bins(of_cell, x)


def test_score_dispersion_and_odds_ratio_without_spread_are_those_of_statsmodels():
    """One depth: a binomial regression of a sample's open cells, its score test and Pearson's scale."""
    rng = np.random.default_rng(2)
    sizes = np.array([40, 60, 50, 30, 70])
    samples = np.repeat(np.arange(5), sizes)
    y = rng.random((len(samples), 3)) < np.array([0.2, 0.3, 0.5])
    bins = Bins(np.zeros(len(samples), int), np.zeros(1))
    in_first = np.array([True, True, False, False, False])
    counts = contrasts.count_samples(sparse.csr_matrix(y), samples, 5, bins)
    fit = contrasts._fit(counts, in_first, bins, 0.0, 1)
    for j in range(3):
        open_cells = np.bincount(samples, weights=y[:, j])
        both = np.column_stack([open_cells, sizes - open_cells])
        null = sm.GLM(both, np.ones((5, 1)), family=sm.families.Binomial())
        chi2 = null.score_test(null.fit().params, exog_extra=in_first[:, None].astype(float))[0]
        np.testing.assert_allclose(fit.z[j] ** 2, np.ravel(chi2)[0], rtol=1e-6)
        full = sm.GLM(both, sm.add_constant(in_first.astype(float)), family=sm.families.Binomial()).fit()
        np.testing.assert_allclose(contrasts._pearson(fit, 0.0)[j], full.pearson_chi2, rtol=1e-6)
        # half an open and half a closed cell on either side
        np.testing.assert_allclose(fit.log_odds[j], full.params[1], atol=0.05)
        assert np.sign(fit.z[j]) == np.sign(full.params[1])


@pytest.mark.parametrize("variance", [0.0, 0.25])
def test_the_score_at_equal_depth_is_that_of_a_weighted_logistic_regression(variance):
    rng = np.random.default_rng(3)
    sizes = [60, 90, 40, 80, 30]
    samples = np.repeat(np.arange(5), sizes)
    bins = few_bins(len(samples))
    x = bins.x[bins.of_cell]
    y = rng.random(len(samples)) < expit(-1 + 0.8 * x + 0.3 * (samples < 2))
    in_first = np.array([True, True, False, False, False])
    counts = contrasts.count_samples(sparse.csr_matrix(y[:, None]), samples, 5, bins)
    fit = contrasts._fit(counts, in_first, bins, variance, 1)
    design = sm.add_constant(x)

    def null(weights):
        m = sm.GLM(y.astype(float), design, family=sm.families.Binomial(), freq_weights=weights).fit(tol=1e-12).fittedvalues
        return m, m * (1 - m)

    _, v = null(np.ones(len(y)))
    weight = 1 / (1 + variance * np.bincount(samples, weights=v))
    weight *= len(y) / (weight * sizes).sum()
    m, v = null(weight[samples])
    inside = in_first[samples].astype(float)
    g = inside - sm.WLS(inside, design, weights=weight[samples] * v).fit().fittedvalues
    u = (weight[samples] * g * (y - m)).sum()
    spread = np.bincount(samples, weights=v * g**2) + variance * np.bincount(samples, weights=v * g) ** 2
    np.testing.assert_allclose(fit.z[0], u / math.sqrt((weight**2 * spread).sum()), rtol=1e-6)


@pytest.mark.parametrize("prior_df", [4.0, 15.0])
def test_the_prior_of_the_dispersions_is_estimated(prior_df):
    rng = np.random.default_rng(0)
    df, n = 4.0, 40_000
    truth = 1.3 * prior_df / rng.chisquare(prior_df, n)
    scale, estimate = contrasts._prior(truth * rng.chisquare(df, n) / df, np.full(n, df))
    np.testing.assert_allclose([scale, estimate], [1.3, prior_df], rtol=0.1)


def test_equal_dispersions_have_an_infinite_prior():
    rng = np.random.default_rng(1)
    scale, estimate = contrasts._prior(rng.chisquare(4, 20_000) / 4 * 0.999, np.full(20_000, 4.0))
    assert estimate == np.inf or estimate > 200
    assert 0.98 < scale < 1.05


@pytest.mark.parametrize("value", [1e-6, 0.01, 1.0, 30.0, 1e4])
def test_trigamma_is_inverted(value):
    np.testing.assert_allclose(polygamma(1, contrasts._trigamma_inverse(value)), value, rtol=1e-6)


def test_the_spread_between_samples_is_estimated():
    is_open, samples, bins = simulate([150] * 10, sd=0.4, n_peaks=600)
    result = compared(is_open, samples, bins, np.arange(10) < 5)
    assert 0.34 < result.sample_sd < 0.46
    is_open, samples, bins = simulate([150] * 10, sd=0.0, n_peaks=600)
    assert compared(is_open, samples, bins, np.arange(10) < 5).sample_sd < 0.08


#: Cells of each sample; standard deviation between samples; shift of a sample's log depth.
NULLS = {
    "two a side": ([150] * 4, 0.3, None),
    "three a side": ([120] * 6, 0.4, None),
    "no spread": ([120] * 6, 0.0, None),
    "unequal sizes": ([40, 300, 80, 200, 50, 150], 0.4, None),
    "unequal depth": ([120] * 6, 0.3, [0.5, 0.3, 0.6, -0.2, 0.1, 0.0]),
}


@pytest.mark.parametrize("case", NULLS)
def test_without_a_difference_p_values_are_uniform(case):
    """Samples drawn from one population and split in two: what labels of condition permuted over samples give."""
    sizes, sd, depth_shift = NULLS[case]
    is_open, samples, bins = simulate(sizes, n_peaks=1500, sd=sd, depth_shift=depth_shift, rate=0.15, seed=11)
    p = compared(is_open, samples, bins, np.arange(len(sizes)) < len(sizes) // 2).p_value
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert (p < 0.01).mean() < 0.02


def test_cells_in_place_of_samples_are_not_uniform():
    """What the samples are for: the same null by cells calls many peaks."""
    from scale_toolkit.core import differential

    sizes, sd, _ = NULLS["three a side"]
    is_open, samples, bins = simulate(sizes, n_peaks=800, sd=sd, rate=0.15, seed=11)
    groups = (samples < 3).astype(int)
    p = differential.compare(differential.count(is_open, groups, 2, bins), groups, bins, n_threads=1).p_value[:, 1]
    assert (p < 0.01).mean() > 0.1


@pytest.mark.parametrize("n_side", [2, 4])
def test_planted_differences_are_found_and_measured(n_side):
    effect = np.zeros((2 * n_side, 1000))
    effect[:n_side, :100], effect[:n_side, 100:200] = 1.2, -1.2
    is_open, samples, bins = simulate([200] * (2 * n_side), n_peaks=1000, sd=0.2, effect=effect, rate=0.2)
    result = compared(is_open, samples, bins, np.arange(2 * n_side) < n_side)
    fdr = stats.false_discovery_control(result.p_value)
    called = fdr <= 0.05
    assert called[:200].mean() > (0.8 if n_side == 2 else 0.97)
    assert called[200:].sum() <= 0.1 * called.sum()
    assert (result.score[:100][called[:100]] > 0).all() and (result.score[100:200][called[100:200]] < 0).all()
    np.testing.assert_allclose(np.log(result.odds_ratio[:100]).mean(), 1.2, atol=0.15)


def test_peaks_that_cannot_differ():
    rng = np.random.default_rng(0)
    y = rng.random((200, 60)) < 0.3
    y[:, 0], y[:, 1] = False, True
    y[:100, 2], y[100:, 2] = False, rng.random(100) < 0.5
    samples = np.repeat(np.arange(4), 50)
    result = compared(sparse.csr_matrix(y), samples, few_bins(200), [True, True, False, False])
    assert result.p_value[:2].tolist() == [1, 1] and result.score[:2].tolist() == [0, 0]
    assert np.isfinite(result.odds_ratio).all() and result.odds_ratio[2] < 0.05
    assert result.score[2] < 0 and result.p_value[2] < 1e-3


def test_blocks_and_threads_change_nothing(monkeypatch):
    is_open, samples, bins = simulate([60] * 4, n_peaks=300)
    expected = compared(is_open, samples, bins, [True, True, False, False])
    monkeypatch.setattr(contrasts, "_BLOCK", 7)
    counts = contrasts.count_samples(is_open, samples, 4, bins)
    result = contrasts.compare_samples(counts, np.array([True, True, False, False]), bins, n_threads=2)
    np.testing.assert_array_equal(result.p_value, expected.p_value)


def test_the_moments_of_the_prior_are_those_of_its_source():
    """Smyth 2004, section 6.2, by numbers: log s² of a scaled F has these moments."""
    rng = np.random.default_rng(5)
    d, d0 = 6.0, 9.0
    logs = np.log(stats.f.rvs(d, d0, size=400_000, random_state=rng))
    np.testing.assert_allclose(logs.var(), polygamma(1, d / 2) + polygamma(1, d0 / 2), rtol=0.01)
    expected = digamma(d / 2) - math.log(d / 2) - digamma(d0 / 2) + math.log(d0 / 2)
    np.testing.assert_allclose(logs.mean(), expected, atol=0.01)
