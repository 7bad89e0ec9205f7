"""Figures of `impute --validate`: recovery beside the baselines, and reliability."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit import keys
from scale_toolkit.plot import _figure
from scale_toolkit.plot._figure import styled

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

NAMES = {
    "model": "model",
    "frequency": "peak frequency",
    "neighbours": "near cells",
    "tfidf_svd": "TF-IDF+SVD",
}


@styled
def recovery(
    adata: AnnData,
    *,
    by_cluster: bool = False,
    ax: Axes | None = None,
    save: str | Path | None = None,
    figsize: tuple[float, float] = (3.6, 2.6),
) -> Axes:
    """Draw the AUPRC of hidden open peaks among closed ones of the same frequency: the model and
    three baselines.

    Bars with two standard errors; the dotted line is chance.

    Parameters
    ----------
    adata
        An AnnData that `impute` has validated.
    by_cluster
        A group of bars a cluster, instead of all cells.
    ax, save, figsize
        Draw here; write the figure there; inches.
    """
    report = _report(adata)
    groups = {"all cells": report} if not by_cluster else report["clusters"]
    ax = _figure.axes_for(ax, (max(figsize[0], 0.55 * len(groups) + 1.4), figsize[1]))
    width = 0.8 / len(NAMES)
    for i, ((method, label), shade) in enumerate(zip(NAMES.items(), _figure.colors(len(NAMES)))):
        figures = [group["matched"][method] for group in groups.values()]
        heights = [np.nan if f["auprc"] is None else f["auprc"] for f in figures]
        errors = [0 if f["auprc_error"] is None else 2 * f["auprc_error"] for f in figures]
        positions = np.arange(len(groups)) + (i - (len(NAMES) - 1) / 2) * width
        ax.bar(
            positions,
            heights,
            0.92 * width,
            yerr=errors,
            color=shade,
            label=label,
            error_kw={"elinewidth": 0.8},
        )
    ax.axhline(report["chance"]["auprc"], color="#7F7F7F", linewidth=0.8, linestyle=":")
    ax.set_xticks(range(len(groups)), list(groups))
    ax.set_ylabel("AUPRC, frequency-matched")
    ax.set_ylim(bottom=0)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return _figure.finish(ax, save)


@styled
def reliability(
    adata: AnnData,
    *,
    ax: Axes | None = None,
    save: str | Path | None = None,
    figsize: tuple[float, float] = (2.9, 2.7),
) -> Axes:
    """Draw predicted against observed probabilities of a hidden open peak, in bins of equal mass.

    A band of 10 % about the diagonal; bars are two standard errors.

    Parameters
    ----------
    adata
        An AnnData that `impute` has validated.
    ax, save, figsize
        Draw here; write the figure there; inches.
    """
    calibration = _report(adata)["calibration"]
    predicted, observed, ratio, error = (
        np.asarray(calibration[name]) for name in ("predicted", "observed", "ratio", "error")
    )
    ax = _figure.axes_for(ax, figsize)
    ends = np.array(
        [
            min(predicted.min(), observed[observed > 0].min(initial=1)),
            max(predicted.max(), observed.max()),
        ]
    )
    ends *= [0.8, 1.25]
    ax.fill_between(ends, 0.9 * ends, 1.1 * ends, color="#D0D0D0", linewidth=0)
    ax.plot(ends, ends, color="#7F7F7F", linewidth=0.8, linestyle=":")
    bars = 2 * np.where(ratio > 0, error / np.maximum(ratio, 1e-12), 0) * observed
    ax.errorbar(
        predicted, observed, bars, marker="o", markersize=3, linewidth=1, color=_figure.OKABE_ITO[0]
    )
    ax.set(
        xscale="log",
        yscale="log",
        xlim=ends,
        ylim=ends,
        xlabel="predicted probability of a hidden open peak",
        ylabel="observed share",
    )
    for axis in (ax.xaxis, ax.yaxis):
        _percent_ticks(axis)
    ax.text(
        0.04,
        0.95,
        f"slope {calibration['slope']:.2f}",
        transform=ax.transAxes,
        va="top",
        fontsize=8,
    )
    return _figure.finish(ax, save)


def _report(adata: AnnData) -> dict[str, Any]:
    return json.loads(keys.VALIDATION.get(adata))


def _percent_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with at most six round percentages: 0.2 %, 0.5 %, 1 %, …"""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    for leads in ((1, 2, 5), (1, 3), (1,)):
        ticks = [lead * 10.0**power for power in range(-8, 1) for lead in leads]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= 6:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
