"""The decoder and the cells on other peaks, placement, novelty: against outside oracles."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import kstest, multivariate_normal

from scale_toolkit.core import novelty as novelties
from scale_toolkit.core.carried import carry_cells, carry_decoder, covered_weight, overlap_shares
from scale_toolkit.core.fine_tuning import fine_tune
from scale_toolkit.core.mapping import joint_embedding, responsibilities
from scale_toolkit.core.novelty import Measured, aligned, conformal_p, novelty
from scale_toolkit.core.placement import PRECISION, Placement
from scale_toolkit.core.projection import unit_rows


def test_shares_are_those_of_bioframe():
    import bioframe

    rng = np.random.default_rng(0)
    tables = []
    for _ in range(2):
        start = np.sort(rng.choice(4000, 120, replace=False))
        table = pd.DataFrame({"chrom": rng.choice(["chr1", "chr2"], 120), "start": start})
        tables.append(table.assign(end=start + rng.integers(20, 90, 120)))
    names = [[f"{c}-{s}-{e}" for c, s, e in table.itertuples(index=False)] for table in tables]
    shares, named = overlap_shares(*names)
    joined = bioframe.overlap(
        *(table.assign(row=range(120)) for table in tables), how="inner", return_overlap=True
    )
    dense = np.zeros((120, 120))
    width = joined["overlap_end"] - joined["overlap_start"]
    dense[joined["row"].astype(int), joined["row_"].astype(int)] = width / (
        joined["end"] - joined["start"]
    )
    assert not named.any() and (dense > 0).sum() > 100
    np.testing.assert_allclose(shares.toarray(), dense)


def test_a_name_in_another_spelling_overlaps_that_peak_alone():
    shares, named = overlap_shares(
        ["chr1:0-100", "peak_7", "chr1:200-300", "chr1:300-400"],
        ["chr1-0-100", "chr1:50-150", "peak_7", "chr1:250-260"],
    )
    assert list(named) == [True, True, False, False]
    expected = np.zeros((4, 4))
    expected[0, 0] = expected[1, 2] = 1
    expected[2, 3] = 0.1
    np.testing.assert_array_equal(shares.toarray(), expected)
    # touching peaks share no base
    assert shares.nnz == 3
    loadings = np.array([[3.0, 4], [0, 0], [5, 0], [1, 0]])
    assert covered_weight(loadings, shares) == pytest.approx((25 + 2.5) / 51)


def test_cells_are_carried_by_the_share_of_the_width():
    shares = sparse.csr_matrix(np.array([[0.3, 0.5, 0], [0, 0, 1.0], [0, 0, 0]]))
    opened = sparse.csr_matrix(np.ones((20_000, 3), np.float32))
    carried = carry_cells(opened, shares, np.random.default_rng(0))
    assert carried.shape == (20_000, 3) and set(carried.data) == {1}
    np.testing.assert_allclose(carried.toarray().mean(0), [0.3, 0.5, 1], atol=0.015)
    # one read of a split peak falls in one half
    assert not (carried[:, 0].multiply(carried[:, 1])).nnz


def test_the_carried_decoder_has_the_gradient_of_the_sum():
    rng = np.random.default_rng(1)
    loadings, intercepts = rng.normal(size=(3, 4)), rng.normal(-7, 1, 3)
    shares = sparse.csr_matrix(np.array([[1.0, 0, 0], [0, 0.4, 0], [0, 0.7, 0]]))
    mean = rng.normal(size=4) / 4
    decoder = carry_decoder(shares, loadings, intercepts, mean, 0.2)
    assert list(decoder.peaks) == [0, 1]
    np.testing.assert_allclose(decoder.loadings[0], loadings[0])
    np.testing.assert_allclose(decoder.intercepts[0], intercepts[0])

    def log_odds(z):
        total = shares[:, 1].T @ expit(loadings @ z + intercepts + 0.2)
        return float(np.log(total / (1 - total))[0])

    gradient = [(log_odds(mean + step) - log_odds(mean - step)) / 2e-4 for step in 1e-4 * np.eye(4)]
    np.testing.assert_allclose(decoder.loadings[1], gradient, rtol=0.01, atol=0.01)
    assert decoder.loadings[1] @ mean + decoder.intercepts[1] + 0.2 == pytest.approx(log_odds(mean))


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(2)
    loadings, intercepts = rng.normal(size=(400, 3)) * 0.8, rng.normal(-2, 0.7, 400)
    latent = rng.normal(size=(30, 3))
    latent /= np.sqrt(np.square(latent).mean(1, keepdims=True))
    offset = rng.normal(0, 0.3, 30)
    p = expit(latent @ loadings.T + intercepts + offset[:, None])
    return (
        loadings,
        intercepts,
        latent,
        offset,
        sparse.csr_matrix((rng.random(p.shape) < p).astype(np.float32)),
    )


@pytest.mark.parametrize("is_expected", [False, True])
@pytest.mark.parametrize("free_offset", [True, False])
def test_a_placed_cell_is_at_the_optimum_of_scipy(model, free_offset, is_expected):
    loadings, intercepts, latent, _, opened = model
    placement = Placement(loadings, intercepts, latent.mean(0), 0.0, free_offset=free_offset)
    expected = 2 * np.roll(latent, 1, 0) if is_expected else np.zeros_like(latent)
    given = (expected,) if is_expected else ()
    z, s = placement(opened, np.zeros((30, 3)), np.zeros(30), *given)
    for cell in range(5):
        x = opened[cell].toarray().ravel()

        def loss(theta, x=x, z0=expected[cell]):
            eta = loadings @ theta[:3] + intercepts + (theta[3] if free_offset else 0)
            return (
                np.logaddexp(0, eta).sum()
                - x @ eta
                + PRECISION / 2 * np.square(theta[:3] - z0).sum()
            )

        best = minimize(loss, np.zeros(4)).x
        np.testing.assert_allclose(z[cell], best[:3], atol=0.02)
        np.testing.assert_allclose(s[cell], best[3] if free_offset else 0, atol=0.02)


@pytest.mark.parametrize("has_reference", [False, True])
def test_fine_tuning_learns_from_the_peaks_that_the_decoder_lacks(has_reference):
    """Three types; the decoder knows 80 peaks, the cells have 600 more that follow the types."""
    rng = np.random.default_rng(7)
    centers = np.sqrt(3) * np.eye(3)[rng.integers(0, 3, 400)]
    loadings, intercepts = rng.normal(size=(680, 3)), rng.normal(-2.5, 0.5, 680)
    p = expit(centers @ loadings.T + intercepts)
    opened = sparse.csr_matrix((rng.random(p.shape) < p).astype(np.float32))
    placement = Placement(loadings[:80], intercepts[:80], centers.mean(0), 0.0)
    known = None
    if has_reference:
        known = opened[300:].copy(), centers[300:]
        known[0].data[known[0].indices >= 80] = 0
        known[0].eliminate_zeros()
        opened, centers = opened[:300], centers[:300]
    covered = opened[:, :80]
    before, offset = placement(covered, np.zeros((len(centers), 3)), np.zeros(len(centers)))
    before = unit_rows(before)
    after, tuned = fine_tune(
        opened, covered, placement, before, offset, rng, on_sphere=True, known=known
    )
    np.testing.assert_allclose(np.square(after).mean(1), 1, atol=1e-4)
    assert tuned.shape == offset.shape and np.isfinite(tuned).all()
    errors = [np.square(z - centers).sum(1).mean() for z in (before, after)]
    assert errors[1] < 0.7 * errors[0]
    # peaks without any signal leave cells nearly where they were
    shuffled = sparse.hstack([covered, opened[rng.permutation(len(centers))][:, 80:]]).tocsr()
    unmoved = fine_tune(shuffled, covered, placement, before, offset, rng, on_sphere=True)[0]
    assert np.square(unmoved - centers).sum(1).mean() < 1.1 * errors[0]


def test_surprise_is_standard_under_the_decoder_and_high_for_other_peaks(model):
    loadings, intercepts, latent, offset, opened = model
    placement = Placement(loadings, intercepts, latent.mean(0), 0.0)
    surprise = placement.surprise(opened, latent, offset)
    assert abs(surprise.mean()) < 0.5 and 0.6 < surprise.std() < 1.4
    shuffled = opened[:, np.random.default_rng(0).permutation(400)]
    assert placement.surprise(shuffled, latent, offset).mean() > 3


def test_the_embedding_is_that_of_a_dense_decomposition():
    rng = np.random.default_rng(3)
    rows = [sparse.random(n, 60, 0.3, format="csr", random_state=n) for n in (25, 15)]
    first, second = joint_embedding(*rows, 4)
    dense = np.vstack([block.toarray() for block in rows])
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    left, values, _ = np.linalg.svd(dense, full_matrices=False)
    expected = (left * values)[:, 1:5]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    result = np.vstack([first, second])
    np.testing.assert_allclose(result @ result.T, expected @ expected.T, atol=1e-6)
    assert rng is not None


def test_responsibilities_are_those_of_the_densities():
    rng = np.random.default_rng(4)
    z, weights = rng.normal(size=(6, 2)), np.array([0.2, 0.5, 0.3])
    means, variances = rng.normal(size=(3, 2)), rng.uniform(0.5, 2, (3, 2))
    joint = np.column_stack(
        [
            w * multivariate_normal(m, np.diag(v)).pdf(z)
            for w, m, v in zip(weights, means, variances, strict=True)
        ]
    )
    np.testing.assert_allclose(
        responsibilities(z, weights, means, variances),
        joint / joint.sum(1, keepdims=True),
        rtol=1e-4,
    )


def measured(rng, n, shift=0.0):
    latent = rng.normal(size=(n, 3)) + shift
    spectral = np.hstack([latent, rng.normal(size=(n, 2))])
    return Measured(
        latent, rng.uniform(1, 2, n), rng.normal(size=n) + shift, rng.integers(50, 100, n), spectral
    )


def test_p_values_of_cells_like_the_reference_are_uniform_and_a_shift_is_found():
    rng = np.random.default_rng(5)
    reference, alike = measured(rng, 400), measured(rng, 300)
    own, scores = novelty(reference, alike)
    assert kstest(conformal_p(own, scores), "uniform").pvalue > 0.001
    other = measured(rng, 40, shift=4.0)
    mixed = Measured(
        *(
            np.concatenate([getattr(a, f), getattr(b, f)])
            for a, b in [(alike, other)]
            for f in vars(alike)
        )
    )
    reference_scores, scores = novelty(reference, mixed)
    scores, _ = aligned(reference_scores, scores)
    p = conformal_p(reference_scores, scores)
    assert (p[300:] < 0.05).mean() > 0.95 and (p[:300] < 0.05).mean() < 0.1


def test_alignment_takes_a_common_shift_away_and_leaves_a_lower_score():
    rng = np.random.default_rng(6)
    reference_scores = rng.normal(size=2000)
    query, shift = aligned(reference_scores, 2 * rng.normal(size=2000) + 3)
    assert shift == pytest.approx(3 - 0.67, abs=0.2)
    np.testing.assert_allclose(
        np.percentile(query, [25, 50]), np.percentile(reference_scores, [25, 50]), atol=0.15
    )
    lower = reference_scores - 1
    assert aligned(reference_scores, lower)[0] is lower


def test_conformal_p_counts_the_reference():
    np.testing.assert_allclose(
        conformal_p(np.array([3.0, 1, 2]), np.array([0.0, 2, 9])), [1, 3 / 4, 1 / 4]
    )
    assert novelties.LIMIT > 3
