"""The tables of `markers`: the markers of each cluster, their nearest genes, their motifs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.core.genome_builds import check_build
from scale_toolkit.core.intervals import check_chromosomes, nearest_starts, require_intervals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scale_toolkit.config import MarkersConfig
    from scale_toolkit.stages.stage import Progress

_FIGURES = (
    "score",
    "p_value",
    "fdr",
    "odds_ratio",
    "log2_fold_change",
    "share_in",
    "share_out",
    "specificity",
)
_MOTIF_COLUMNS = (
    "cluster",
    "motif",
    "odds_ratio",
    "p_value",
    "fdr",
    "share_markers",
    "share_background",
    "n_markers",
    "n_background",
    "gc_markers",
    "gc_background",
)


def marker_table(
    peaks: pd.Index, clusters: list[str], figures: dict[str, np.ndarray], config: MarkersConfig
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the markers of each cluster, the smallest p first, and the rows of their peaks.

    Parameters
    ----------
    peaks
        Names of the tested peaks.
    clusters
        Names of the clusters.
    figures
        Peaks × clusters each: score, p_value, fdr, odds_ratio and the others of the table.
    config
        The limits of a marker.
    """
    tables, rows = [], []
    for k in range(len(clusters)):
        column = {name: figures[name][:, k] for name in _FIGURES}
        is_marker = (column["fdr"] <= config.max_fdr) & (column["score"] > 0)
        is_marker &= column["odds_ratio"] >= config.min_odds_ratio
        is_marker &= column["share_in"] >= config.min_share
        chosen = np.flatnonzero(is_marker)
        order = np.lexsort((-column["score"][chosen], column["p_value"][chosen]))
        chosen = chosen[order]
        rows.append(chosen)
        names = {
            "cluster": np.full(len(chosen), k),
            "peak": peaks[chosen].to_numpy(dtype=object),
        }
        values = {name: column[name][chosen] for name in _FIGURES}
        tables.append(pd.DataFrame(names | values))
    table = pd.concat(tables, ignore_index=True)
    table["cluster"] = pd.Categorical.from_codes(table["cluster"].to_numpy(np.int64), clusters)
    return table.set_index(pd.RangeIndex(len(table)).astype(str)), np.concatenate(rows)


def nearest_genes(names: pd.Index, genes: pd.DataFrame) -> pd.DataFrame:
    """Return the nearest gene of every peak (empty if there is none), and its distance."""
    peaks = require_intervals(names, "`genes`")
    check_chromosomes(peaks["chrom"], genes["chrom"], "the GTF")
    check_build(peaks, genes["chrom"].to_numpy(), genes["tss"].to_numpy(np.int64))
    nearest = nearest_starts(peaks, genes)
    # -1 (no gene) picks the last entry
    gene_names = np.append(genes["gene_name"].to_numpy(dtype=object), "")
    return pd.DataFrame(
        {
            keys.NEAREST_GENE.name: gene_names[nearest["gene"]],
            keys.TSS_DISTANCE.name: nearest["distance"].to_numpy(),
        }
    )


def motif_table(
    table: pd.DataFrame,
    marker_positions: np.ndarray,
    tested: np.ndarray,
    frequency: np.ndarray,
    sequences: Sequence[str],
    motifs: Mapping[str, np.ndarray],
    config: MarkersConfig,
    progress: Progress | None,
) -> pd.DataFrame:
    """Return the enrichment of each motif in the markers of each cluster.

    The background of a cluster is tested peaks that are not its markers, with similar GC content
    and frequency.

    Parameters
    ----------
    table, marker_positions
        The markers, and the positions of their peaks.
    tested
        Positions of the tested peaks.
    frequency
        Fraction of cells in which each peak is open, (peaks,).
    sequences, motifs
        Sequence of each peak; motif by name.
    config
        Options.
    progress
        Called with the motifs done.
    """
    from scale_toolkit.core.motifs import enrichment, gc_content, match_background, occurrences

    gc = gc_content(sequences)
    usable = tested[~np.isnan(gc[tested])]
    rng = np.random.default_rng(config.seed)
    sets: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in table["cluster"].cat.categories:
        markers = np.intersect1d(marker_positions[(table["cluster"] == name).to_numpy()], usable)
        candidates = np.setdiff1d(usable, markers)
        background = match_background(
            markers, candidates, gc, frequency, config.background_ratio, rng
        )
        if len(markers) and len(background):
            sets[name] = (markers, background)
    peak_sets = [peaks for pair in sets.values() for peaks in pair]
    scanned = np.unique(np.concatenate(peak_sets or [np.empty(0, np.int64)]))

    def report(n_done: int) -> None:
        if progress is not None:
            progress("scanning for motifs", n_done, len(motifs))

    tables = [_empty_motif_table()]
    if len(scanned):
        has_motif = occurrences(
            [sequences[peak] for peak in scanned], motifs, config.motif_p, progress=report
        )
        tables = []
    for name, (markers, background) in sets.items():
        marker_hits = has_motif[:, np.searchsorted(scanned, markers)].sum(axis=1)
        background_hits = has_motif[:, np.searchsorted(scanned, background)].sum(axis=1)
        test = enrichment(marker_hits, len(markers), background_hits, len(background))
        rows = pd.DataFrame(
            {
                "cluster": name,
                "motif": list(motifs),
                "odds_ratio": test.odds_ratio,
                "p_value": test.p_value,
                "fdr": test.fdr,
                "share_markers": test.share,
                "share_background": test.share_background,
                "n_markers": len(markers),
                "n_background": len(background),
                "gc_markers": gc[markers].mean(),
                "gc_background": gc[background].mean(),
            }
        )
        order = ["p_value", "odds_ratio"]
        tables.append(rows.sort_values(order, ascending=[True, False], kind="stable"))
    motif_rows = pd.concat(tables, ignore_index=True)
    motif_rows["cluster"] = pd.Categorical(motif_rows["cluster"], table["cluster"].cat.categories)
    return motif_rows.set_index(pd.RangeIndex(len(motif_rows)).astype(str))


def _empty_motif_table() -> pd.DataFrame:
    strings = ("cluster", "motif")
    return pd.DataFrame(
        {name: np.empty(0, object if name in strings else np.float64) for name in _MOTIF_COLUMNS}
    )
