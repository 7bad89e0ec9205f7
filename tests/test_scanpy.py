"""scanpy's own calls in the locked environment, at sizes at which scanpy changes its algorithm.

From 4,096 cells on (8,192 for the Euclidean metric) scanpy searches with pynndescent. Version 0.7
of it returns a csr_array, and scanpy 1.11 and 1.12 then fail: they call getnnz, which a csr_array
lacks.
"""

from __future__ import annotations

from types import SimpleNamespace

import anndata
import numpy as np
import pytest
import scanpy as sc
from pynndescent import PyNNDescentTransformer
from scanpy.neighbors._common import _get_indices_distances_from_sparse_matrix


def test_scanpy_reads_what_pynndescents_transformer_returns():
    indices = np.array([[0, 1], [1, 2], [2, 1]])
    distances = np.array([[0.0, 0.5], [0.0, 0.3], [0.0, 0.3]], dtype=np.float32)
    transformer = PyNNDescentTransformer(n_neighbors=2)
    transformer.n_samples_fit = 3
    transformer.index_ = SimpleNamespace(neighbor_graph=(indices, distances))
    read_indices, read_distances = _get_indices_distances_from_sparse_matrix(transformer.transform(None), 2)
    np.testing.assert_array_equal(read_indices, indices)
    np.testing.assert_array_equal(read_distances, distances)


@pytest.mark.timeout(2400)  # pynndescent compiles for a minute on an idle machine
def test_scanpys_neighbours_of_five_thousand_cells():
    rng = np.random.default_rng(0)
    cells = anndata.AnnData(rng.normal(size=(5_000, 6)).astype(np.float32))
    sc.pp.neighbors(cells, n_neighbors=10, use_rep="X", metric="cosine", random_state=0)
    assert cells.obsp["distances"].shape == (5_000, 5_000)
    sc.tl.leiden(cells, flavor="igraph", n_iterations=2, directed=False, random_state=0)
    assert cells.obs["leiden"].notna().all()
