"""``doublets``: score how much each cell looks like the union of two; call or drop those."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.config import DoubletsConfig
from scale_toolkit.core.doublets import DoubletScores, score_doublets
from scale_toolkit.core.projection import fit_latent_map
from scale_toolkit.errors import InputError, warn
from scale_toolkit.stages._latent import latent_of
from scale_toolkit.stages.counts import modelled_peaks, open_peaks
from scale_toolkit.stages.stage import Result, stage

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.stages.stage import Progress

#: Fewer cells have not enough neighbours to compare.
FEWEST_CELLS = 20
#: Share of simulated doublets less that of cells above the threshold: below, the estimated rate
#: is wrong. 0.45 in `aml_patients`, where it was 0.40 for 0.08; 0.72 or more in all other sets.
LEAST_SEPARATION = 0.6
N_BINS = 50


def check(adata: AnnData, config: DoubletsConfig) -> None:
    """Raise `InputError` for too few cells."""
    if adata.n_obs < FEWEST_CELLS:
        raise InputError(
            f"{adata.n_obs} cells", f"at least {FEWEST_CELLS} to search doublets among"
        )


def _reads(config: DoubletsConfig) -> tuple[keys.Slot, ...]:
    return (keys.LATENT, keys.X, keys.SELECTED)


@stage(
    "doublets",
    DoubletsConfig,
    reads=_reads,
    requires=(keys.LATENT, keys.X),
    writes=(keys.DOUBLET_SCORE, keys.PREDICTED_DOUBLET, keys.DOUBLETS),
    check=check,
    loads=("sklearn",),
)
def doublets(
    adata: AnnData, config: DoubletsConfig, *, progress: Progress | None = None
) -> Result:
    """Score how much each cell looks like the union of two unlike cells; call or drop those.

    Parameters
    ----------
    adata
        At least 20 cells with ``X`` (counts or open peaks) and ``obsm['X_scale']``.
    config
        The options.
    progress
        Called before each group of 20,000 cells.

    Returns
    -------
    `adata`, with

    ``obs['doublet_score']`` (float64)
        Probability that the cell is a simulated doublet rather than a cell of this file, 0 to 1.
    ``obs['predicted_doublet']`` (bool)
        Whether the score is above the threshold; with ``rate`` that share of the cells.
    ``uns['scale_doublets']`` (dict)
        ``rate``, ``threshold``, ``detectable`` (share of simulated doublets above the threshold),
        ``separation`` (that share less the one of the cells), ``n_called``, and histograms:
        ``edges``, ``observed``, ``simulated``.

    With ``remove`` the called cells are dropped; what was computed from all cells stays as it was.

    Raises
    ------
    MissingSlotError
        No latent space or no counts.
    InputError
        Fewer than 20 cells, or ``remove`` without ``rate`` if the scores do not separate
        simulated doublets from the cells.

    Notes
    -----
    `core.doublets` describes the score. Doublets of two cells of one type are not found: they
    differ from single cells in depth alone. ``rate`` is the share of the others.
    """
    latent = latent_of(adata)
    selected = modelled_peaks(adata)
    is_open = open_peaks(adata)[:, np.flatnonzero(selected)]
    opened = sparse.csr_matrix(is_open, dtype=np.float32)
    rng = np.random.default_rng(config.seed)

    def report(n_done: int, n_groups: int) -> None:
        if progress is not None:
            progress("simulating doublets", n_done, n_groups)

    scores = score_doublets(opened, latent, fit_latent_map(opened, latent, rng), rng, report)
    called = _called(scores, config)
    edges = np.linspace(0, 1, N_BINS + 1)
    summary: dict[str, Any] = {
        "rate": scores.rate if config.rate is None else config.rate,
        "threshold": scores.threshold if config.rate is None else _lowest(scores, called),
        "detectable": scores.detectable,
        "separation": scores.separation,
        "n_cells": adata.n_obs,
        "n_called": int(called.sum()),
        "edges": edges,
        "observed": np.histogram(scores.observed, edges)[0],
        "simulated": np.histogram(scores.simulated, edges)[0],
    }
    cells = ~called if config.remove else np.ones(adata.n_obs, bool)
    slots = {
        keys.DOUBLET_SCORE: scores.observed[cells],
        keys.PREDICTED_DOUBLET: called[cells],
        keys.DOUBLETS: summary,
    }
    facts = {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in summary.items()
        if not isinstance(value, np.ndarray)
    }
    return Result(slots, cells=cells if config.remove else None, facts=facts)


def _called(scores: DoubletScores, config: DoubletsConfig) -> np.ndarray:
    """Return which cells are called doublets, (cells,) bool."""
    n_cells = len(scores.observed)
    if config.rate is not None:
        called = np.zeros(n_cells, bool)
        called[np.argsort(-scores.observed, kind="stable")[: round(config.rate * n_cells)]] = True
        return called
    if scores.separation < LEAST_SEPARATION:
        figures = (
            f"{scores.detectable:.0%} of the simulated doublets and "
            f"{scores.detectable - scores.separation:.0%} of the cells score above "
            f"{scores.threshold:.2f}"
        )
        if config.remove:
            raise InputError(
                f"doublets are not separable from the cells: {figures}",
                "the share of doublets that the experiment makes likely",
                "give it with `rate`",
            )
        warn(
            f"{figures}: the estimated rate {scores.rate:.1%} is not to be relied on; "
            "give `rate` if the experiment makes one likely"
        )
    return scores.observed > scores.threshold


def _lowest(scores: DoubletScores, called: np.ndarray) -> float:
    """Return the lowest score of a called cell; 1 if none is called."""
    return float(scores.observed[called].min()) if called.any() else 1.0
