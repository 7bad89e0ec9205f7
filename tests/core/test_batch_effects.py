"""Factors of batches: planted ones are found, chance is not mistaken for one, few cells are shrunk."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from scale_toolkit.core.batch_effects import BatchEffects, fit_batch_effects, fit_factors
from scale_toolkit.core.rows import MatrixRows

N_PEAKS = 3000


def planted(rng, sizes, spread):
    """Log factors of batches, and the open cells of each peak in batches of these sizes."""
    rates = np.exp(rng.normal(-3, 0.8, N_PEAKS))
    logs = rng.normal(0, spread, (len(sizes), N_PEAKS))
    sums = rng.binomial(np.array(sizes)[:, None], np.minimum(rates * np.exp(logs), 0.9))
    return logs, sums.astype(float)


def test_planted_factors_are_found():
    logs, sums = planted(np.random.default_rng(0), [3000, 3000, 3000], 0.4)
    factors = fit_factors(sums, np.arange(3)[:, None])
    for found, true in zip(np.log(factors), logs - logs.mean(0), strict=True):
        assert np.corrcoef(found, true)[0, 1] > 0.95
        assert 0.7 < found.std() / true.std() < 1.1


@pytest.mark.parametrize("seed", range(5))
def test_chance_is_no_effect(seed):
    _, sums = planted(np.random.default_rng(seed), [200, 300, 20], 0)
    factors = fit_factors(sums, np.arange(3)[:, None])
    assert (np.abs(np.log(factors)) < 0.1).all()
    assert (factors == 1).all() or seed > 0


def test_the_factors_of_few_cells_stay_near_one():
    _, sums = planted(np.random.default_rng(1), [2000, 2000, 12], 0.4)
    factors = fit_factors(sums, np.arange(3)[:, None])
    spread = np.log(factors).std(1)
    raw = np.log((sums[2] + 0.5) / (sums.sum(0) * sums[2].sum() / sums.sum() + 0.5)).std()
    assert spread[2] < 0.3 * raw
    assert spread[2] < spread[0]


def test_factors_of_two_columns_are_separated():
    rng = np.random.default_rng(2)
    rates = np.exp(rng.normal(-3, 0.8, N_PEAKS))
    batch, donor = (rng.normal(0, 0.4, (2, N_PEAKS)) for _ in range(2))
    levels = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    # unbalanced: with one column the other's effect is mistaken for it
    sizes = np.array([4000, 400, 400, 4000])
    p = np.minimum(rates * np.exp(batch[levels[:, 0]] + donor[levels[:, 1]]), 0.9)
    sums = rng.binomial(sizes[:, None], p).astype(float)
    difference = batch[1] - batch[0]
    errors = []
    for columns in (levels[:, :1], levels):
        logs = np.log(fit_factors(sums, columns))
        errors.append(np.square(logs[2] - logs[0] - difference).mean())
    assert errors[1] < 0.5 * errors[0]


def test_the_average_batch_is_one_and_weights_are_divided():
    rng = np.random.default_rng(3)
    codes = np.repeat([0, 1], 300)
    rates = np.exp(rng.normal(-2, 0.5, (1, 400)) + rng.normal(0, 0.4, (2, 400)))
    matrix = sparse.csr_matrix((rng.random((600, 400)) < rates[codes]).astype(np.float32))
    effects = fit_batch_effects(MatrixRows(matrix), codes, np.array([[0], [1]]))
    totals = np.array([matrix[codes == code].sum() for code in (0, 1)])
    np.testing.assert_allclose(totals @ effects.factors / totals.sum(), 1, rtol=1e-5)
    assert (np.sign(effects.logits) == np.sign(np.log(effects.factors))).all()
    weights = np.ones(matrix.nnz, np.float32)
    pointers = matrix.indptr.astype(np.int64)
    effects.divide(matrix.indices, pointers, weights)
    row = np.repeat(codes, np.diff(matrix.indptr))
    np.testing.assert_allclose(weights, 1 / effects.factors[row, matrix.indices], rtol=1e-6)
    some = np.ones(matrix.indptr[30] - matrix.indptr[10], np.float32)
    effects.divide(matrix.indices, pointers, some, (10, 30))
    np.testing.assert_array_equal(some, weights[matrix.indptr[10] : matrix.indptr[30]])


def test_cells_are_chosen_with_their_batches():
    effects = BatchEffects(np.array([0, 1, 1], np.int32), np.ones((2, 4), np.float32), np.zeros((2, 4), np.float32))
    assert effects.chosen(np.array([2, 0])).codes.tolist() == [1, 0]
