"""UMAP's layout by epochs that move all cells at once: its gradients, its steps, its quality."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.manifold import trustworthiness
from sklearn.metrics import silhouette_score

from scale_toolkit.core import layout as module
from scale_toolkit.core.compiled import keep_umaps
from scale_toolkit.core.layout import (
    EXTENT,
    N_REPELLING,
    gradients,
    interpolate,
    lay_out,
    principal_start,
)

keep_umaps()  # importing umap warns without it
from umap.umap_ import find_ab_params, fuzzy_simplicial_set, simplicial_set_embedding  # noqa: E402

A, B = (float(value) for value in find_ab_params(1.0, 0.1))
BITS64 = (1 << 64) - 1


def phi(square):
    return 1 / (1 + A * square**B)


@pytest.mark.parametrize("distance", [0.05, 0.3, 1.0, 2.5, 9.0, 60.0])
def test_gradients_are_those_of_the_cross_entropy(distance):
    """Central differences of log φ and log (1 - φ) in the distance."""
    attraction, repulsion = gradients(A, B)
    step, square = 1e-6 * distance, np.float32(distance**2)
    near, far = (distance - step) ** 2, (distance + step) ** 2
    pull = (np.log(phi(far)) - np.log(phi(near))) / (2 * step)
    push = (np.log1p(-phi(far)) - np.log1p(-phi(near))) / (2 * step)
    assert interpolate(attraction, square) * distance == pytest.approx(pull, rel=2e-4)
    guard = distance**2 / (0.001 + distance**2)
    assert interpolate(repulsion, square) * distance == pytest.approx(push * guard, rel=2e-4)


def test_the_table_is_within_its_error_everywhere_and_ends_at_its_ends():
    attraction, repulsion = gradients(A, B)
    squares = np.geomspace(2.0**-30, 2.0**14, 5001).astype(np.float32)
    exact = squares.astype(float)
    for table, formula in (
        (attraction, -2 * A * B * exact ** (B - 1) * phi(exact)),
        (repulsion, 2 * B * phi(exact) / (0.001 + exact)),
    ):
        np.testing.assert_allclose([interpolate(table, s) for s in squares], formula, rtol=2e-4)
        assert interpolate(table, np.float32(0)) == table[0]
        assert interpolate(table, np.float32(1e9)) == interpolate(table, np.float32(2.0**14))


def moved(weights, start, n_epochs, seed):
    """The same epochs in plain Python, with powers and integers of any size."""
    rates = weights.toarray() / weights.max()
    old = start.astype(float)
    n_cells = len(old)
    for epoch in range(1, n_epochs + 1):
        step = 1 - (epoch - 1) / n_epochs
        new = old.copy()
        for i in range(n_cells):
            state = (seed + 0x9E3779B97F4A7C15 * (epoch * n_cells + i)) & BITS64
            state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & BITS64
            state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & BITS64
            state = (state ^ (state >> 31)) | 1
            for j in weights.indices[weights.indptr[i] : weights.indptr[i + 1]]:
                if np.floor(epoch * rates[i, j]) == np.floor((epoch - 1) * rates[i, j]):
                    continue
                apart = new[i] - old[j]
                square = max(apart @ apart, 2.0**-30)
                pull = -2 * A * B * square ** (B - 1) * phi(square) * apart
                new[i] += 2 * step * np.clip(pull, -4, 4)
                for _ in range(N_REPELLING):
                    state ^= (state << 13) & BITS64
                    state ^= state >> 7
                    state ^= (state << 17) & BITS64
                    k = ((state >> 32) * n_cells) >> 32
                    if k != i:
                        apart = new[i] - old[k]
                        square = max(apart @ apart, 2.0**-30)
                        push = 2 * B * phi(square) / (0.001 + square) * apart
                        new[i] += step * np.clip(push, -4, 4)
        old = new
    return old


@pytest.mark.parametrize("n_epochs", [1, 3])
def test_epochs_are_those_of_a_plain_implementation(monkeypatch, n_epochs):
    rng = np.random.default_rng(4)
    upper = sparse.random(40, 40, 0.15, random_state=5, data_rvs=lambda n: rng.integers(1, 5, n) / 4)
    weights = (upper.maximum(upper.T)).tocsr()
    start = rng.uniform(0, EXTENT, (40, 2)).astype(np.float32)
    monkeypatch.setattr(module, "N_EPOCHS", n_epochs)
    result = lay_out(weights, start, A, B, seed=7, n_threads=1)
    np.testing.assert_allclose(result, moved(weights, start, n_epochs, 7), atol=5e-3)
    assert np.abs(result - start).max() > 1


def types(n_cells=3000, n_types=6, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.arange(n_cells) % n_types
    points = 5 * rng.normal(size=(n_types, 8))[truth] + rng.normal(size=(n_cells, 8))
    graph, *_ = fuzzy_simplicial_set(points, 15, np.random.RandomState(1), "euclidean")
    return points, truth, graph.tocsr()


def test_the_layout_is_as_good_as_umap_learns():
    points, truth, graph = types()

    def quality(picture):
        return trustworthiness(points, picture), silhouette_score(picture, truth)

    theirs = [
        quality(
            simplicial_set_embedding(
                points, graph.copy(), 2, 1.0, A, B, 1.0, 5, 200, "spectral",
                np.random.RandomState(seed), "euclidean", {},
                densmap=False, densmap_kwds={}, output_dens=False,
            )[0]
        )
        for seed in range(3)
    ]  # fmt: skip
    ours = [
        quality(lay_out(graph, principal_start(points, seed), A, B, seed=seed)) for seed in range(3)
    ]
    trusted, separated = np.mean(ours, axis=0)
    assert trusted > np.min(theirs, axis=0)[0] - 0.002
    assert separated > np.min(theirs, axis=0)[1] - 0.05
    # it is the epochs that make it so
    assert trusted > quality(principal_start(points, 0))[0] + 0.02


def test_threads_change_nothing_and_seeds_do():
    points, _, graph = types(2500)
    start = principal_start(points, 0)
    one, two = (lay_out(graph, start, A, B, seed=3, n_threads=n) for n in (1, 2))
    assert one.tobytes() == two.tobytes()
    assert one.dtype == np.float32 and one.shape == (2500, 2)
    assert (lay_out(graph, start, A, B, seed=4, n_threads=2) != one).any()


def test_the_start_is_principal_components_within_the_extent():
    from sklearn.decomposition import PCA

    points = np.random.default_rng(0).normal(size=(200, 5)) * [1, 9, 2, 4, 1] + 30
    start = principal_start(points, 1)
    expected = PCA(2).fit_transform(points)
    for axis in range(2):
        assert abs(np.corrcoef(start[:, axis], expected[:, axis])[0, 1]) > 0.999999
    np.testing.assert_allclose([start.min(0), start.max(0)], [[0, 0], [EXTENT, EXTENT]], atol=1e-3)


@pytest.mark.parametrize("kind", ["constant", "line", "one dimension"])
def test_points_without_two_dimensions_start_at_random(kind):
    line = np.linspace(-1, 1, 60)[:, None]
    points = {"constant": np.ones((60, 4)), "line": line * [1, 2, -3], "one dimension": line}[kind]
    start = principal_start(points, 1)
    assert np.isfinite(start).all() and start.std(axis=0).min() > 1
    assert len(np.unique(start, axis=0)) == 60


def test_equal_points_start_apart():
    points = np.repeat(np.random.default_rng(0).normal(size=(10, 4)), 20, axis=0)
    assert len(np.unique(principal_start(points, 1), axis=0)) == 200
