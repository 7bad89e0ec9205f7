"""Figures from an AnnData, and SCALE's own plotting functions under their release names.

Every function draws on ``ax`` if it is given, else on a new figure, returns the axes, and writes
the figure to ``save`` if a path is given: PDF, PNG or SVG by its suffix, complete or not at all.
Equal input gives equal bytes.

In a script the new figure is a plain `matplotlib.figure.Figure`: no window opens and pyplot's state
is not touched. If matplotlib is interactive (a notebook), the figure comes from pyplot, so that the
notebook shows it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scale_toolkit.plot._figure import OKABE_ITO, colors, label_colors, save_figure
from scale_toolkit.plot.choose_k import choose_k
from scale_toolkit.plot.confusion import confusion_matrix
from scale_toolkit.plot.contrast import contrast
from scale_toolkit.plot.correlation import correlation
from scale_toolkit.plot.doublets import doublets
from scale_toolkit.plot.embedding import embedding
from scale_toolkit.plot.heatmaps import heatmap
from scale_toolkit.plot.history import history
from scale_toolkit.plot.locus import locus
from scale_toolkit.plot.novelty import novelty
from scale_toolkit.plot.qc import qc
from scale_toolkit.plot.recovery import recovery, reliability
from scale_toolkit.plot.specificity import feature_specificity

if TYPE_CHECKING:
    from scale_toolkit.compat.plots import (
        corr_heatmap,
        feature_specifity,
        lineplot,
        plot_confusion_matrix,
        plot_embedding,
        plot_heatmap,
        plot_metrics,
        sort_by_classes,
    )

plot_loss = history
# the names of `scale plot`
confusion = confusion_matrix
specificity = feature_specificity
loss = history

__all__ = [
    "OKABE_ITO",
    "choose_k",
    "colors",
    "confusion",
    "confusion_matrix",
    "contrast",
    "corr_heatmap",
    "correlation",
    "doublets",
    "embedding",
    "feature_specificity",
    "feature_specifity",
    "heatmap",
    "history",
    "label_colors",
    "lineplot",
    "locus",
    "loss",
    "novelty",
    "plot_confusion_matrix",
    "plot_embedding",
    "plot_heatmap",
    "plot_loss",
    "plot_metrics",
    "qc",
    "recovery",
    "reliability",
    "save_figure",
    "sort_by_classes",
    "specificity",
]

#: The release's functions are loaded when they are used: `compat.plots` draws with this package.
_RELEASE = frozenset(
    {
        "corr_heatmap",
        "feature_specifity",
        "lineplot",
        "plot_confusion_matrix",
        "plot_embedding",
        "plot_heatmap",
        "plot_metrics",
        "sort_by_classes",
    }
)


def __getattr__(name: str) -> Any:
    if name in _RELEASE:
        return getattr(import_module("scale_toolkit.compat.plots"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
