"""The test of groups against the rest: statsmodels' logistic regressions, exact laws, simulated null data."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.stats import binom, chi2, norm

from scale_toolkit.core import differential


def cells_and_groups(n_cells=600, n_peaks=60, n_groups=3, seed=0, frequency=0.08):
    """Open peaks without any difference between groups but depth: group 1 is half as deep again."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, n_groups, n_cells)
    depth = rng.lognormal(0, 0.5, n_cells) * (1 + 0.5 * (groups == 1))
    rate = np.clip(rng.gamma(1.5, frequency / 1.5, n_peaks) * depth[:, None], 0, 0.9)
    is_open = sparse.csr_matrix(rng.random((n_cells, n_peaks)) < rate)
    some = np.diff(is_open.indptr) > 0
    return is_open[some], groups[some]


def compared(is_open, groups):
    bins = differential.depth_bins(np.diff(is_open.indptr))
    counts = differential.count(is_open, groups, int(groups.max()) + 1, bins)
    return counts.open_cells, differential.compare(counts, groups, bins, n_threads=1)


def design(x, *more):
    return np.column_stack([np.ones(len(x)), x, *more])


def logit(y, exog, weights=None):
    return sm.GLM(y, exog, family=sm.families.Binomial(), freq_weights=weights).fit(tol=1e-12, maxiter=200)


def test_the_score_is_that_of_statsmodels():
    is_open, groups = cells_and_groups()
    _, found = compared(is_open, groups)
    bins = differential.depth_bins(np.diff(is_open.indptr))
    x = bins.x[bins.of_cell]
    for j in range(0, 60, 7):
        null = logit(is_open[:, [j]].toarray().ravel().astype(float), design(x))
        for k in range(3):
            square, p = map(np.squeeze, null.score_test(exog_extra=(groups == k).astype(float)[:, None])[:2])
            assert found.score[j, k] ** 2 == pytest.approx(square, rel=1e-6)
            if abs(found.score[j, k]) <= 2:
                assert found.p_value[j, k] == pytest.approx(p, rel=1e-6)


def test_bins_of_depth_are_as_good_as_depth_itself():
    is_open, groups = cells_and_groups(n_peaks=300)
    _, found = compared(is_open, groups)
    x = np.log(np.diff(is_open.indptr))
    for j in range(0, 300, 31):
        null = logit(is_open[:, [j]].toarray().ravel().astype(float), design(x))
        square = np.squeeze(null.score_test(exog_extra=(groups == 1).astype(float)[:, None])[0])
        assert abs(found.score[j, 1]) == pytest.approx(np.sqrt(square), abs=0.05)


def test_the_odds_ratio_is_that_of_statsmodels_with_the_added_cells():
    is_open, groups = cells_and_groups()
    _, found = compared(is_open, groups)
    bins = differential.depth_bins(np.diff(is_open.indptr))
    x = bins.x[bins.of_cell]
    for j in (0, 11, 42):
        y = is_open[:, [j]].toarray().ravel().astype(float)
        for k in range(3):
            own = (groups == k).astype(float)
            at = [x[own == 0].mean(), x[own == 1].mean()]
            more_y, more_x, more_own = np.array([1, 0, 1, 0.0]), np.repeat(at, 2), np.array([0, 0, 1, 1.0])
            exog = design(np.append(x, more_x), np.append(own, more_own))
            weights = np.append(np.ones(len(x)), np.full(4, 0.5))
            c = logit(np.append(y, more_y), exog, weights).params[2]
            assert np.log(found.odds_ratio[j, k]) == pytest.approx(c, abs=1e-5)


def test_a_group_that_is_deeper_has_no_markers_for_that():
    """Of 400 peaks without any difference, a plain test of proportions finds many in the deep group."""
    is_open, groups = cells_and_groups(n_cells=1500, n_peaks=400)
    counts, found = compared(is_open, groups)
    assert 0.02 < (found.p_value[:, 1] < 0.05).mean() < 0.09
    n_in, n_out = (groups == 1).sum(), (groups != 1).sum()
    p1, p0 = counts[:, 1] / n_in, (counts.sum(axis=1) - counts[:, 1]) / n_out
    pooled = counts.sum(axis=1) / (n_in + n_out)
    plain = 2 * norm.sf(abs(p1 - p0) / np.sqrt(pooled * (1 - pooled) * (1 / n_in + 1 / n_out)))
    assert (plain < 0.05).mean() > 0.3


def test_p_values_of_rare_peaks_in_a_small_group_hold_far_out():
    """40 cells of 2,000 drawn at random: the normal law would call 3 in 1,000 below 10⁻⁴."""
    p_values, normal = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        rate = rng.gamma(1, 0.01, 4000) * rng.lognormal(0, 0.6, 2000)[:, None]
        is_open = sparse.csr_matrix(rng.random(rate.shape) < rate)
        is_open = is_open[np.diff(is_open.indptr) > 0]
        is_open = is_open[:, np.asarray(is_open.sum(axis=0)).ravel() >= 10]
        groups = (rng.permutation(is_open.shape[0]) >= 40).astype(int)
        _, found = compared(is_open, groups)
        p_values.append(found.p_value[:, 0])
        normal.append(2 * norm.sf(np.abs(found.score[:, 0])))
    p_values, normal = np.concatenate(p_values), np.concatenate(normal)
    for level in (0.05, 0.01, 1e-3, 1e-4):
        assert binom.cdf((p_values < level).sum(), len(p_values), 1.4 * level) < 0.95  # not far above the level
        assert (p_values < level).mean() > 0.3 * level
    assert (normal < 1e-4).mean() > 10e-4


def test_at_one_depth_the_tail_is_that_of_the_exact_law():
    """One depth: the score is a weighted difference of two binomial counts, whose law can be summed up."""
    n_in, n_out, rate = 30, 170, 0.2
    cells, inside = np.array([n_in + n_out], float), np.array([n_in], float)
    eta, x = np.array([np.log(rate / (1 - rate))]), np.zeros(1)
    alpha = n_in / (n_in + n_out)
    a, b = np.arange(n_in + 1)[:, None], np.arange(n_out + 1)
    law = binom.pmf(a, n_in, rate) * binom.pmf(b, n_out, rate)
    value = (1 - alpha) * (a - n_in * rate) - alpha * (b - n_out * rate)
    for u in (6.03, 8.03, 10.03):
        for sign in (1.0, -1.0):
            exact = law[sign * value >= u].sum()
            found = differential._tail(cells, inside, eta, x, alpha, 0.0, sign, u)
            assert found == pytest.approx(exact, rel=0.06 if sign > 0 else 0.3)  # below, all of a few cells: 10⁻⁶ to 10⁻²⁰
    assert differential._tail(cells, inside, eta, x, alpha, 0.0, -1.0, 100.0) == 0.0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 6), st.integers(2, 4), st.sampled_from([0.02, 0.5, 0.97]))
def test_odd_data_give_finite_figures(seed, n_cells, n_peaks, n_groups, rate):
    """Few cells, peaks open in none or all, clusters of one cell, one depth: p in [0, 1], everything finite."""
    rng = np.random.default_rng(seed)
    table = np.column_stack([rng.random((n_cells, n_peaks)) < rate, np.ones(n_cells, bool)])
    groups = np.append(np.arange(n_groups), rng.integers(0, n_groups, n_cells))[:n_cells]
    groups = np.unique(groups, return_inverse=True)[1]
    if groups.max() == 0:
        return
    counts, found = compared(sparse.csr_matrix(table), groups)
    assert np.isfinite(found.score).all() and np.isfinite(found.odds_ratio).all() and (found.odds_ratio > 0).all()
    assert ((found.p_value >= 0) & (found.p_value <= 1)).all()
    always = counts.sum(axis=1) == len(groups)
    assert (found.p_value[always] == 1).all() and (found.score[always] == 0).all()


def test_a_peak_open_in_the_whole_group_and_nowhere_else():
    groups = np.repeat([0, 1], 100)
    rng = np.random.default_rng(0)
    noise = rng.random((200, 50)) < 0.3
    is_open = sparse.csr_matrix(np.column_stack([groups == 0, noise]))
    _, found = compared(is_open, groups)
    assert found.score[0, 0] > 13 and found.p_value[0, 0] < 1e-50 and found.odds_ratio[0, 0] > 1e4
    assert found.score[0, 1] == pytest.approx(-found.score[0, 0])
    bins = differential.depth_bins(np.diff(is_open.indptr))
    x = bins.x[bins.of_cell]
    y = (groups == 0).astype(float)
    # the normal law is good for nothing here, but the order of magnitude is that of the likelihood ratio
    null = logit(y, design(x))
    assert np.log10(found.p_value[0, 0]) == pytest.approx(np.log10(chi2.sf(null.deviance, 1)), rel=0.25)


def test_bins_are_narrow_few_and_centred():
    depth = np.concatenate([np.arange(1, 5000), [10**6]])
    bins = differential.depth_bins(depth)
    assert len(bins.x) <= differential.MAX_BINS
    x = bins.x[bins.of_cell]
    assert x.mean() == pytest.approx(0, abs=1e-9) and x.std() == pytest.approx(1)
    narrow = differential.depth_bins(depth[500:1000])
    logs = np.log(depth[500:1000])
    for i in range(len(narrow.x)):
        assert np.ptp(logs[narrow.of_cell == i]) <= differential.BIN_WIDTH + 1e-9
    assert (differential.depth_bins(np.full(9, 7)).x == 0).all()


def test_one_pass_counts_as_numpy_does():
    is_open, groups = cells_and_groups(n_cells=90)
    bins = differential.depth_bins(np.diff(is_open.indptr))
    counts = differential.count(is_open, groups, 4, bins)
    dense = is_open.toarray()
    for k in range(4):
        np.testing.assert_array_equal(counts.open_cells[:, k], dense[groups == k].sum(axis=0))
    np.testing.assert_allclose(counts.weighted, bins.x[bins.of_cell] @ dense)


def test_threads_and_blocks_change_nothing(monkeypatch):
    is_open, groups = cells_and_groups(n_peaks=300)
    _, whole = compared(is_open, groups)
    bins = differential.depth_bins(np.diff(is_open.indptr))
    counts = differential.count(is_open, groups, 3, bins)
    monkeypatch.setattr(differential, "_BLOCK", 17)
    done = []
    parts = differential.compare(counts, groups, bins, n_threads=3, progress=done.append)
    for name in ("score", "p_value", "odds_ratio"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    assert done == [*range(17, 300, 17), 300]
