"""``choose-k``: how many clusters the cells show, by three readings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.config import ChooseKConfig
from scale_toolkit.core.boundaries import CHOICE_REVISION, MAX_RATIO, find_splits
from scale_toolkit.core.choose_k import count_eigenvalues, read_splits
from scale_toolkit.core.leiden import LeidenGraph
from scale_toolkit.errors import InputError
from scale_toolkit.stages._latent import latent_of, neighbor_graph
from scale_toolkit.stages.stage import Result, stage

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.stages.stage import Progress

#: Random matrix theory is read on at most this many cells: the Gram matrix is dense.
MAX_CELLS_OF_GRAM = 2_000


def check(adata: AnnData, config: ChooseKConfig) -> None:
    """Raise `InputError` for a single cell."""
    if adata.n_obs < 2:
        raise InputError(f"{adata.n_obs} cell", "at least 2 to find clusters among")


@stage(
    "choose-k",
    ChooseKConfig,
    reads=(keys.LATENT, keys.X),
    requires=(keys.LATENT,),
    writes=(keys.CHOICE_OF_K,),
    check=check,
    loads=("numba",),
    revision=CHOICE_REVISION,
)
def choose_k(adata: AnnData, config: ChooseKConfig, *, progress: Progress | None = None) -> Result:
    """Show how many clusters the cells have, by three readings, with a recommendation.

    Parameters
    ----------
    adata
        At least two cells with ``obsm['X_scale']``; ``X`` for random matrix theory.
    config
        The options.
    progress
        Called after each subsample and each mixture.

    Returns
    -------
    `adata`, with ``uns['scale_choose_k']``: a dict of arrays, one value for each ``k``
    (``boundary``, ``stability``, ``held_out``, ``held_out_error``), the ``recommended`` number,
    which `cluster` uses if it is not given one, and the number that each reading prefers:
    ``by_boundaries``, ``by_stability``, ``by_held_out``, ``by_random_matrix`` (-1 without counts).

    Raises
    ------
    MissingSlotError
        No latent space.
    InputError
        A single cell, or a latent space that is not finite.

    Notes
    -----
    Many cells are read on a random subsample of ``max_cells``. `core.boundaries` describes the
    recommendation, `core.choose_k` the other readings.
    """
    latent = latent_of(adata)
    rng = np.random.default_rng(config.seed)
    if len(latent) > config.max_cells:
        latent = latent[np.sort(rng.choice(len(latent), config.max_cells, replace=False))]
    counts = _counts(adata, rng)
    max_k = min(config.max_k, len(latent))
    n_steps = config.stability + max_k

    def report(message: str, n_done: int) -> None:
        if progress is not None:
            progress(message, n_done, n_steps)

    report("neighbours of the cells", 0)
    graph = neighbor_graph(latent, config.n_neighbors, seed=config.seed, n_threads=config.n_threads)
    weights = keys.CONNECTIVITIES.get(graph)
    splits = find_splits(latent, weights, LeidenGraph(weights, config.seed), config.seed)
    readings = read_splits(splits, latent, weights, max_k, config.stability, config.seed, report)
    by_random_matrix = -1 if counts is None else count_eigenvalues(counts)
    table = readings.table
    choice: dict[str, Any] = {
        "k": table.index.to_numpy(),
        **{name: table[name].to_numpy() for name in table},
        "recommended": readings.preferred["boundaries"],
        "by_boundaries": readings.preferred["boundaries"],
        "by_stability": readings.preferred["stability"],
        "by_held_out": readings.preferred["held_out"],
        "by_random_matrix": by_random_matrix,
        "max_ratio": MAX_RATIO,
        "n_cells": len(latent),
    }
    facts = {name: value for name, value in choice.items() if name.startswith(("rec", "by"))}
    return Result({keys.CHOICE_OF_K: choice}, facts=facts)


def _counts(adata: AnnData, rng: np.random.Generator) -> sparse.csr_matrix | None:
    """Return the counts of some cells, None if there are none."""
    if adata.X is None or adata.n_vars < 2:
        return None
    chosen = np.arange(adata.n_obs)
    if adata.n_obs > MAX_CELLS_OF_GRAM:
        chosen = np.sort(rng.choice(adata.n_obs, MAX_CELLS_OF_GRAM, replace=False))
    return sparse.csr_matrix(adata.X[chosen])
