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
from scale_toolkit.stages.fragments import Blocks, crowded_sites
from scale_toolkit.stages.stage import Result, stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scale_toolkit.core.crowded_sites import CrowdedSites
    from scale_toolkit.stages.stage import Progress

#: Fewer cells have not enough neighbours to compare.
FEWEST_CELLS = 20
#: Share of simulated doublets less that of cells above the threshold: below, the estimated rate
#: is wrong. 0.45 in `aml_patients`, where it was 0.40 for 0.08; 0.72 or more in all other sets.
LEAST_SEPARATION = 0.6
N_BINS = 50


def check(adata: AnnData, config: DoubletsConfig, **inputs: Any) -> None:
    """Raise `InputError` for too few cells, and for options without what they act on."""
    if config.autosomes and not inputs.get("fragments"):
        raise InputError("`autosomes` without fragments", "both", "give fragments, or leave it out")
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
    writes=(
        keys.DOUBLET_SCORE,
        keys.PREDICTED_DOUBLET,
        keys.DOUBLET_SITES,
        keys.DOUBLET_SITES_PADJ,
        keys.DOUBLETS,
    ),
    check=check,
    loads=("sklearn",),
)
def doublets(
    adata: AnnData,
    config: DoubletsConfig,
    *,
    progress: Progress | None = None,
    fragments: Sequence[Blocks] = (),
) -> Result:
    """Score how much each cell looks like the union of two unlike cells; call or drop those.

    Parameters
    ----------
    adata
        At least 20 cells with ``X`` (counts or open peaks) and ``obsm['X_scale']``.
    config
        The options.
    progress
        Called before each group of 20,000 cells, and after each block of fragments.
    fragments
        Blocks of fragments in the order of the genome (`io.fragments.read_blocks`), for each file:
        one file, or one for each batch in the order of ``obs['batch']``'s categories.

    Returns
    -------
    `adata`, with

    ``obs['doublet_score']`` (float64)
        Probability that the cell is a simulated doublet rather than a cell of this file, 0 to 1.
    ``obs['predicted_doublet']`` (bool)
        Whether the score is above the threshold, or the fragments' adjusted P at most
        ``max_fdr``; with ``rate`` that share of the cells: those that the fragments call first,
        then those with the highest scores.
    ``obs['doublet_sites']`` (int64), ``obs['doublet_sites_pval_adj']`` (float64)
        With fragments: autosomal sites under more than two fragments of the cell, and the adjusted
        P of that number.
    ``uns['scale_doublets']`` (dict)
        ``rate``, ``threshold``, ``detectable`` (share of simulated doublets above the threshold),
        ``separation`` (that share less the one of the cells), ``n_called``, and histograms:
        ``edges``, ``observed``, ``simulated``. With fragments also ``sites_called``,
        ``sites_alone`` (cells called by fragments, and by them alone), ``sites_left_out``
        (repeats), ``site_edges``, and histograms ``sites_of_called`` and ``sites_of_others``.

    With ``remove`` the called cells are dropped; what was computed from all cells stays as it was.

    Raises
    ------
    MissingSlotError
        No latent space or no counts.
    InputError
        Fewer than 20 cells, or ``remove`` without ``rate`` if the scores do not separate
        simulated doublets from the cells; fragments that are not sorted, or not of these cells.

    Notes
    -----
    `core.doublets` describes the score, `core.crowded_sites` the test of fragments. Doublets of two
    cells of one type are not found: they differ from single cells in depth alone. ``rate`` is the
    share of the others. The fragments' test finds both kinds, if the cells have enough fragments.
    Whom it called in simulated sets with known doublets was one, at any depth
    (benchmarks/RESULTS.md), so either call is enough.
    """
    latent = latent_of(adata)
    selected = modelled_peaks(adata)
    is_open = open_peaks(adata)[:, np.flatnonzero(selected)]
    opened = sparse.csr_matrix(is_open, dtype=np.float32)
    rng = np.random.default_rng(config.seed)
    sites = None
    if fragments:
        sites = crowded_sites(adata, fragments, config.autosomes, progress)

    def report(n_done: int, n_groups: int) -> None:
        if progress is not None:
            progress("simulating doublets", n_done, n_groups)

    scores = score_doublets(opened, latent, fit_latent_map(opened, latent, rng), rng, report)
    pvals = np.ones(adata.n_obs)
    if sites is not None:
        # whom the fragments call, then all others alike
        pvals = np.where(sites.pvals_adj <= config.max_fdr, sites.pvals, 1.0)
    called = _called(scores, config, pvals)
    edges = np.linspace(0, 1, N_BINS + 1)
    summary: dict[str, Any] = {
        "rate": scores.rate if config.rate is None else config.rate,
        "threshold": scores.threshold
        if config.rate is None
        else _lowest(scores, called & (pvals == 1)),
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
    if sites is not None:
        by_sites = called & (pvals < 1)
        summary |= _of_sites(sites, called, by_sites, summary["threshold"], scores.observed)
        slots[keys.DOUBLET_SITES] = sites.n_sites[cells]
        slots[keys.DOUBLET_SITES_PADJ] = sites.pvals_adj[cells]
    facts = {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in summary.items()
        if not isinstance(value, np.ndarray)
    }
    if sites is not None:
        facts["with"] = ["fragments"]
    # of an earlier call with fragments
    drops = () if sites is not None else (keys.DOUBLET_SITES, keys.DOUBLET_SITES_PADJ)
    return Result(slots, cells=cells if config.remove else None, drops=drops, facts=facts)


def _called(scores: DoubletScores, config: DoubletsConfig, pvals: np.ndarray) -> np.ndarray:
    """Return which cells are called doublets, (cells,) bool; `pvals` of those that the fragments
    call, 1 of all others.
    """
    n_cells = len(scores.observed)
    if config.rate is not None:
        called = np.zeros(n_cells, bool)
        order = np.lexsort([-scores.observed, pvals])
        called[order[: round(config.rate * n_cells)]] = True
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
    return (scores.observed > scores.threshold) | (pvals < 1)


def _of_sites(
    sites: CrowdedSites,
    called: np.ndarray,
    by_sites: np.ndarray,
    threshold: float,
    scores: np.ndarray,
) -> dict[str, Any]:
    """Return what the summary holds about the fragments."""
    edges = np.unique(np.round(np.linspace(0, sites.n_sites.max() + 1, N_BINS + 1)))
    return {
        "sites_called": int(by_sites.sum()),
        "sites_alone": int((by_sites & (scores <= threshold)).sum()),
        "sites_left_out": sites.n_repeats,
        "site_edges": edges,
        "sites_of_called": np.histogram(sites.n_sites[called], edges)[0],
        "sites_of_others": np.histogram(sites.n_sites[~called], edges)[0],
    }


def _lowest(scores: DoubletScores, called: np.ndarray) -> float:
    """Return the lowest score of a called cell; 1 if none is called."""
    return float(scores.observed[called].min()) if called.any() else 1.0
