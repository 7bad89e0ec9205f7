"""The sections about the input and the training: cells and peaks kept, learning curves."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.config import PRESETS
from scale_toolkit.errors import MissingSlotError
from scale_toolkit.plot.qc import SHADES, Tally
from scale_toolkit.report import figures, findings
from scale_toolkit.report.view import Section, View


def kept(view: View) -> Section:
    """Show which cells and peaks `prepare` kept."""
    section = Section(
        "kept",
        "Cells and peaks kept",
        "Barcodes with few open peaks are mostly empty droplets; peaks open in few cells separate "
        "groups by chance alone.",
    )
    done = view.run("prepare")
    if done is not None:
        view.findings += findings.of_preparation(done.notes)
    try:
        cells, peaks = Tally.of(view.adata, "cell"), Tally.of(view.adata, "peak")
    except MissingSlotError as error:
        section.missing = str(error)
        return section
    section.plots = [[
        view.add("knee", figures.knee(cells), 260, "open peaks of the cells in falling order"),
        view.add("histogram", figures.histogram(cells, "cell"), 260, "cells by their number of "
                                                                     "open peaks"),
        view.add("peaks", figures.histogram(peaks, "peak"), 260, "peaks by the number of cells "
                                                                 "they are open in"),
    ]]  # fmt: skip
    recorded = keys.QC.found_in(view.adata)
    section.meaning += (
        " Grey is what was left out; the dotted line is the limit." if recorded else ""
    )
    for tally, kind, condition in (
        (cells, "cells", "with {} or more open peaks"),
        (peaks, "peaks", "open in {} cells or more"),
    ):
        if recorded:
            section.lines.append(
                f"{tally.kept:,} of {tally.total:,} {kind} kept: those "
                f"{condition.format(f'{tally.least:,.0f}')}."
            )
        else:
            section.lines.append(
                f"{tally.total:,} {kind}; what was left out before is not recorded in this file."
            )
    fragment_figures(view, section)
    chosen = view.run("select-peaks")
    if keys.SELECTED.found_in(view.adata) and chosen is not None:
        n = int(np.asarray(keys.SELECTED.get(view.adata), bool).sum())
        best = f"{n:,} of them, the best by {chosen.options.get('method', 'their score')}"
        n_before = chosen.notes.get("n_peaks_found", view.adata.n_vars)
        section.lines.append(f"The model saw {'all of them' if n == n_before else best}.")
    return section


#: Columns of obs that hold figures of a cell's fragments, by their names in lower case without
#: separators: ours, and those of SnapATAC2, Signac, ArchR and Cell Ranger.
FRAGMENT_FIGURES = {
    "frip": (
        "FRiP",
        "share of a cell's insertions that lie in peaks (FRiP)",
        ("frip", "pctreadsinpeaks"),
    ),
    "tss": ("TSS enrichment", "TSS enrichment", ("tssenrichment", "tsse", "tssscore")),
}


def fragment_figures(view: View, section: Section) -> None:
    """Add the distributions of FRiP and TSS enrichment over the cells, if obs has them."""
    obs = view.adata.obs
    plain_names = {re.sub(r"[^a-z]", "", str(name).lower()): str(name) for name in obs.columns}
    row = []
    for key, (title, meaning, names) in FRAGMENT_FIGURES.items():
        column = next((plain_names[name] for name in names if name in plain_names), None)
        if column is None or not pd.api.types.is_numeric_dtype(obs[column].dtype):
            continue
        values = obs[column].to_numpy(float, na_value=np.nan)
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        low, middle, high = np.percentile(values, [25, 50, 75])
        section.lines.append(
            f"{column}, {meaning}: median {middle:.3g}, quartiles {low:.3g} and {high:.3g}, "
            f"in {len(values):,} cells."
        )
        figure = _distribution(values, title, middle)
        row.append(view.add(key, figure, 260, f"cells by {title}; the dotted line is the median"))
    if row:
        section.plots.append(row)


def _distribution(
    values: np.ndarray, title: str, middle: float, n_bins: int = 40
) -> dict[str, Any]:
    """Show how many cells have which value of a figure such as FRiP, with a line at the median."""
    counts, edges = np.histogram(values, bins=n_bins)
    trace = {
        "type": "bar",
        "x": (edges[:-1] + edges[1:]) / 2,
        "y": counts,
        "width": np.diff(edges),
        "marker": {"color": SHADES["cell"], "line": {"width": 0}},
        "customdata": np.column_stack([edges[:-1], edges[1:]]),
        "hovertemplate": "%{customdata[0]:.3g} to %{customdata[1]:.3g}: %{y:,} cells"
        "<extra></extra>",
    }
    return figures.drawn(
        [trace],
        bargap=0,
        xaxis={"title": {"text": title}},
        yaxis={"title": {"text": "cells"}},
        shapes=figures.dotted_line("x", middle),
    )


def training(view: View) -> Section:
    """Show the learning curves."""
    section = Section(
        "training",
        "Training",
        "The loss is what the model makes smaller. A few open peaks were hidden from it: how "
        "likely it finds those shows what "
        "it has learned about cells rather than by heart. The dotted line is the epoch whose "
        "weights were kept.",
    )
    done = view.run("train")
    if not keys.HISTORY.found_in(view.adata):
        encoded = view.run("map") is not None or (done is not None and done.notes.get("pretrained"))
        section.missing = (
            (
                "The cells were encoded by a model trained elsewhere; its curves are with that "
                "training."
            )
            if encoded
            else f"{keys.HISTORY} is missing: run scale train first."
        )
        view.findings += findings.of_encoding(done.notes) if done else []
        return section
    stored = keys.HISTORY.get(view.adata)
    notes = done.notes if done else {}
    best = notes.get("best_epoch")
    curves = {"loss": "loss", "held_out": "log-likelihood, hidden peaks"}
    n_epochs = min(
        (len(stored[name]) for name in stored if np.ndim(stored[name]) == 1 and len(stored[name])),
        default=0,
    )
    row = []
    for (name, title), color in zip(curves.items(), figures.palette(3)[::2], strict=True):
        values = np.ravel(np.asarray(stored.get(name, ()), float))
        if len(values):
            first = 1 if len(values) == n_epochs else 0
            figure = figures.curve(values, title, first=first, best=best, color=color)
            row.append(view.add(f"curve_{name}", figure, 250, f"{title} by epoch"))
    section.plots = [row]
    if "held_out" not in stored:
        section.lines.append("No peaks were held out in this training.")
    options = dict(done.options) if done else {}
    preset = PRESETS.get(str(options.get("preset")), {})
    options |= {key: value for key, value in preset.items() if options.get(key) is None}
    view.findings += findings.of_training(stored, notes, options)
    if view.latent is not None and view.depth is not None:
        view.findings += findings.of_depth(view.latent, view.depth)
    return section
