"""The graph that Leiden partitions, held to igraph's own constructor."""

import igraph
import numpy as np
from scipy import sparse

from scale_toolkit.core import leiden


def test_a_graph_of_several_blocks_of_edges_is_that_of_one(monkeypatch):
    rng = np.random.default_rng(0)
    upper = sparse.triu(sparse.random(200, 200, 0.1, random_state=rng), 1)
    weights = (upper + upper.T).tocsr()
    plain = leiden.LeidenGraph(weights, 1)
    monkeypatch.setattr(leiden, "EDGES_AT_A_TIME", 100)
    blocks = leiden.LeidenGraph(weights, 1)
    coordinates = sparse.triu(weights, 1).tocoo()
    pairs = np.column_stack([coordinates.row, coordinates.col])
    assert len(pairs) > 1000
    for made in (plain, blocks):
        assert made._graph.get_edgelist() == igraph.Graph(200, pairs).get_edgelist()
        assert made._graph.vcount() == 200
    np.testing.assert_array_equal(blocks.partition(1.0), plain.partition(1.0))
    assert len(np.unique(plain.partition(1.0))) > 1


def test_a_graph_without_edges_has_every_cell_alone():
    alone = leiden.LeidenGraph(sparse.csr_matrix((5, 5)), 1).partition(1.0)
    assert sorted(alone) == [0, 1, 2, 3, 4]
