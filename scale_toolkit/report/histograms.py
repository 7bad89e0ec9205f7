"""Two histograms over one axis, each as a share of its own cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from scale_toolkit.report import figures


def two_histograms(
    summary: Any, titles: dict[str, str], hover: str, **layout: Any
) -> dict[str, Any]:
    """Draw two histograms of a summary over each other.

    Parameters
    ----------
    summary
        ``edges`` of the bins, and counts by name.
    titles
        Names of the two counts in `summary`, and what they are counts of.
    hover
        Begins the text at a bar, in plotly's notation: ``score %{x:.2f}``.
    **layout
        Of the figure.
    """
    edges = np.asarray(summary["edges"], float)
    traces = []
    for (name, title), color in zip(titles.items(), figures.palette(2), strict=True):
        counts = np.asarray(summary[name], float)
        traces.append(
            {
                "type": "bar",
                "name": title,
                "x": (edges[:-1] + edges[1:]) / 2,
                "y": counts / max(counts.sum(), 1),
                "opacity": 0.6,
                "marker": {"color": color, "line": {"width": 0}},
                "hovertemplate": f"{hover}: %{{y:.2%}} of {title}<extra></extra>",
            }
        )
    return figures.drawn(traces, bargap=0, barmode="overlay", showlegend=True, **layout)
