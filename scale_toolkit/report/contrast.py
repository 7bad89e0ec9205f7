"""The section about differences between two conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.report import figures
from scale_toolkit.report.findings import Finding
from scale_toolkit.report.view import MOST_SHOWN, Section, View


def contrast(view: View) -> Section | None:
    """Show how many peaks differ in each cluster; None if `markers` compared no conditions."""
    if not keys.CONTRAST_CLUSTERS.found_in(view.adata):
        return None
    clusters = keys.CONTRAST_CLUSTERS.get(view.adata)
    differences = keys.CONTRAST.get(view.adata)
    first, second = str(clusters["first"].iloc[0]), str(clusters["second"].iloc[0])
    section = Section(
        "contrast",
        f"Differences between {first} and {second}",
        "Peaks that are open more often in one of the two conditions, within each cluster and at "
        "equal depth. If samples were compared, the spread between samples of a condition is "
        "part of the test; it is given as the standard deviation of a peak's log odds.",
    )
    compared = clusters.head(MOST_SHOWN)
    rows = []
    with_genes = "nearest_gene" in differences
    for row in compared.itertuples():
        best = differences[differences["cluster"].astype(str) == str(row.cluster)]
        names = best["nearest_gene"] if with_genes else best["peak"]
        listed = [str(name) for name in dict.fromkeys(names) if str(name)][:3]
        spread = "–" if np.isnan(row.sample_sd) else f"{row.sample_sd:.2f}"
        rows.append(
            [
                str(row.cluster),
                str(row.unit),
                f"{row.cells_first:,} / {row.cells_second:,}",
                f"{row.samples_first:,} / {row.samples_second:,}",
                f"{row.n_tested:,}",
                f"{row.higher_in_first:,}",
                f"{row.higher_in_second:,}",
                spread,
                ", ".join(listed) or "–",
            ]
        )
    columns = [
        "cluster",
        "compared",
        f"cells {first} / {second}",
        "samples",
        "peaks tested",
        f"more open in {first}",
        f"more open in {second}",
        "spread",
        "genes next to the best" if with_genes else "best peaks",
    ]
    section.table, section.numbers = (columns, rows), tuple(columns[2:8])
    section.plots = [
        [
            view.add(
                "contrast",
                _numbers(compared, first, second),
                int(np.clip(22 * len(compared) + 120, 200, 800)),
                "peaks that differ, by cluster",
            )
        ]
    ]
    n_by_cells = int((clusters["unit"] == "cells").sum())
    if n_by_cells:
        view.findings.append(
            Finding(
                "warning",
                f"In {n_by_cells} of {len(clusters)} clusters cells of {first} and {second} were "
                "compared as if they were independent: p-values are too small if samples differ.",
                "Name the samples with scale markers --sample-key; two a side are needed.",
            )
        )
    return section


def _numbers(clusters: pd.DataFrame, first: str, second: str) -> dict[str, Any]:
    """Bars to the right for the first condition, to the left for the second."""
    names = clusters["cluster"].astype(str).tolist()
    traces = []
    for column, sign, name, shade in (
        ("higher_in_first", 1, first, figures.palette(2)[1]),
        ("higher_in_second", -1, second, figures.palette(2)[0]),
    ):
        counts = clusters[column].to_numpy(np.int64)
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "x": sign * counts,
                "y": figures.positions(names),
                "customdata": counts,
                "name": f"more open in {figures.said(name, figures.SHORT)}",
                "marker": {"color": shade},
                "hovertemplate": "cluster %{y}: %{customdata:,} peaks<extra></extra>",
            }
        )
    return figures.drawn(
        traces,
        barmode="overlay",
        showlegend=True,
        xaxis={"title": {"text": "peaks that differ"}},
        yaxis=figures.named(names, autorange="reversed", title={"text": "cluster"}),
    )
