"""The sections about clusters: sizes, agreement with known labels, responsibilities."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.core import metrics
from scale_toolkit.known_labels import MOST_LABELS
from scale_toolkit.plot._figure import as_categories
from scale_toolkit.report import figures, findings
from scale_toolkit.report.view import MOST_SHOWN, Section, View


def clusters(view: View) -> Section:
    """Show the size, depth, separation and stability of each cluster."""
    section = Section(
        "clusters",
        "Clusters",
        "How many cells each cluster holds, how deep they are, and how well it is set apart: the "
        "silhouette is near 1 where "
        "cells lie far from the next cluster, about 0 at a border, below 0 where they lie nearer "
        "to another.",
    )
    clusters = view.clusters
    if clusters is None:
        is_clustered = keys.CLUSTER.found_in(view.adata)
        section.missing = (
            f"{keys.CLUSTER} {'holds no cluster' if is_clustered else 'is missing'}: run "
            "scale cluster first."
        )
        return section
    view.findings += findings.of_sizes(clusters)
    counts = clusters.value_counts(sort=False)
    names = list(counts.index)
    drawn = counts.sort_values(ascending=False, kind="stable").index[:MOST_SHOWN]
    drawn = [name for name in names if name in set(drawn)]
    shades = dict(zip(names, figures.palette(len(names)), strict=True))
    figure = figures.sizes(drawn, counts[drawn].to_numpy(), [shades[name] for name in drawn])
    section.plots = [[view.add("sizes", figure, 240, "cells of each cluster")]]
    width = group = np.empty(0)
    if view.latent is not None:
        labelled = np.flatnonzero(clusters.notna())
        width, cells = findings.silhouettes(
            view.latent[labelled], clusters.cat.codes.to_numpy()[labelled]
        )
        group = clusters.to_numpy()[labelled[cells]].astype(str) if len(width) else group
        view.findings += findings.of_separation(width, group) if len(width) else []
        if keys.BATCHES.found_in(view.adata):
            view.findings += findings.of_batches_taken_out(keys.BATCHES.get(view.adata))
        if keys.BATCH.found_in(view.adata):
            batch = as_categories(keys.BATCH.get(view.adata))
            if len(batch.cat.categories) > 1:
                view.findings += findings.of_batches(view.latent, batch, clusters)
    if view.depth is not None:
        view.findings += findings.of_cluster_depth(clusters, view.depth)
    stable = _stability(view, counts)
    known = as_categories(view.adata.obs[view.label]) if view.label else None
    members = {name: (clusters == name).to_numpy() for name in drawn}
    columns = {
        "cluster": drawn,
        "cells": [f"{counts[name]:,}" for name in drawn],
        "share": [f"{counts[name] / len(clusters):.1%}" for name in drawn],
    }
    if view.depth is not None:
        columns["open peaks (median)"] = [
            f"{np.median(view.depth[members[name]]):,.0f}" for name in drawn
        ]
    if len(width):
        columns["silhouette"] = [
            f"{width[group == name].mean():.2f}" if (group == name).any() else "–" for name in drawn
        ]
    if stable is not None:
        columns["stability"] = [
            "–" if np.isnan(stable[name]) else f"{stable[name]:.2f}" for name in drawn
        ]
    section.numbers = tuple(columns)[1:]
    if known is not None:
        tops = [known[members[name]].value_counts(normalize=True) for name in drawn]
        columns[f"mostly ({view.label})"] = [
            f"{top.index[0]} ({top.iloc[0]:.0%})" if len(top) and top.iloc[0] > 0 else "–"
            for top in tops
        ]
    section.table = (list(columns), [list(row) for row in zip(*columns.values(), strict=True)])
    if len(drawn) < len(names):
        section.lines.append(f"The {len(drawn)} largest of {len(names):,} clusters are shown.")
    if stable is None:
        section.lines.append(
            "Whether they come back when cells are left out: scale cluster --stability 20 shows it."
        )
    else:
        section.lines.append(
            "Stability: the mean Jaccard index of a cluster with its nearest one where four fifths "
            "of the cells are clustered "
            "in the same way and the same latent space; 1 is the same cells, 0.75 or more is "
            "called stable (Hennig 2007)."
        )
        view.findings += findings.of_stability(stable)
    section.lines += _other_ways(view, clusters)
    return section


def _stability(view: View, counts: pd.Series) -> pd.Series | None:
    """Mean Jaccard index in subsamples by cluster, where `cluster` found it for these very
    clusters.
    """
    if not keys.CLUSTER_STABILITY.found_in(view.adata):
        return None
    stability = pd.DataFrame(keys.CLUSTER_STABILITY.get(view.adata))
    stability.index = stability.index.astype(str)
    sizes = counts[counts > 0]
    same = {"cells", "mean"} <= set(stability) and stability["cells"].to_dict() == sizes.to_dict()
    return stability["mean"].astype(float) if same else None


def _other_ways(view: View, clusters: pd.Series) -> list[str]:
    """How far other clusterings in the file agree, as far as there are any."""
    agreed = []
    for slot, words in (
        (keys.LEIDEN, "Leiden"),
        (keys.KMEANS, "k-means"),
        (keys.GMM, "the mixture"),
        (keys.COMPONENT, "the model's components"),
    ):
        if slot.found_in(view.adata):
            other_labels = as_categories(slot.get(view.adata))
            is_in_both = (clusters.notna() & other_labels.notna().to_numpy()).to_numpy()
            ari = metrics.adjusted_rand_index(
                clusters[is_in_both].astype(str), other_labels[is_in_both].astype(str)
            )
            if ari < 1:
                agreed.append(f"{words} {ari:.2f}")
    if not agreed:
        return []
    return [
        (
            "Agreement of these clusters with other ways of grouping the same latent space (ARI, 1 "
            "is "
            "the same): "
        )
        + ", ".join(agreed)
        + "."
    ]


def agreement(view: View) -> Section | None:
    """Compare the clusters with known labels."""
    if view.clusters is None:
        return None
    section = Section(
        "agreement",
        "Agreement with known labels",
        "Rows are known labels, columns clusters in the order that matches best; colour is the "
        "share of a label's cells.",
    )
    if view.label is None:
        section.missing = (
            "No column of obs holds known labels; name one with scale report --label COLUMN."
        )
        return section
    known = as_categories(view.adata.obs[view.label])
    is_labelled = known.notna().to_numpy() & view.clusters.notna().to_numpy()
    if not is_labelled.any():
        section.missing = f"No cell has both a label in {view.label} and a cluster."
        return section
    labels, clusters = (
        series[is_labelled].astype(str).to_numpy() for series in (known, view.clusters)
    )
    agreement = metrics.agreement(labels, clusters, n_unlabelled=int((~is_labelled).sum()))
    section.lines.append(
        (
            f"ARI {agreement.ari:.3f}, NMI {agreement.nmi:.3f}, F1 {agreement.f1:.3f} over "
            f"{agreement.n_cells:,} "
            "labelled cells"
        )
        + (f"; {agreement.n_unlabelled:,} have no label." if agreement.n_unlabelled else ".")
        + " ARI and NMI are 1 for equal groups; ARI is 0 and NMI near 0 for unrelated ones."
    )
    if max(agreement.table.shape) > 2 * MOST_LABELS:
        section.lines.append(
            f"{agreement.table.shape[0]:,} labels × {agreement.table.shape[1]:,} clusters "
            "are too many to draw."
        )
        return section
    height = int(np.clip(28 * len(agreement.classes) + 90, 220, 900))
    figure = figures.confusion(agreement, view.label, keys.CLUSTER.name)
    section.plots = [[view.add("confusion", figure, height, "cells by known label and cluster")]]
    return section


def posterior(view: View) -> Section | None:
    """Show how sure the mixture is of each cell."""
    if not keys.POSTERIOR.found_in(view.adata) or view.clusters is None:
        return None
    section = Section(
        "posterior",
        "How sure the model is",
        "For each cell the largest share that one component of the mixture claims: 1 is certain. "
        "Boxes hold the middle half of "
        "a cluster's cells, whiskers 5 to 95 %.",
    )
    values = np.asarray(keys.POSTERIOR.get(view.adata), float)
    view.findings += findings.of_posterior(values)
    best, clusters = values.max(1), view.clusters
    top = clusters.value_counts().index[:MOST_SHOWN]
    shades = dict(
        zip(clusters.cat.categories, figures.palette(len(clusters.cat.categories)), strict=True)
    )
    names = [name for name in clusters.cat.categories if name in set(top)]
    drawn = pd.Series(pd.Categorical(clusters, categories=names))
    figure = figures.posterior(best, drawn, [shades[name] for name in names])
    section.plots = [
        [view.add("posterior", figure, 260, "largest responsibility of the cells of each cluster")]
    ]
    section.lines.append(
        f"{(best >= 0.9).mean():.0%} of the cells belong to one component with 90 % or more."
    )
    return section
