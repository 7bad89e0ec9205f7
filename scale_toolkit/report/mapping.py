"""The section about mapped cells: what was covered, labels, and cells that the reference lacks."""

from __future__ import annotations

from typing import Any

import numpy as np

from scale_toolkit import keys
from scale_toolkit.report.findings import Finding
from scale_toolkit.report.histograms import two_histograms
from scale_toolkit.report.view import MOST_SHOWN, Section, View

#: Share of called cells above which the reference is probably the wrong one.
MOSTLY = 0.5
_NOVELTY_WORDS = (
    "Novelty says how unlike the reference's cells a cell is, in their standard deviations; the "
    "cells called are less like any of them than the reference's cells are like each other."
)
_MODEL_WORDS = (
    "The reference was a model file, which holds no cells: labels and novelty were not computed."
)


def mapping(view: View) -> Section | None:
    """Show how the cells were mapped to a reference; None if `map` was not run."""
    if not keys.MAPPING.found_in(view.adata):
        return None
    summary = keys.MAPPING.get(view.adata)
    has_novelty = "edges" in summary
    section = Section(
        "mapping",
        "Mapping to a reference",
        "The cells were placed in the latent space of cells that a model was trained on. "
        + (_NOVELTY_WORDS if has_novelty else _MODEL_WORDS),
    )
    section.lines.append(
        f"Of {int(summary['n_peaks']):,} modelled peaks {int(summary['n_named']):,} were found by "
        f"name and {int(summary['n_overlapping']):,} by overlap: "
        f"{float(summary['weight']):.0%} of the decoder's weight."
    )
    if "update" in summary:
        section.lines[0] += f" {str(summary['update']).capitalize()}."
    if not has_novelty:
        return section
    section.plots = [
        [view.add("novelty", _novelty(summary), 260, "novelty of new and of reference cells")]
    ]
    n_called, n_cells = int(summary["n_called"]), int(summary["n_cells"])
    section.lines[0] += f" {n_called:,} of {n_cells:,} cells are called not in the reference."
    if n_called > MOSTLY * n_cells:
        view.findings.append(
            Finding(
                "warning",
                f"{n_called / n_cells:.0%} of the cells are unlike the reference.",
                "Use a reference of this tissue, or train on both.",
            )
        )
    _labels(view, section, [str(name) for name in summary["labels"]])
    return section


def _labels(view: View, section: Section, columns: list[str]) -> None:
    """Add the transferred labels with their cells, confidence and calls."""
    called = np.asarray(keys.NOT_IN_REFERENCE.get(view.adata), bool)
    rows = []
    for column in columns:
        label_slot, confidence_slot = keys.label_slots(column)
        if not label_slot.found_in(view.adata):
            continue
        labels = label_slot.get(view.adata).astype(str).to_numpy()
        confidence = np.asarray(confidence_slot.get(view.adata), float)
        names, counts = np.unique(labels, return_counts=True)
        for number in np.argsort(-counts, kind="stable")[:MOST_SHOWN]:
            members = labels == names[number]
            rows.append(
                [
                    column,
                    str(names[number]),
                    f"{counts[number]:,}",
                    f"{np.median(confidence[members]):.2f}",
                    f"{called[members].sum():,}",
                ]
            )
    if rows:
        section.table = (["column", "label", "cells", "median confidence", "not in it"], rows)
        section.numbers = ("cells", "median confidence", "not in it")


def _novelty(summary: Any) -> dict[str, Any]:
    """Histograms of novelty, each as a share of its own cells."""
    return two_histograms(
        summary,
        {"reference": "reference cells", "query": "new cells"},
        "novelty %{x:.1f}",
        xaxis={"title": {"text": "novelty"}},
        yaxis={"title": {"text": "share"}},
    )
