from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from scale_toolkit.core import metacells, recovery, reliability, separation, trust


def some_open(n_cells=60, n_peaks=400, seed=0, share=0.1):
    """Open peaks and those left and hidden when a share is hidden, as CSR of ones."""
    rng = np.random.default_rng(seed)
    rate = np.clip(rng.gamma(2, 0.04, n_peaks), 0.005, 0.6)
    dense = rng.random((n_cells, n_peaks)) < rate
    gone = dense & (rng.random(dense.shape) < share)
    return tuple(sparse.csr_matrix(part.astype(np.float32)) for part in (dense, dense & ~gone, gone))


def test_contains_is_the_dense_lookup():
    opened, _, _ = some_open()
    cells, peaks = (part.ravel() for part in np.indices(opened.shape))
    np.testing.assert_array_equal(recovery.contains(opened, cells, peaks), opened.toarray().ravel() > 0)
    empty = sparse.csr_matrix((3, 5), dtype=np.float32)
    assert not recovery.contains(empty, np.array([0, 2]), np.array([4, 0])).any()


def test_thinning_counts_is_binomial():
    counts = sparse.csr_matrix(np.random.default_rng(0).integers(0, 5, (400, 500)).astype(np.float32))
    kept, gone = recovery.thin_counts(counts, 0.3, np.random.default_rng(1))
    assert (kept > counts).nnz == 0 and kept.data.all()
    assert kept.nnz + gone.sum() == counts.nnz
    for reads in (1, 2, 3, 4):  # an entry vanishes when all its reads do
        assert gone[counts.data == reads].mean() == pytest.approx(0.3**reads, abs=0.01)
    assert kept.sum() / counts.sum() == pytest.approx(0.7, abs=0.01)


def test_matched_sets_are_of_the_same_cell_and_frequency_and_closed():
    opened, kept, gone = some_open(n_peaks=2000)
    frequency = np.asarray(kept.sum(0)).ravel().astype(int)
    hidden = recovery.entries_of(gone)
    sets = recovery.matched(hidden, opened, frequency, np.random.default_rng(0))
    dense = opened.toarray() > 0
    assert dense[sets.cells, sets.peaks[:, 0]].all()
    assert not dense[sets.cells[:, None], sets.peaks[:, 1:]].any()
    assert len(sets) > 0.99 * len(hidden[0])
    off = np.abs(frequency[sets.peaks[:, 1:]] - frequency[sets.peaks[:, :1]])
    assert off.mean() < 0.5 and np.median(off) == 0
    _, auroc = recovery.set_ranks(frequency[sets.peaks].astype(float))
    assert auroc.mean() == pytest.approx(0.5, abs=0.02)  # frequency has nothing left to say
    any_peak = recovery.unmatched(hidden, opened, np.random.default_rng(0))
    assert not dense[any_peak.cells[:, None], any_peak.peaks[:, 1:]].any()
    assert recovery.set_ranks(frequency[any_peak.peaks].astype(float))[1].mean() > 0.6


def test_a_cell_with_every_peak_open_has_no_sets():
    opened = sparse.csr_matrix(np.ones((2, 80), np.float32))
    hidden = np.array([0]), np.array([3])
    for sets in (
        recovery.matched(hidden, opened, np.full(80, 2), np.random.default_rng(0)),
        recovery.unmatched(hidden, opened, np.random.default_rng(0)),
    ):
        assert len(sets) == 0
    assert len(recovery.random_closed(opened, 100, np.random.default_rng(0))[0]) == 0


@pytest.mark.parametrize("decimals", [0, 8])
def test_figures_of_a_set_are_those_of_scikit_learn(decimals):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(200, 10)).round(decimals)
    auprc, auroc = recovery.set_ranks(scores)
    truth = np.arange(10) == 0
    np.testing.assert_allclose(auroc, [roc_auc_score(truth, row) for row in scores])
    # equal scores: the mean over their orders
    noise = rng.random((300, 10)) * 1e-6
    for row, found in zip(scores[:2], auprc, strict=False):
        orders = [average_precision_score(truth, row + jitter) for jitter in noise[: 300 if decimals == 0 else 1]]
        assert found == pytest.approx(np.mean(orders), abs=0.06 if decimals == 0 else 1e-12)


def test_a_constant_score_is_chance():
    auprc, auroc = recovery.set_ranks(np.zeros((3, recovery.SET_SIZE + 1)))
    np.testing.assert_allclose(auprc, recovery.CHANCE_AUPRC)
    np.testing.assert_allclose(auroc, 0.5)


def test_means_by_group():
    values, group = np.array([1.0, 2, 3, np.nan, 5]), np.array([0, 0, 2, 0, -1])
    np.testing.assert_allclose(recovery.means_by(group, 3, values, fewest=1), [1.5, np.nan, 3])
    np.testing.assert_allclose(recovery.means_by(group, 3, values, fewest=2), [1.5, np.nan, np.nan])


def test_random_closed_entries_stand_for_all():
    opened, _, _ = some_open()
    cells, peaks, weight = recovery.random_closed(opened, 20_000, np.random.default_rng(0))
    assert not (opened.toarray() > 0)[cells, peaks].any()
    closed = opened.shape[1] - np.diff(opened.indptr)
    np.testing.assert_allclose(np.bincount(cells, weight), closed)
    value = np.random.default_rng(1).random(opened.shape[1])
    exact = (value * (opened.toarray() == 0)).sum()
    assert (weight * value[peaks]).sum() == pytest.approx(exact, rel=0.02)


def test_the_chance_to_be_hidden_is_seen_in_a_simulation():
    """The derivation: of entries that look closed, how many are hidden ones, given P(open)?"""
    rng = np.random.default_rng(0)
    for p, q in [(0.05, 0.1), (0.5, 0.1), (0.8, 0.4)]:
        entries = 20_000_000
        n_open = rng.binomial(entries, p)
        n_hidden = rng.binomial(n_open, q)
        seen = n_hidden / (entries - n_open + n_hidden)
        p_left = (1 - q) * p  # what a model of the rest says
        predicted = np.exp(reliability.hidden_log_odds(np.array([logit(p_left)]), q))[0]
        assert predicted == pytest.approx(q * p / (1 - (1 - q) * p), rel=1e-9)
        assert predicted == pytest.approx(seen, rel=0.015)
    assert np.exp(reliability.hidden_log_odds(np.array([50.0]), 0.1))[0] < 1  # a model that is surer than hiding allows


def predicted_and_seen(n=300_000, seed=0, slope=1.0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(-4, 1, n)
    hidden = rng.random(n) < expit(truth)
    return expit((truth + 4) / slope - 4), hidden


def test_a_calibrated_chance_has_ratio_slope_and_intercept_of_calibration():
    chance, hidden = predicted_and_seen()
    found = reliability.calibration(chance, hidden, np.ones(len(chance)))
    np.testing.assert_allclose(found["ratio"], 1, atol=4 * max(found["error"]))
    assert found["slope"] == pytest.approx(1, abs=0.03) and found["intercept"] == pytest.approx(0, abs=0.15)
    assert len(found["ratio"]) == 10
    surer, hidden = predicted_and_seen(slope=0.5)  # logits twice as far apart as they should be
    assert reliability.calibration(surer, hidden, np.ones(len(surer)))["slope"] == pytest.approx(0.5, abs=0.02)


def test_bins_and_errors_of_calibration_are_the_definition():
    chance, hidden = predicted_and_seen(20_000)
    weight = np.random.default_rng(3).uniform(0.5, 3, len(chance))
    found = reliability.calibration(chance, hidden, weight, n_bins=5)
    order = np.argsort(chance)
    share = np.cumsum((weight * chance)[order]) / (weight * chance).sum()
    parts = np.split(order, np.searchsorted(share, [0.2, 0.4, 0.6, 0.8]))
    sums = [(weight[p].sum(), (weight * chance)[p].sum(), (weight * hidden)[p].sum()) for p in parts]
    np.testing.assert_allclose(found["predicted"], [e / w for w, e, _ in sums], rtol=2e-3)
    np.testing.assert_allclose(found["observed"], [o / w for w, _, o in sums], rtol=0.05)
    ece = sum(abs(o - e) for _, e, o in sums) / weight.sum()
    assert found["ece"] == pytest.approx(ece, rel=0.1)
    assert found["relative_ece"] == pytest.approx(ece * weight.sum() / (weight * chance).sum(), rel=0.1)
    regression = LogisticRegression(C=np.inf, tol=1e-10).fit(logit(chance)[:, None], hidden, sample_weight=weight)
    assert found["slope"] == pytest.approx(regression.coef_[0, 0], rel=1e-3)
    assert found["intercept"] == pytest.approx(regression.intercept_[0], abs=5e-3)


def test_nothing_hidden_has_no_slope():
    assert np.isnan(reliability.cox(np.arange(3.0), np.zeros(3), np.ones(3))).all()


def test_model_logits_and_products_are_the_dense_ones():
    rng = np.random.default_rng(0)
    h, w, b, s = rng.normal(size=(7, 3)), rng.normal(size=(11, 3)), rng.normal(size=11), rng.normal(size=7)
    cells, peaks = rng.integers(0, 7, 50), rng.integers(0, 11, 50)
    np.testing.assert_allclose(recovery.model_logits(h, w, b, s, cells, peaks), (h @ w.T + b + s[:, None])[cells, peaks])
    np.testing.assert_allclose(recovery.products(h, w, cells, peaks), (h @ w.T)[cells, peaks])


@pytest.mark.parametrize("n_neighbors", [5, 500])
def test_neighbour_average_is_the_mean_of_the_nearest_others(n_neighbors):
    _, kept, _ = some_open()
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(60, 4))
    scored = np.array([3, 10, 59])
    cells, peaks = rng.integers(0, 3, 200), rng.integers(0, 400, 200)
    average = separation.nearest_average(latent, scored, n_neighbors)
    (found,) = recovery.neighbour_average(kept, average, [(cells, peaks)])
    dense = kept.toarray()
    for cell, peak, value in zip(cells, peaks, found, strict=True):
        distance = np.linalg.norm(latent - latent[scored[cell]], axis=1)
        near = np.argsort(distance)[1 : n_neighbors + 1]
        assert value == pytest.approx(dense[near, peak].mean(), abs=1e-6)


def test_tfidf_svd_rebuilds_the_best_of_its_rank():
    _, kept, _ = some_open()
    left, right = recovery.tfidf_svd(kept, 8, 0)
    dense = kept.toarray()
    idf = np.log1p(60 / np.maximum(dense.sum(0), 1)) * (dense.sum(0) > 0)
    weighted = np.log1p(1e4 * dense / dense.sum(1, keepdims=True) * idf)
    u, size, v = np.linalg.svd(weighted, full_matrices=False)
    best = np.linalg.norm(weighted - (u[:, :8] * size[:8]) @ v[:8])
    assert np.linalg.norm(weighted - left @ right.T) == pytest.approx(best, rel=0.01)


def test_ranks_within_a_peak_compare_with_its_closed_cells_of_like_depth():
    opened, kept, gone = some_open(n_cells=200)
    hidden, depth = recovery.entries_of(gone), np.diff(kept.indptr)
    table = np.random.default_rng(0).random(opened.shape)
    seen = []

    def score(cells, peaks):
        seen.append((cells, peaks))
        return table[cells, peaks]

    below, rank = trust.within_peak_ranks(hidden, opened, depth, score, np.random.default_rng(0))
    dense = opened.toarray() > 0
    order = np.argsort(depth, kind="stable")
    for i in range(0, len(below), 37):
        cell, peak = hidden[0][i], hidden[1][i]
        place = np.flatnonzero(order == cell)[0]
        near = order[max(place - 25, 0) : place + 26]
        assert np.isfinite(below[i]) and 0 < rank[i] < 1
        pool = table[near, peak][~dense[near, peak]]
        assert (pool < table[cell, peak]).mean() == pytest.approx(below[i], abs=0.35)
    assert np.nanmean(below) == pytest.approx(0.5, abs=0.03)
    known = rank[np.isfinite(rank)]
    assert np.abs(np.histogram(known, 5, (0, 1))[0] / len(known) - 0.2).max() < 0.05  # uniform: the score says nothing
    truth = trust.within_peak_ranks(
        hidden, opened, depth, lambda cells, peaks: gone.toarray()[cells, peaks], np.random.default_rng(0)
    )
    assert np.nanmin(truth[0]) == 1


def lehmann(n_peaks, per_peak, alpha, seed=0):
    """Ranks of hidden entries with density alpha u^(alpha − 1), a peak each row."""
    rng = np.random.default_rng(seed)
    peaks = np.repeat(np.arange(n_peaks), per_peak)
    return peaks, rng.random(len(peaks)) ** (1 / np.asarray(alpha)[peaks])


def test_where_no_peak_is_recovered_none_is_trusted():
    peaks, rank = lehmann(1000, 8, np.ones(1000))
    rates = trust.false_sign_rates(peaks, rank, np.zeros(1000, int))
    assert trust.trusted(rates, 0.05).sum() <= 5


@pytest.mark.parametrize("level", [0.05, 0.2])
def test_the_share_of_false_trust_is_what_was_asked(level):
    alpha = np.where(np.arange(4000) % 2 == 0, 1.0, 4.0)
    peaks, rank = lehmann(4000, 10, alpha)
    chosen = trust.trusted(trust.false_sign_rates(peaks, rank, np.zeros(4000, int)), level)
    assert chosen.sum() > 1000
    assert (alpha[chosen] == 1).mean() <= 1.5 * level


def test_a_peak_with_few_hidden_entries_leans_on_its_group():
    n = 1000
    alpha = np.r_[np.full(n, 1.0), np.full(n, 5.0)]
    peaks, rank = lehmann(2 * n, 6, alpha)
    missing = np.r_[np.arange(20), n + np.arange(20)]  # nothing hidden at these
    keep = ~np.isin(peaks, missing)
    group = np.repeat([0, 1], n)
    rates = trust.false_sign_rates(peaks[keep], rank[keep], group)
    assert rates[:20].min() > 0.5 and rates[n : n + 20].max() < 0.2
    assert trust.false_sign_rates(peaks[:0], rank[:0], group).min() == 1  # nothing known of any


def test_false_sign_rates_are_the_posterior_of_the_fitted_mixture():
    """Bayes' rule by numerical integration over alpha, with the prior the function found."""
    from scipy.integrate import quad
    from scipy.stats import gamma

    n, total = np.array([4.0, 10, 0]), np.array([1.5, 14, 0])
    null, shape, rate = 0.4, 3.0, 1.5
    found = trust.no_better(n, total, null, shape, rate)
    for one, n_j, t_j in zip(found, n, total, strict=True):
        weighed = lambda a, n_j=n_j, t_j=t_j: a**n_j * np.exp(-a * t_j) * gamma.pdf(a, shape, scale=1 / rate)  # noqa: E731
        below, above = quad(weighed, 0, 1)[0], quad(weighed, 1, 60)[0]
        point = null / (1 - null) * np.exp(-t_j)
        assert one == pytest.approx((point + below) / (point + below + above), rel=1e-6)


def test_trusted_takes_as_many_as_the_level_allows():
    rates = np.array([0.5, 0.01, 0.09, 0.02, 1.0])
    np.testing.assert_array_equal(trust.trusted(rates, 0.05), [False, True, True, True, False])
    np.testing.assert_array_equal(trust.trusted(rates, 0.001), np.zeros(5, bool))
    assert trust.trusted(np.zeros(3), 0.05).all()


def test_like_peaks_are_groups_of_enough_size():
    rng = np.random.default_rng(0)
    frequency, spread = rng.integers(0, 50, 3000), rng.random(3000)
    group = trust.like_peaks(frequency, spread)
    assert np.bincount(group)[np.unique(group)].min() >= 190 and len(np.unique(group)) > 9
    assert len(np.unique(trust.like_peaks(frequency[:150], spread[:150]))) == 1


def test_metacell_correlation_leaves_the_cell_out():
    opened, _, _ = some_open(n_cells=30)
    cluster = np.arange(30) % 3
    cluster[28], cluster[29] = -1, 3  # in none; alone in its own
    imputed = np.random.default_rng(0).random(opened.shape)
    cells = np.array([0, 4, 28, 29, 11])
    measured, filled = metacells.metacell_correlation(opened, cluster, cells, lambda index: imputed[index])
    dense = opened.toarray()
    for i, cell in enumerate(cells):
        if cell in (28, 29):
            assert np.isnan(measured[i]) and np.isnan(filled[i])
            continue
        others = (cluster == cluster[cell]) & (np.arange(30) != cell)
        meta = dense[others].mean(0)
        assert measured[i] == pytest.approx(np.corrcoef(dense[cell], meta)[0, 1], abs=1e-5)
        assert filled[i] == pytest.approx(np.corrcoef(imputed[cell], meta)[0, 1], abs=1e-5)
