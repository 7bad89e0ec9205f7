"""The section about doublets: scores of cells and of simulated doublets, and calls by cluster."""

from __future__ import annotations

from typing import Any

import numpy as np

from scale_toolkit import keys
from scale_toolkit.report import figures
from scale_toolkit.report.findings import Finding
from scale_toolkit.report.histograms import two_histograms
from scale_toolkit.report.view import MOST_SHOWN, Section, View

#: Share of called cells above which a cluster is probably made of doublets.
MOSTLY = 0.5


def doublets(view: View) -> Section | None:
    """Show which cells look like the union of two; None if `doublets` was not run."""
    if not keys.DOUBLETS.found_in(view.adata):
        return None
    section = Section(
        "doublets",
        "Doublets",
        "A droplet with two cells of different types looks like both. Each cell is compared with "
        "sums of two random cells: near 1 it lies among those, near 0 among other cells. Doublets "
        "of one type are not found by this score. The dotted line is the limit above which cells "
        "are called.",
    )
    summary = keys.DOUBLETS.get(view.adata)
    section.plots = [
        [
            view.add(
                "doublet_scores", _scores(summary), 260, "scores of cells and simulated doublets"
            )
        ]
    ]
    done = view.run("doublets")
    removed = bool(done is not None and done.options.get("remove"))
    section.lines.append(
        f"{int(summary['n_called']):,} of {int(summary['n_cells']):,} cells called"
        f"{' and dropped' if removed else ''}, a rate of {float(summary['rate']):.1%}; "
        f"{float(summary['detectable']):.0%} of the simulated doublets score above the limit."
    )
    if "sites_called" in summary:
        _by_fragments(view, section, summary)
    if not removed and keys.PREDICTED_DOUBLET.found_in(view.adata):
        _by_cluster(view, section)
    return section


def _by_fragments(view: View, section: Section, summary: Any) -> None:
    """Add what the fragments show: sites of cells that were called, and of the others."""
    section.plots[0].append(
        view.add(
            "doublet_sites",
            two_histograms(
                dict(summary) | {"edges": summary["site_edges"]},
                {"sites_of_called": "called cells", "sites_of_others": "other cells"},
                "%{x:.0f} sites",
                xaxis={"title": {"text": "sites under more than two fragments"}},
                yaxis={"title": {"text": "share"}, "type": "log"},
            ),
            260,
            "autosomal sites under more than two fragments of a cell",
        )
    )
    section.lines.append(
        f"By fragments: {int(summary['sites_called']):,} cells called, "
        f"{int(summary['sites_alone']):,} of them not by their score. A cell has two copies of an "
        "autosome, so that more than two overlapping fragments come from a second cell, also from "
        f"one of its type. {int(summary['sites_left_out']):,} sites that too many cells have were "
        "left out."
    )


def _by_cluster(view: View, section: Section) -> None:
    """Add the share of called cells of each cluster."""
    if view.clusters is None:
        return
    called = np.asarray(keys.PREDICTED_DOUBLET.get(view.adata), bool)
    rows = []
    for name in view.clusters.cat.categories[:MOST_SHOWN]:
        members = (view.clusters == name).to_numpy()
        share = called[members].mean() if members.any() else 0.0
        rows.append([str(name), f"{members.sum():,}", f"{called[members].sum():,}", f"{share:.1%}"])
        if share > MOSTLY:
            view.findings.append(
                Finding(
                    "warning",
                    f"{share:.0%} of the cells of cluster {name} look like doublets.",
                    "Drop them with scale doublets --remove, then train and cluster again.",
                )
            )
    section.table = (["cluster", "cells", "doublets", "share"], rows)
    section.numbers = ("cells", "doublets", "share")


def _scores(summary: Any) -> dict[str, Any]:
    """Histograms of the scores, each as a share of its own cells."""
    return two_histograms(
        summary,
        {"observed": "cells", "simulated": "simulated doublets"},
        "score %{x:.2f}",
        xaxis={"title": {"text": "doublet score"}},
        yaxis={"title": {"text": "share"}, "type": "log"},
        shapes=figures.dotted_line("x", float(summary["threshold"])),
    )
