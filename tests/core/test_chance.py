"""Cells drawn from depth alone, held to the probabilities they are drawn from."""

import numpy as np
import pytest

from scale_toolkit.core.chance import draw_by_depth, noise_edge
from scale_toolkit.core.depth import depth_alone

DRAWS = 200


@pytest.fixture(scope="module")
def depth():
    """From sparse cells to cells that open nine of ten peaks."""
    rng = np.random.default_rng(0)
    rates = np.exp(rng.normal(-1.5, 1.5, 90)) * np.exp(rng.normal(0, 1.2, (60, 1)))
    chances = -np.expm1(-rates)
    return depth_alone(np.maximum(chances.sum(1), 1), np.maximum(chances.sum(0), 1))


@pytest.fixture(scope="module")
def drawn(depth):
    opened = np.zeros((DRAWS, 60, 90), bool)
    for seed, draw in enumerate(opened):
        peaks, pointers = draw_by_depth(depth, seed)
        draw[np.repeat(np.arange(60), np.diff(pointers)), peaks] = True
    return opened


def test_each_peak_is_open_with_its_probability(depth, drawn):
    chances = depth.shares.astype(float) @ depth.probabilities
    deviations = (drawn.sum(0) - DRAWS * chances) / np.sqrt(DRAWS * chances * (1 - chances))
    well_defined = DRAWS * np.minimum(chances, 1 - chances) > 5
    assert well_defined.mean() > 0.4
    assert abs(deviations[well_defined].mean()) < 0.1
    assert deviations[well_defined].std() == pytest.approx(1, abs=0.1)
    assert np.abs(deviations[well_defined]).max() < 5


def test_peaks_are_independent(depth, drawn):
    chances = depth.shares.astype(float) @ depth.probabilities
    residuals = drawn - chances
    expected = (chances * (1 - chances)).sum(1)
    assert residuals.sum(2).var(0).sum() == pytest.approx(expected.sum(), rel=0.1)
    expected = (chances * (1 - chances)).sum(0)
    assert residuals.sum(1).var(0).sum() == pytest.approx(expected.sum(), rel=0.1)


def test_rows_ascend_and_repeat_for_any_number_of_threads(depth):
    chosen = depth.chosen(np.tile(np.arange(60), 10))
    peaks, pointers = draw_by_depth(chosen, 3, 1)
    assert peaks.dtype == np.int32 and pointers.dtype == np.int64 and len(pointers) == 601
    rows = np.split(peaks, pointers[1:-1])
    assert all((np.diff(row) > 0).all() for row in rows)
    again = draw_by_depth(chosen, 3, 3)
    np.testing.assert_array_equal(peaks, again[0])
    np.testing.assert_array_equal(pointers, again[1])
    assert not np.array_equal(peaks[:200], draw_by_depth(chosen, 4, 1)[0][:200])


@pytest.mark.parametrize(("n_cells", "n_peaks"), [(300, 3000), (900, 600)])
@pytest.mark.parametrize("spread", [0.0, 0.4])
def test_the_edge_of_noise_is_the_largest_eigenvalue_of_random_vectors(n_cells, n_peaks, spread):
    rng = np.random.default_rng(1)
    variances = np.exp(rng.normal(0, spread, n_peaks))
    vectors = rng.normal(size=(n_cells, n_peaks)) * np.sqrt(variances)
    expected = np.linalg.eigvalsh(vectors @ vectors.T)[-1] - variances.sum()
    assert noise_edge(variances, n_cells) == pytest.approx(expected, rel=0.06)
    if spread == 0:  # the law of Marchenko and Pastur
        closed = (np.sqrt(n_cells) + np.sqrt(n_peaks)) ** 2 - n_peaks
        assert noise_edge(variances, n_cells) == pytest.approx(closed, rel=1e-3)


def test_nothing_has_no_edge():
    assert noise_edge(np.zeros(4), 10) == 0
