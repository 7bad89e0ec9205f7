"""The page's figures as plotly's own JSON: small ones whole, the cells as typed arrays that the
page's script draws from.

plotly is imported when a figure is made, not before. Its text is a kind of HTML, so every name from
a file is escaped.
"""

from __future__ import annotations

import base64
import html
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from scale_toolkit.plot._figure import UNKNOWN, as_categories, colors
from scale_toolkit.plot.qc import SHADES, WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scale_toolkit.core.metrics import Agreement
    from scale_toolkit.plot.qc import Tally

INK, FAINT = "#1f2933", "#e4e7eb"
FONT = {
    "family": ("system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"),
    "size": 12,
    "color": INK,
}
# Cells in the embedding; of more a random choice.
MOST_DRAWN = 100_000
# Letters of a name along an axis or in a legend.
SHORT = 26
MOST_TICKS = 70
# With a colour of their own; the rest are one grey group.
MOST_CATEGORIES = 40


def said(name: Any, letters: int = 200) -> str:
    """A name from the file as plotly may show it: escaped, not too long, and no part of a
    template.
    """
    text = str(name)
    # names that begin alike end differently
    if len(text) > letters:
        text = f"{text[: letters - letters // 2 - 1].rstrip()}…{text[-(letters // 2) :].lstrip()}"
    return html.escape(text, quote=False).replace("%", "&#37;").replace("$", "&#36;")


def positions(names: Sequence[Any]) -> list[str]:
    """Return a distinct position on an axis of categories for each name.

    A position is the name itself, with a number if the name is repeated. plotly merges columns at
    equal positions: a peak that is a marker of two clusters would lose one of its columns.
    """
    used_names: set[str] = set()
    distinct = []
    for name in map(said, names):
        position, number = name, 1
        while position in used_names:
            number += 1
            position = f"{name} ({number})"
        used_names.add(position)
        distinct.append(position)
    return distinct


def named(names: Sequence[Any], **more: Any) -> dict[str, Any]:
    """Return an axis with a position for each name (`positions`) and shortened tick labels."""
    step = -(-len(names) // MOST_TICKS) or 1
    ticks = {
        "tickvals": positions(names)[::step],
        "ticktext": [said(name, SHORT) for name in list(names)[::step]],
    }
    return {"type": "category", **ticks, **more}


def palette(n: int) -> list[str]:
    """Return `n` colours, colour-blind safe as far as there are enough."""
    return [to_hex(color) for color in colors(n)]


def drawn(traces: list[dict[str, Any]], **layout: Any) -> dict[str, Any]:
    """A figure as plain values, checked by plotly; numpy arrays become base64."""
    import plotly.graph_objects as go

    axis = {
        "showline": True,
        "linecolor": INK,
        "gridcolor": FAINT,
        "zeroline": False,
        "ticks": "outside",
        "automargin": True,
    }
    base = {
        "font": FONT,
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 60, "r": 16, "t": 12, "b": 46},
        "showlegend": False,
        "hoverlabel": {"align": "left"},
        "xaxis": axis | layout.pop("xaxis", {}),
        "yaxis": axis | layout.pop("yaxis", {}),
    }
    figure = go.Figure(data=traces, layout=base | layout)
    figure.layout.template = None
    return figure.to_plotly_json()


def base64_of(values: np.ndarray, dtype: str) -> dict[str, str]:
    """Numbers as the page's script reads them: little-endian bytes in base64, and the name of
    their type.
    """
    little_endian = np.asarray(values, np.dtype(dtype).newbyteorder("<"))
    return {"type": dtype, "data": base64.b64encode(little_endian.tobytes()).decode()}


def knee(tally: Tally) -> dict[str, Any]:
    """Open peaks of the cells in falling order, those left out in grey."""
    ranks, values = tally.knee()
    positive = values > 0
    ranks, values = ranks[positive], values[positive]
    is_kept = values >= (tally.least or 0)
    line = {
        "type": "scatter",
        "mode": "lines",
        "hovertemplate": ("%{y:,} open peaks or more: %{x:,} cells<extra></extra>"),
    }
    traces = [
        line | {"x": ranks, "y": values, "line": {"color": "#b8bfc6", "width": 2}},
        line
        | {
            "x": ranks[is_kept],
            "y": values[is_kept],
            "line": {"color": SHADES["cell"], "width": 3},
        },
    ]
    log = {"type": "log", "dtick": 1, "exponentformat": "none", "tickformat": ",d"}
    return drawn(
        traces,
        xaxis=log | {"title": {"text": "cells, most open peaks first"}},
        yaxis=log | {"title": {"text": WORDS["cell"]}},
        shapes=_limit(tally, "y"),
    )


def histogram(tally: Tally, what: str) -> dict[str, Any]:
    """How many cells (peaks) have how many open peaks (cells), those left out in grey."""
    edges, counts = tally.histogram()
    is_kept = edges[:-1] >= (tally.least or 0)
    trace = {
        "type": "bar",
        "x": np.arange(len(counts)),
        "y": counts,
        "width": 1,
        "marker": {
            "color": [SHADES[what] if k else "#b8bfc6" for k in is_kept],
            "line": {"width": 0},
        },
        "customdata": np.column_stack([edges[:-1], edges[1:] - 1]),
        "hovertemplate": "%{customdata[0]:,} to %{customdata[1]:,} "
        + WORDS[what]
        + ": %{y:,} "
        + f"{what}s<extra></extra>",
    }
    ticks = count_ticks(edges)
    axis = {
        "tickvals": np.interp(np.log(ticks), np.log(edges), np.arange(len(edges)) - 0.5),
        "ticktext": [f"{value:,}" for value in ticks],
        "title": {"text": WORDS[what]},
        "tickangle": 0,
    }
    line = np.interp(np.log(max(tally.least or 1, 1)), np.log(edges), np.arange(len(edges)) - 0.5)
    shapes = dotted_line("x", line) if tally.least and edges[0] <= tally.least <= edges[-1] else []
    return drawn(
        [trace], bargap=0, xaxis=axis, yaxis={"title": {"text": f"{what}s"}}, shapes=shapes
    )


def count_ticks(edges: np.ndarray, most: int = 5) -> list[int]:
    """Return at most `most` round numbers between the first and the last edge, else these two.

    Counts of a small or uniform data set can all lie between two round numbers, such as 20 and 50.
    """
    low, high = int(edges[0]), int(edges[-1])
    round_numbers = [lead * 10**power for power in range(10) for lead in (1, 2, 5)]
    ticks = [value for value in round_numbers if low <= value <= high]
    if len(ticks) < 2:
        return sorted({low, high})
    return ticks[:: -(-len(ticks) // most)]


def _limit(tally: Tally, axis: str) -> list[dict[str, Any]]:
    return dotted_line(axis, tally.least) if tally.least else []


def dotted_line(axis: str, at: float) -> list[dict[str, Any]]:
    """Return the shape of a dotted line across the plot, at a value of this axis."""
    other_axis = "y" if axis == "x" else "x"
    coordinates = {
        f"{axis}0": at,
        f"{axis}1": at,
        f"{other_axis}0": 0,
        f"{other_axis}1": 1,
        f"{other_axis}ref": "paper",
    }
    return [{"type": "line", **coordinates, "line": {"color": INK, "width": 1.2, "dash": "dot"}}]


def curve(
    values: np.ndarray, title: str, *, first: int, best: int | None, color: str
) -> dict[str, Any]:
    """One learning curve, with a dotted line at the epoch whose weights were kept."""
    trace = {
        "type": "scatter",
        "mode": "lines+markers" if len(values) < 40 else "lines",
        "x": np.arange(len(values)) + first,
        "y": np.asarray(values, float),
        "line": {"color": color, "width": 2},
        "hovertemplate": "epoch %{x}: %{y:.4f}<extra></extra>",
    }
    shapes = [] if best is None else dotted_line("x", best)
    return drawn(
        [trace],
        xaxis={"title": {"text": "epoch"}, "rangemode": "tozero"},
        yaxis={"title": {"text": title}},
        shapes=shapes,
    )


def sizes(names: Sequence[str], counts: np.ndarray, shades: Sequence[str]) -> dict[str, Any]:
    """Cells of each cluster, as bars."""
    trace = {
        "type": "bar",
        "x": positions(names),
        "y": counts,
        "marker": {"color": list(shades)},
        "hovertemplate": "cluster %{x}: %{y:,} cells<extra></extra>",
    }
    return drawn(
        [trace],
        bargap=0.25,
        xaxis=named(names, title={"text": "cluster"}),
        yaxis={"title": {"text": "cells"}},
    )


def confusion(found: Agreement, rows: str, columns: str) -> dict[str, Any]:
    """Cells by label and cluster: shares of each label's cells as colours, numbers in the cells."""
    share = found.table / np.maximum(found.table.sum(1, keepdims=True), 1)
    few = found.table.size <= 600
    trace = {
        "type": "heatmap",
        "z": share.astype(np.float32),
        "x": positions(found.clusters),
        "y": positions(found.classes),
        "customdata": found.table,
        "colorscale": "Blues",
        "zmin": 0,
        "zmax": 1,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {
            "title": {"text": "share of<br>the label"},
            "tickformat": ".0%",
            "thickness": 12,
            "outlinewidth": 0,
        },
        "hovertemplate": "%{y} in cluster %{x}: %{customdata:,} cells (%{z:.0%})<extra></extra>",
    }
    if few:
        trace |= {
            "text": np.where(
                found.table > 0, np.vectorize(lambda n: f"{n:,}")(found.table), ""
            ).tolist()
        }
        trace |= {"texttemplate": "%{text}"}
    plain = {"showline": False, "ticks": "", "showgrid": False}
    return drawn(
        [trace],
        xaxis=named(found.clusters, title={"text": said(columns, SHORT)}, **plain),
        yaxis=named(
            found.classes,
            title={"text": said(rows, SHORT), "standoff": 12},
            autorange="reversed",
            **plain,
        ),
    )


def posterior(best: np.ndarray, clusters: pd.Series, shades: Sequence[str]) -> dict[str, Any]:
    """The largest responsibility of each cell, quartiles and 5 to 95 % a cluster."""
    names = list(clusters.cat.categories)
    quantiles = []
    for name in names:
        cells = (clusters == name).to_numpy()
        levels = [0.05, 0.25, 0.5, 0.75, 0.95]
        quantiles.append(np.quantile(best[cells], levels) if cells.any() else [np.nan] * 5)
    cuts = np.array(quantiles)
    traces = [
        {
            "type": "box",
            "x": [position],
            "lowerfence": cut[[0]],
            "q1": cut[[1]],
            "median": cut[[2]],
            "q3": cut[[3]],
            "upperfence": cut[[4]],
            "name": position,
            "line": {"color": INK, "width": 1},
            "fillcolor": shade,
            "hoverinfo": "y",
        }
        for position, cut, shade in zip(positions(names), cuts, shades, strict=True)
    ]
    axis = {"title": {"text": "largest responsibility"}, "range": [0, 1.03]}
    return drawn(traces, xaxis=named(names, title={"text": "cluster"}), yaxis=axis)


def markers(
    shares: np.ndarray, clusters: Sequence[str], peaks: Sequence[str], borders: Sequence[float]
) -> dict[str, Any]:
    """Share of open cells (clusters × peaks), each peak as a part of its highest."""
    highest = np.maximum(shares.max(0), 1e-12)
    trace = {
        "type": "heatmap",
        "z": (shares / highest).astype(np.float32),
        "customdata": shares.astype(np.float32),
        "x": positions(peaks),
        "y": positions(clusters),
        "colorscale": "Viridis",
        "zmin": 0,
        "zmax": 1,
        "colorbar": {
            "title": {"text": "part of<br>its highest"},
            "thickness": 12,
            "outlinewidth": 0,
        },
        "hovertemplate": "%{x}<br>open in %{customdata:.0%} of cluster %{y}<extra></extra>",
    }
    plain = {"showline": False, "ticks": "", "showgrid": False}
    lines = [
        {
            "type": "line",
            "x0": border,
            "x1": border,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"color": "white", "width": 1.5},
        }
        for border in borders
    ]
    return drawn(
        [trace],
        xaxis=named(
            peaks, showticklabels=len(peaks) <= 64, tickangle=-90, tickfont={"size": 9}, **plain
        ),
        yaxis=named(
            clusters, title={"text": "cluster", "standoff": 12}, autorange="reversed", **plain
        ),
        shapes=lines,
    )


def column(name: str, values: pd.Series, title: str, *, log: bool = False) -> dict[str, Any] | None:
    """What the script needs to colour cells by a column: codes of categories, or numbers; None
    where it holds nothing.
    """
    text: dict[str, Any] = {"name": name, "title": title}
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        numbers = values.to_numpy(np.float32, na_value=np.nan)
        if not np.isfinite(numbers).any():
            return None
        return text | {"kind": "number", "log": log, "values": base64_of(numbers, "float32")}
    labels = as_categories(values)
    sizes = labels.value_counts(sort=False).to_numpy()
    names = list(labels.cat.categories)
    if not names:
        return None
    largest = np.sort(np.argsort(-sizes, kind="stable")[:MOST_CATEGORIES])
    # of the smaller ones; the last, of cells without a label
    code = np.full(len(names) + 1, len(largest))
    code[largest] = np.arange(len(largest))
    categories = [names[code] for code in largest]
    shades = palette(len(largest))
    if len(largest) < len(names):
        categories.append(f"{len(names) - len(largest):,} smaller ones")
        shades.append("#9aa5b1")
    codes = code[labels.cat.codes.to_numpy()]
    missing = labels.isna().to_numpy()
    if missing.any():
        text["missing"] = len(categories)
        codes = np.where(missing, len(categories), codes)
        categories.append("no label")
        shades.append(UNKNOWN)
    return text | {
        "kind": "category",
        "names": [said(name) for name in categories],
        "short": [said(name, SHORT) for name in categories],
        "colors": shades,
        "values": base64_of(codes, "uint8"),
    }
