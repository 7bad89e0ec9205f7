"""``cluster --sketch``: a sketch of the cells is clustered, and the others follow their neighbours."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

from scale_toolkit import keys
from scale_toolkit.core import clustering
from scale_toolkit.errors import InputError
from scale_toolkit.stages.cluster import cluster
from scale_toolkit.stages.receipts import receipts


def blobs(n_cells=150, n_clusters=4, dims=5):
    rng = np.random.default_rng(0)
    truth = np.arange(n_cells) % n_clusters
    return 8.0 * rng.normal(size=(n_clusters, dims))[truth] + rng.normal(size=(n_cells, dims)), truth


def with_latent(latent) -> anndata.AnnData:
    cells = anndata.AnnData(obs=pd.DataFrame(index=[f"cell{i}" for i in range(len(latent))]))
    keys.LATENT.set(cells, np.asarray(latent, dtype=np.float32))
    return cells


def labels_of(cells) -> np.ndarray:
    return cells.obs["scale_cluster"].cat.codes.to_numpy()


def notes(cells) -> dict:
    return receipts(cells)[-1]["notes"]


def test_a_sketch_finds_the_clusters_of_all_cells():
    latent, truth = blobs(n_cells=900, n_clusters=5)
    cells = cluster(with_latent(latent), sketch=300, seed=1)
    assert adjusted_rand_score(truth, labels_of(cells)) > 0.99
    assert notes(cells)["sketch"] == 300
    assert not keys.CONNECTIVITIES.found_in(cells)  # the graph of the sketch does not fit all cells
    again = cluster(with_latent(latent), sketch=300, seed=1)
    np.testing.assert_array_equal(labels_of(again), labels_of(cells))
    other = cluster(with_latent(latent), sketch=300, seed=1, n_clusters=3)
    assert labels_of(other).max() == 2


def test_a_sketch_of_all_cells_is_none():
    latent, _ = blobs()
    plain, sketched = (cluster(with_latent(latent), **options) for options in ({}, {"sketch": 150}))
    np.testing.assert_array_equal(labels_of(plain), labels_of(sketched))
    assert "sketch" not in notes(sketched)


def test_cells_outside_a_sketch_follow_most_of_their_neighbours():
    points = np.array([[0.0], [0.1], [0.2], [5.0], [5.1]])
    labels = np.array([1, 1, 0, 2, 2])
    nearest = clustering.labels_by_neighbors(points, labels, np.array([[0.05], [5.2]]), 3)
    np.testing.assert_array_equal(nearest, [1, 2])
    everyone = clustering.labels_by_neighbors(points, labels, np.array([[9.0]]), 50)
    assert everyone[0] in (1, 2)


@pytest.mark.parametrize("options", [{"method": "kmeans"}, {"method": "gmm"}, {"stability": 3}], ids=str)
def test_a_sketch_is_for_leiden_alone(options):
    with pytest.raises(InputError, match="a sketch for Leiden alone"):
        cluster(with_latent(blobs()[0]), sketch=50, **options)


def test_more_clusters_than_cells_in_the_sketch_are_refused():
    with pytest.raises(InputError, match="20"):
        cluster(with_latent(blobs()[0]), sketch=10, n_clusters=20)
