"""The checked latent matrix and its neighbour graph, for all stages on the latent space."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from scale_toolkit import keys
from scale_toolkit.core.compiled import keep_umaps
from scale_toolkit.core.neighbors import nearest_neighbors
from scale_toolkit.errors import InputError, ScaleWarning

log = logging.getLogger("scale_toolkit")

#: Up to this many cells neighbours are searched exactly (13 s of processor time at 100,000); above,
#: by nearest-neighbour descent, as scanpy does, which finds all but some in a thousand.
EXACT_UP_TO = 100_000

#: Up to this many, by scikit-learn: a UMAP layout shows the last bit of every distance.
SCIKIT_LEARN_UP_TO = 10_000


def latent_of(adata: AnnData) -> np.ndarray:
    """Return the latent space as a finite float64 array (cells × latent), or raise `InputError`
    naming ``train``.
    """
    latent = np.asarray(keys.LATENT.get(adata), dtype=np.float64)
    if latent.ndim != 2 or 0 in latent.shape:
        raise InputError(
            f"{keys.LATENT} has shape {latent.shape}",
            "cells × latent, neither 0",
            "run `scale train` again",
        )
    check_finite(latent, keys.LATENT)
    return latent


def check_finite(values: np.ndarray, slot: keys.Slot) -> None:
    """Raise `InputError` if a slot that ``train`` writes holds NaN or infinity."""
    bad = int((~np.isfinite(values)).any(axis=1).sum())
    if bad:
        raise InputError(
            f"{slot} is NaN or infinite in {bad:,} of {len(values):,} cells",
            "finite numbers",
            "run `scale train` again",
        )


def neighbor_graph(
    latent: np.ndarray, n_neighbors: int, *, seed: int, n_threads: int = 0
) -> AnnData:
    """Compute the neighbour graph of the latent space by `scanpy.pp.neighbors`.

    Parameters
    ----------
    latent
        Cells × latent, at least two cells.
    n_neighbors
        Neighbours of a cell, itself included (as scanpy counts); if there are fewer cells, all
        of them, with a warning.
    seed
        Used by the approximate search (above `EXACT_UP_TO` cells); the exact one is deterministic.
    n_threads
        Threads of the search; 0 for all.

    Returns
    -------
    An AnnData that holds the latent space and scanpy's slots: ``uns['neighbors']``,
    ``obsp['distances']``, ``obsp['connectivities']`` (symmetric, weights in (0, 1]).
    """
    n_cells = len(latent)
    if n_cells < n_neighbors:
        warnings.warn(
            f"{n_cells} cells are fewer than n_neighbors {n_neighbors}: every cell is every "
            "other's neighbour",
            ScaleWarning,
            stacklevel=2,
        )
        n_neighbors = n_cells
    keep_umaps()
    graph = AnnData(obsm={keys.LATENT.name: latent})
    search = _Search(n_neighbors, seed, n_threads)
    sc.pp.neighbors(graph, use_rep=keys.LATENT.name, transformer=search, random_state=seed)
    # the search tree is larger than the graph, and no stage reads it
    graph.uns["neighbors"].pop("rp_forest", None)
    return graph


class _Search:
    """Search for the nearest neighbours of each cell, with the interface that scanpy expects."""

    def __init__(self, n_neighbors: int, seed: int, n_threads: int) -> None:
        self.n_neighbors, self.seed, self.n_threads = n_neighbors, seed, n_threads

    def get_params(self) -> dict[str, int]:
        """Return what scanpy reads: the number of neighbours, the cell itself included."""
        return {"n_neighbors": self.n_neighbors}

    def fit_transform(self, latent: np.ndarray) -> sparse.csr_matrix:
        """Cells × cells: the distances to the ``n_neighbors - 1`` nearest others, nearest first."""
        if SCIKIT_LEARN_UP_TO < len(latent) <= EXACT_UP_TO:
            return _graph_of(*nearest_neighbors(latent, self.n_neighbors - 1, self.n_threads))
        if len(latent) <= EXACT_UP_TO:
            # called without points, it leaves out each cell itself, even if others have the same
            # coordinates
            search = NearestNeighbors(
                n_neighbors=self.n_neighbors - 1, algorithm="brute", n_jobs=self.n_threads or -1
            )
            return search.fit(latent).kneighbors_graph(mode="distance")
        return _without_self(*self._descend(latent))

    def _descend(self, latent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices and distances (both cells × n_neighbors) by nearest-neighbour descent, mostly
        with the cell itself.
        """
        # it compiles for half a minute, so it is imported only if needed
        from pynndescent import NNDescent

        n_cells = len(latent)
        return NNDescent(
            latent.astype(np.float32),
            n_neighbors=self.n_neighbors,
            # trees and rounds as UMAP sets them
            n_trees=min(64, 5 + round(n_cells**0.5 / 20)),
            n_iters=max(5, round(np.log2(n_cells))),
            random_state=self.seed,
            n_jobs=self.n_threads or -1,
        ).neighbor_graph


def _without_self(indices: np.ndarray, distances: np.ndarray) -> sparse.csr_matrix:
    """Drop each cell from its own neighbours, or the last neighbour if the cell is not among
    them.
    """
    n_cells, n_found = indices.shape
    keep = indices != np.arange(n_cells)[:, None]
    keep[keep.all(axis=1), -1] = False
    shape = (n_cells, n_found - 1)
    return _graph_of(indices[keep].reshape(shape), distances[keep].reshape(shape))


def _graph_of(indices: np.ndarray, distances: np.ndarray) -> sparse.csr_matrix:
    """Store indices and distances (both cells × neighbours) as cells × cells."""
    n_cells, n_neighbors = indices.shape
    indptr = np.arange(n_cells + 1) * n_neighbors
    return sparse.csr_matrix(
        (distances.ravel().astype(np.float64), indices.ravel(), indptr), shape=(n_cells, n_cells)
    )
