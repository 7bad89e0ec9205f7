"""The section of the peaks that set the clusters apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scale_toolkit import get, keys
from scale_toolkit.plot._figure import as_categories
from scale_toolkit.plot.heatmaps import share_of_open_cells
from scale_toolkit.plot.marker_peaks import (
    best_peaks,
    compared_column,
    marker_table,
    peak_titles,
)
from scale_toolkit.report import figures
from scale_toolkit.report.view import Section, View

# Clusters in the heat map of peaks.
MOST_ROWS = 30
MARKER_CELLS = 3000
MARKERS_EACH = 5


def markers(view: View) -> Section | None:
    """Draw the share of open cells at the marker peaks of each cluster."""
    column = compared_column(view.adata) if keys.MARKERS.found_in(view.adata) else keys.CLUSTER.name
    column = column if column in view.adata.obs else keys.CLUSTER.name
    if column not in view.adata.obs:
        return None
    clusters = as_categories(view.adata.obs[column])
    if len(clusters.cat.categories) < 2:
        return None
    section = Section("markers", "Peaks that set the clusters apart", "")
    table = marker_table(view.adata, clusters, column)
    if table is None and keys.MARKERS.found_in(view.adata):
        section.lines.append(
            f"{keys.MARKERS} belongs to other clusters than these: run scale markers again."
        )
    if table is not None and not len(table):
        section.missing = (
            "scale markers tested every peak and found none that is open more often in one cluster "
            "than in the rest."
        )
        return section
    if view.counts is None:
        section.missing = (
            "X is not in this file, so no peaks are shown; the output of scale cluster holds it."
        )
        return section
    top = set(clusters.value_counts().index[:MOST_ROWS])
    names = [name for name in clusters.cat.categories if name in top]
    cells = _sample(clusters, names)
    sample = AnnData(
        sparse.csr_matrix(view.counts(cells)), var=pd.DataFrame(index=view.adata.var_names)
    )
    labels = pd.Series(pd.Categorical(clusters.iloc[cells].astype(str), categories=names))
    shares = share_of_open_cells(sample.X, labels)
    if table is not None:
        best = best_peaks(table, names, view.adata.var_names, MARKERS_EACH)
        chosen, owner = np.concatenate(best), np.repeat(np.arange(len(names)), list(map(len, best)))
        words = "The best marker peaks of each cluster, as scale markers found them at equal depth."
        section.table, section.numbers = _marker_table(view.adata, table, names), ("markers",)
    else:
        keys.CLUSTER.set(sample, labels.to_numpy())
        chosen, owner = most_specific(get.specificity(sample)[names].to_numpy(), shares)
        words = (
            "The most specific peaks of each cluster, by SCALE's score, among those open in it "
            "more often than in any other. "
            "They are shown, not tested: scale markers tests them."
        )
    if not len(chosen):
        section.missing = "No peak is open in one cluster more often than in all others."
        return section
    sampled = (
        ""
        if len(cells) == len(clusters)
        else (f" Shares are over {len(cells):,} cells, chosen at random from each cluster.")
    )
    section.meaning = (
        f"{words} Colour is the share of a cluster's cells in which the peak is open, as a part of "
        f"its highest.{sampled}"
    )
    borders = (np.flatnonzero(np.diff(owner)) + 0.5).tolist()
    titles = peak_titles(view.adata, chosen)
    figure = figures.markers(shares[:, chosen], names, titles, borders)
    height = int(np.clip(22 * len(names) + (190 if len(chosen) <= 64 else 80), 240, 800))
    section.plots = [
        [view.add("markers", figure, height, "share of open cells by cluster and peak")]
    ]
    return section


def _marker_table(
    adata: AnnData, table: pd.DataFrame, names: list[str]
) -> tuple[list[str], list[list[str]]]:
    """A row a cluster: how many markers, the best, the genes nearest to the best, and enriched
    motifs, as far as known.
    """
    motifs = adata.uns.get(keys.MOTIFS.name)
    known = isinstance(motifs, pd.DataFrame) and {"cluster", "motif", "fdr", "odds_ratio"} <= set(
        motifs
    )
    with_genes = "nearest_gene" in table
    head = [
        "cluster",
        "markers",
        "best marker peak",
        *(["nearest genes"] if with_genes else []),
        *(["motifs"] if known else []),
    ]
    rows = []
    for name in names:
        cluster_markers = table[table["cluster"].astype(str) == name]
        row = [
            name,
            f"{len(cluster_markers):,}",
            str(cluster_markers["peak"].iloc[0]) if len(cluster_markers) else "none",
        ]
        if with_genes:
            genes = [
                str(gene)
                for gene in dict.fromkeys(cluster_markers["nearest_gene"])
                if isinstance(gene, str) and gene
            ]
            row.append(", ".join(genes[:MARKERS_EACH]) or "–")
        if known:
            cluster_motifs = motifs[
                (motifs["cluster"].astype(str) == name)
                & (motifs["fdr"] < 0.05)
                & (motifs["odds_ratio"] > 1)
            ]
            row.append(", ".join(map(str, cluster_motifs["motif"].iloc[:3])) or "–")
        rows.append(row)
    return head, rows


def _sample(clusters: pd.Series, names: list[str]) -> np.ndarray:
    """Ascending numbers of at most about 3,000 cells, as many of each cluster as there are, or
    an equal part.
    """
    rng, n_each = np.random.default_rng(0), max(MARKER_CELLS // len(names), 20)
    chosen = []
    for name in names:
        members = np.flatnonzero((clusters == name).to_numpy())
        chosen.append(
            members if len(members) <= n_each else rng.choice(members, n_each, replace=False)
        )
    return np.sort(np.concatenate(chosen))


def most_specific(scores: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best-scored peaks (peaks × clusters) of each cluster, of those with their highest
    share there, and their cluster.
    """
    chosen, owner, highest = [], [], shares.argmax(0)
    for cluster in range(scores.shape[1]):
        members = np.flatnonzero(
            (highest == cluster) & (shares[cluster] > 0) & np.isfinite(scores[:, cluster])
        )
        best = members[np.argsort(-scores[members, cluster], kind="stable")[:MARKERS_EACH]]
        chosen += best.tolist()
        owner += [cluster] * len(best)
    return np.array(chosen, np.int64), np.array(owner, np.int64)
