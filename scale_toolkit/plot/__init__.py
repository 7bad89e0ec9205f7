"""Figures from an AnnData, and SCALE's own plotting functions under their release names.

Every function draws on ``ax`` where one is given, else on a new figure, returns the axes, and writes the figure to
``save`` where a path is given: PDF, PNG or SVG by its suffix, complete or not at all. Equal input gives equal bytes.

In a script the new figure is a plain `matplotlib.figure.Figure`: no window opens and pyplot's state is not touched.
Where matplotlib is interactive (a notebook), the figure comes from pyplot, so that the notebook shows it.
"""

from __future__ import annotations

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
from scale_toolkit.plot._figure import OKABE_ITO, colors, save_figure
from scale_toolkit.plot.embedding import embedding
from scale_toolkit.plot.heatmaps import confusion_matrix, correlation, feature_specificity, heatmap
from scale_toolkit.plot.history import history
from scale_toolkit.plot.qc import qc
from scale_toolkit.plot.recovery import recovery, reliability

plot_loss = history
# the names of `scale plot`
confusion = confusion_matrix
specificity = feature_specificity
loss = history

__all__ = [
    "OKABE_ITO",
    "colors",
    "confusion",
    "confusion_matrix",
    "corr_heatmap",
    "correlation",
    "embedding",
    "feature_specificity",
    "feature_specifity",
    "heatmap",
    "history",
    "lineplot",
    "loss",
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
