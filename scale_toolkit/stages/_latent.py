"""What the stages on the latent space share: the checked latent matrix and its neighbour graph."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import scanpy as sc
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from scale_toolkit import keys
from scale_toolkit.errors import InputError, ScaleWarning

if TYPE_CHECKING:
    from pynndescent import PyNNDescentTransformer
    from scipy.sparse import csr_matrix

log = logging.getLogger("scale_toolkit")

#: Up to this many cells neighbours are searched exactly (seconds a core at 20,000 cells, a minute at 100,000); above, by
#: nearest-neighbour descent, as scanpy does, which finds all but some in a thousand.
EXACT_UP_TO = 100_000


def latent_of(adata: AnnData) -> np.ndarray:
    """Return the latent space as a finite float64 array (cells × latent), or raise `InputError` naming ``train``."""
    latent = np.asarray(keys.LATENT.get(adata), dtype=np.float64)
    if latent.ndim != 2 or 0 in latent.shape:
        raise InputError(f"{keys.LATENT} has shape {latent.shape}", "cells × latent, neither 0", "run `scale train` again")
    check_finite(latent, keys.LATENT)
    return latent


def check_finite(values: np.ndarray, slot: keys.Slot) -> None:
    """Raise `InputError` where a slot that ``train`` writes holds NaN or infinity."""
    bad = int((~np.isfinite(values)).any(axis=1).sum())
    if bad:
        raise InputError(
            f"{slot} is NaN or infinite in {bad:,} of {len(values):,} cells", "finite numbers", "run `scale train` again"
        )


def neighbor_graph(latent: np.ndarray, n_neighbors: int, *, seed: int, n_threads: int = 0) -> AnnData:
    """Compute the neighbour graph of the latent space by `scanpy.pp.neighbors`.

    Parameters
    ----------
    latent
        Cells × latent, at least two cells.
    n_neighbors
        Neighbours of a cell, itself included (scanpy's way of counting); where there are fewer cells, all of them, with a
        warning.
    seed
        Used by the approximate search (above `EXACT_UP_TO` cells); the exact one has no chance in it.
    n_threads
        Threads of the search; 0 for all.

    Returns
    -------
    An AnnData that holds the latent space and scanpy's slots: ``uns['neighbors']``, ``obsp['distances']``,
    ``obsp['connectivities']`` (symmetric, weights in (0, 1]).
    """
    n_cells = len(latent)
    if n_cells < n_neighbors:
        warnings.warn(
            f"{n_cells} cells are fewer than n_neighbors {n_neighbors}: every cell is every other's neighbour",
            ScaleWarning,
            stacklevel=2,
        )
        n_neighbors = n_cells
    graph = AnnData(obsm={keys.LATENT.name: latent})
    search = (
        _ExactNeighbors(n_neighbors, n_threads) if n_cells <= EXACT_UP_TO else _descent(n_cells, n_neighbors, seed, n_threads)
    )
    sc.pp.neighbors(graph, use_rep=keys.LATENT.name, transformer=search, random_state=seed)
    graph.uns["neighbors"].pop("rp_forest", None)  # the search tree: larger than the graph, and nobody reads it
    return graph


class _ExactNeighbors:
    """The nearest neighbours of each cell, itself left out even where others lie on the same point."""

    def __init__(self, n_neighbors: int, n_threads: int) -> None:
        self.n_neighbors, self.n_threads = n_neighbors, n_threads

    def get_params(self) -> dict[str, int]:
        """What scanpy asks a search for: the number of neighbours, the cell itself included."""
        return {"n_neighbors": self.n_neighbors}

    def fit_transform(self, latent: np.ndarray) -> csr_matrix:
        """Cells × cells: the distances to the ``n_neighbors - 1`` nearest others, nearest first."""
        search = NearestNeighbors(n_neighbors=self.n_neighbors - 1, algorithm="brute", n_jobs=self.n_threads or -1)
        return search.fit(latent).kneighbors_graph(mode="distance")


def _descent(n_cells: int, n_neighbors: int, seed: int, n_threads: int) -> PyNNDescentTransformer:
    from pynndescent import PyNNDescentTransformer

    return PyNNDescentTransformer(
        n_neighbors=n_neighbors,
        n_trees=min(64, 5 + round(n_cells**0.5 / 20)),  # trees and rounds as UMAP sets them
        n_iters=max(5, round(np.log2(n_cells))),
        random_state=seed,
        n_jobs=n_threads or -1,
    )
