"""The exact search for neighbours: what scikit-learn's finds, for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from scale_toolkit.core.neighbors import nearest_neighbors


@pytest.mark.parametrize(
    ("n_points", "n_dimensions", "n_neighbors", "scale", "offset"),
    [
        (2500, 12, 29, 1.0, 0.0),
        (1025, 3, 7, 1e-20, 0.0),
        (700, 5, 10, 1e25, 0.0),
        (400, 4, 10, 1.0, 1e5),
        (257, 1, 3, 1.0, 0.0),
        (6, 9, 5, 1.0, 0.0),
        (2, 2, 1, 1.0, 0.0),
    ],
)
def test_neighbors_are_scikit_learns(n_points, n_dimensions, n_neighbors, scale, offset):
    points = np.random.default_rng(n_points).normal(size=(n_points, n_dimensions)) * scale + offset
    indices, distances = nearest_neighbors(points, n_neighbors, 1)
    search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="kd_tree").fit(points)
    expected_distances, expected = search.kneighbors()
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-9)


def test_types_far_apart_keep_their_order():
    """Float32 alone cannot tell the distances within a tight type beside a distant one."""
    rng = np.random.default_rng(0)
    points = np.concatenate([1e-3 * rng.normal(size=(600, 3)), 50 + rng.normal(size=(600, 3))])
    indices, _ = nearest_neighbors(points, 10, 1)
    expected = NearestNeighbors(n_neighbors=10, algorithm="kd_tree").fit(points).kneighbors()[1]
    np.testing.assert_array_equal(indices, expected)


def test_equal_points_have_one_another_and_not_themselves():
    points = np.repeat(np.arange(20.0)[:, None] * [1, 2], 8, axis=0)
    indices, distances = nearest_neighbors(points, 7, 1)
    assert (distances == 0).all()
    assert (indices // 8 == np.arange(160)[:, None] // 8).all()
    assert (indices != np.arange(160)[:, None]).all()
    assert (np.diff(indices, axis=1) > 0).all()
    indices, distances = nearest_neighbors(np.ones((50, 3)), 5, 1)
    assert (distances == 0).all() and (indices != np.arange(50)[:, None]).all()


def test_threads_change_nothing():
    points = np.random.default_rng(1).normal(size=(3000, 6))
    first, second = (nearest_neighbors(points, 15, n_threads) for n_threads in (1, 2))
    assert [a.tobytes() for a in first] == [a.tobytes() for a in second]
