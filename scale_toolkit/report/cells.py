"""The section that draws the cells in two dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.known_labels import MOST_LABELS
from scale_toolkit.report import figures
from scale_toolkit.report.view import Section, View

MOST_COLUMNS = 12
# characters of what the cells are drawn from: with plotly's 4.8 MB and the rest, less than 15 MB
MOST_TEXT = 9_500_000


def cells_drawn(view: View) -> Section:
    """Draw the embedding, coloured by columns of obs."""
    section = Section(
        "cells",
        "Cells",
        "Each point is a cell; near cells have like open peaks. Distances between far groups mean "
        "little. Choose what colours "
        "the cells; a click on a name in the legend hides it, a double click shows it alone.",
    )
    adata = view.adata
    slot = next(
        (candidate for candidate in (keys.UMAP, keys.TSNE) if candidate.found_in(adata)), None
    )
    if slot is None:
        section.missing = f"{keys.UMAP} is missing: run scale embed first."
        return section
    points = np.asarray(slot.get(adata))[:, :2]
    # in random order (the same every time), so that the points drawn last are not those of one
    # cluster
    cells = np.random.default_rng(0).permutation(len(points))[: figures.MOST_DRAWN]
    if len(cells) < len(points):
        section.lines.append(
            f"{len(cells):,} of {len(points):,} cells are drawn, chosen at random."
        )
    barcodes = [str(barcode) for barcode in adata.obs_names[cells]]
    columns = _columns(view, cells, MOST_TEXT - sum(map(len, barcodes)) - 14 * len(barcodes))
    names = [column["name"] for column in columns]
    right = next(
        (name for name in (view.label, keys.BATCH.name, keys.N_PEAKS.name) if name in names),
        names[-1] if names else "",
    )
    view.drawn["embedding"] = {
        "x": figures.base64_of(points[cells, 0], "float32"),
        "y": figures.base64_of(points[cells, 1], "float32"),
        "axis": {keys.UMAP.name: "UMAP", keys.TSNE.name: "tSNE"}[slot.name],
        "names": barcodes,
        "columns": columns,
        "shown": [
            keys.CLUSTER.name if keys.CLUSTER.name in names else (names[0] if names else ""),
            right,
        ],
    }
    section.cells = True
    return section


def _columns(view: View, cells: np.ndarray, room: int) -> list[dict[str, Any]]:
    """Columns that can colour the cells, within a number of characters: clusters, labels, batches
    and depth, then other columns.
    """
    obs = view.adata.obs
    titles = {
        keys.CLUSTER.name: "cluster",
        **({view.label: f"{view.label} (label)"} if view.label else {}),
        keys.BATCH.name: "batch",
        keys.N_PEAKS.name: "depth (open peaks)",
    }
    titled = [name for name in titles if name in obs]
    further = []
    for name in (name for name in map(str, obs.columns) if name not in titles and name in obs):
        labels = not pd.api.types.is_numeric_dtype(obs[name].dtype)
        if labels and (
            obs[name].nunique() > MOST_LABELS
            or any(_same(obs[name], obs[titled_name]) for titled_name in titled)
        ):
            # a name per cell groups nothing, and a copy of another column adds nothing
            continue
        further.append(name)
    columns = []
    for name in [*titled, *further][:MOST_COLUMNS]:
        log = name in (keys.N_PEAKS.name, keys.N_COUNTS.name)
        column = figures.column(name, obs[name].iloc[cells], titles.get(name, name), log=log)
        room -= len(column["values"]["data"]) if column is not None else 0
        if column is not None and room > 0:
            columns.append(column)
    return columns


def _same(a: pd.Series, b: pd.Series) -> bool:
    """Whether two columns give every cell the same label."""
    return (
        not pd.api.types.is_numeric_dtype(b.dtype)
        and a.nunique() == b.nunique()
        and a.astype(str).equals(b.astype(str))
    )
