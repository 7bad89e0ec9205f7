"""The figures of what `impute --validate` measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from scale_toolkit.plot.qc import SHADES
from scale_toolkit.plot.recovery import NAMES
from scale_toolkit.report.figures import dotted_line, drawn, positions


def recovery(report: dict[str, Any]) -> dict[str, Any]:
    """AUPRC of hidden open peaks among closed ones of the same frequency, the model beside the
    baselines.
    """
    by_method = {
        label: report["matched"][name] for name, label in NAMES.items() if name in report["matched"]
    }
    by_method = {
        name: figures for name, figures in by_method.items() if figures["auprc"] is not None
    }
    trace = {
        "type": "bar",
        "x": positions(list(by_method)),
        "y": [figures["auprc"] for figures in by_method.values()],
        "error_y": {
            "type": "data",
            "array": [2 * figures["auprc_error"] for figures in by_method.values()],
            "thickness": 1.2,
        },
        "marker": {"color": [SHADES["cell"], *["#9aa5b1"] * (len(by_method) - 1)]},
        "hovertemplate": "%{x}: AUPRC %{y:.3f}<extra></extra>",
    }
    shapes = dotted_line("y", report["chance"]["auprc"])
    return drawn(
        [trace], bargap=0.35, yaxis={"title": {"text": "AUPRC of hidden peaks"}}, shapes=shapes
    )


def reliability(report: dict[str, Any]) -> dict[str, Any]:
    """Predicted chances to be a hidden open peak against what was seen."""
    calibration = report["calibration"]
    predicted, observed = (
        np.asarray(calibration["predicted"], float),
        np.asarray(calibration["observed"], float),
    )
    fine = (predicted > 0) & (observed > 0)
    predicted, observed = predicted[fine], observed[fine]
    if not len(predicted):
        return drawn(
            [],
            xaxis={"title": {"text": "predicted chance"}},
            yaxis={"title": {"text": "share seen"}},
        )
    ends = [min(predicted.min(), observed.min()) * 0.8, max(predicted.max(), observed.max()) * 1.25]
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": ends,
            "y": ends,
            "line": {"color": "#7f7f7f", "dash": "dot"},
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": predicted,
            "y": observed,
            "line": {"color": SHADES["cell"]},
            "hovertemplate": "predicted %{x:.2%}, seen %{y:.2%}<extra></extra>",
        },
    ]
    ticks = [lead * 10.0**power for power in range(-6, 1) for lead in (1, 2, 5)]
    log = {
        "type": "log",
        "tickformat": ".2~%",
        "tickvals": [tick for tick in ticks if ends[0] <= tick <= ends[1]],
    }
    return drawn(
        traces,
        xaxis=log | {"title": {"text": "predicted chance"}},
        yaxis=log | {"title": {"text": "share seen"}},
    )
