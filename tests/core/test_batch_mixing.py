"""Mixing of batches, on clouds whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from scale_toolkit.core.batch_mixing import batch_auroc, batch_mixing, compare, neighbour_purity


def clouds(shift, rng, n=200):
    """Two types in each of two batches, the second batch shifted."""
    types, codes = np.tile([0, 1], n), np.repeat([0, 1], n)
    return rng.normal(0, 1, (2 * n, 3)) + types[:, None] * [8, 0, 0] + codes[:, None] * [0, shift, 0], types, codes


def test_batches_apart_and_mixed():
    rng = np.random.default_rng(0)
    apart, _, codes = clouds(10, rng)
    mixed, _, _ = clouds(0, rng)
    assert batch_auroc(apart, codes) > 0.99
    assert abs(batch_auroc(mixed, codes) - 0.5) < 0.08
    assert batch_mixing(apart, codes, 2).max() < 0.02
    np.testing.assert_allclose(batch_mixing(mixed, codes, 2), 1, atol=0.1)


def test_mixing_is_relative_to_the_sizes():
    rng = np.random.default_rng(1)
    codes = (rng.random(3000) < 0.1).astype(int)
    np.testing.assert_allclose(batch_mixing(rng.normal(size=(3000, 4)), codes, 2), 1, atol=0.1)


def test_purity_falls_where_types_are_merged():
    rng = np.random.default_rng(2)
    before, types, codes = clouds(10, rng)
    after = before.copy()
    after[codes == 1, 0] -= 8 * types[codes == 1]  # the types of the second batch lie together
    first, second = compare((before, after), codes, 2, 0)
    assert (first.purity > 0.99).all()
    assert second.purity[0] > 0.99
    assert second.purity[1] == pytest.approx(0.5, abs=0.1)
    assert neighbour_purity(before, types) > 0.99


def test_a_batch_without_clusters_or_with_few_cells_has_no_purity():
    rng = np.random.default_rng(3)
    space, codes = rng.normal(size=(430, 10)), np.repeat([0, 1, 2], [400, 20, 10])
    figures, _ = compare((space, space), codes, 3, 0)
    assert np.isnan(figures.purity).all()
    assert np.isnan(batch_auroc(space[:20], np.arange(20) // 7))


def test_of_many_cells_a_sample_is_looked_at(monkeypatch):
    rng = np.random.default_rng(4)
    space, _, codes = clouds(10, rng, 600)
    full, _ = compare((space, space), codes, 2, 0)
    monkeypatch.setattr("scale_toolkit.core.batch_mixing.MOST_CELLS", 400)
    some, _ = compare((space, space), codes, 2, 0)
    np.testing.assert_allclose(some.purity, full.purity, atol=0.02)
    assert some.auroc == pytest.approx(full.auroc, abs=0.02)
