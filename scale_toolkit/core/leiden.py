"""Leiden's partition of a weighted graph, by igraph or by leidenalg, without touching the
caller's random generators.

Both engines maximise the same quality: modularity with a resolution (Reichardt & Bornholdt 2006,
eq. 8; Traag, Waltman & van Eck 2019). igraph is several times faster; leidenalg is the reference
implementation by the method's author.
"""

from __future__ import annotations

import io
import random
import subprocess
import sys
from typing import Any

import igraph
import numpy as np
from scipy import sparse

#: Up to this many cells Leiden runs until the partition is stable; above, two rounds, as igraph's
#: and scanpy's documentation advise.
CONVERGE_UP_TO = 20_000
#: igraph takes 175 bytes an edge while it adds them and keeps 41: a million cells with 24 million
#: edges took 4.2 GB at once.
EDGES_AT_A_TIME = 1 << 22
#: Engines of `LeidenGraph`.
ENGINES = ("igraph", "leidenalg")


class LeidenGraph:
    """A neighbour graph that can be partitioned at any resolution.

    Parameters
    ----------
    connectivities
        Cells × cells, symmetric, with the weights of the edges.
    seed
        The same seed and resolution give the same partition.
    engine
        ``"igraph"`` or ``"leidenalg"``.
    """

    def __init__(self, connectivities: sparse.spmatrix, seed: int, engine: str = "igraph") -> None:
        edges = sparse.triu(connectivities, 1).tocoo()
        self._n_cells = int(connectivities.shape[0])
        self._edges = np.column_stack([edges.row, edges.col])
        self._weights = edges.data.astype(np.float64)
        self._graph = _graph(self._n_cells, self._edges)
        self._rounds = -1 if self._n_cells <= CONVERGE_UP_TO else 2
        self._seed = seed
        self._engine = engine

    def partition(self, resolution: float, seed: int | None = None) -> np.ndarray:
        """Return the cluster of each cell (int64, from 0)."""
        seed = self._seed if seed is None else seed
        membership: list[int] | np.ndarray
        if self._engine == "leidenalg":
            membership = self._by_leidenalg(resolution, seed)
        elif _igraph_draws_from_random():
            membership = self._by_igraph(resolution, seed)
        else:
            membership = self._by_igraph_apart(resolution, seed)
        return np.asarray(membership, dtype=np.int64)

    def _by_leidenalg(self, resolution: float, seed: int) -> list[int]:
        import leidenalg

        membership: list[int] = leidenalg.find_partition(
            self._graph,
            leidenalg.RBConfigurationVertexPartition,
            weights=self._weights,
            resolution_parameter=resolution,
            n_iterations=self._rounds,
            # leidenalg takes a C int; its generator is its own
            seed=seed % (2**31),
        ).membership
        return membership

    def _by_igraph(self, resolution: float, seed: int) -> list[int]:
        """Seed Python's `random`, from which igraph draws, and restore its state."""
        state = random.getstate()
        random.seed(seed)
        try:
            return _igraph_leiden(self._graph, self._weights, resolution, self._rounds)
        finally:
            random.setstate(state)

    def _by_igraph_apart(self, resolution: float, seed: int) -> np.ndarray:
        """Run in a process of its own: igraph has a generator set by the caller.

        igraph offers no way to read which generator is set, so replacing it could not be undone.
        """
        buffer = io.BytesIO()
        np.savez(buffer, edges=self._edges, weights=self._weights, n_cells=self._n_cells)
        arguments = [repr(resolution), str(self._rounds), str(seed)]
        answer = subprocess.run(
            [sys.executable, "-c", _APART, *arguments],
            input=buffer.getvalue(),
            stdout=subprocess.PIPE,
            check=True,
        )
        return np.frombuffer(answer.stdout, dtype=np.int64)


#: What the process of `_by_igraph_apart` runs: the call of `_igraph_leiden`, from bytes to bytes.
_APART = """
import io, random, sys
import igraph, numpy as np
data = np.load(io.BytesIO(sys.stdin.buffer.read()))
graph = igraph.Graph(int(data["n_cells"]), data["edges"])
random.seed(int(sys.argv[3]))
clusters = graph.community_leiden(
    "modularity", weights=data["weights"], resolution=float(sys.argv[1]),
    n_iterations=int(sys.argv[2]))
sys.stdout.buffer.write(np.asarray(clusters.membership, dtype=np.int64).tobytes())
"""


def _graph(n_cells: int, edges: np.ndarray) -> igraph.Graph:
    """Return a graph with these edges, (edges, 2), added a block at a time."""
    graph = igraph.Graph(n_cells)
    for first in range(0, len(edges), EDGES_AT_A_TIME):
        block = np.ascontiguousarray(edges[first : first + EDGES_AT_A_TIME], np.int64)
        graph.add_edges(block.data)
    return graph


def _igraph_leiden(graph: Any, weights: np.ndarray, resolution: float, rounds: int) -> list[int]:
    clusters = graph.community_leiden(
        "modularity", weights=weights, resolution=resolution, n_iterations=rounds
    )
    membership: list[int] = clusters.membership
    return membership


def _igraph_draws_from_random() -> bool:
    """Return whether igraph still uses its default generator, the module `random`."""
    state = random.getstate()
    try:
        random.seed(0)
        seeded = random.getstate()
        igraph.Graph.Erdos_Renyi(n=8, p=0.5)
        return bool(random.getstate() != seeded)
    finally:
        random.setstate(state)
