"""The slots that ``markers --contrast`` writes."""

from __future__ import annotations

from scale_toolkit.slot import Slot

CONTRAST = Slot(
    "uns",
    "scale_contrast",
    "markers --contrast",
    "differences × figures",
    "DataFrame",
    "peaks that differ between two conditions, cluster by cluster, smallest p first",
)
CONTRAST_CLUSTERS = Slot(
    "uns",
    "scale_contrast_clusters",
    "markers --contrast",
    "clusters × figures",
    "DataFrame",
    "cells and samples compared in each cluster, and how many peaks differ",
)
CONTRAST_SCORE = Slot(
    "varm",
    "scale_contrast_score",
    "markers --contrast",
    "peaks × clusters",
    "float32",
    "t (or z) of the first condition against the second; NaN where not tested",
)
CONTRAST_FDR = Slot(
    "varm",
    "scale_contrast_fdr",
    "markers --contrast",
    "peaks × clusters",
    "float64",
    "Benjamini-Hochberg p-value",
)
CONTRAST_LOG_ODDS = Slot(
    "varm",
    "scale_contrast_log2_odds",
    "markers --contrast",
    "peaks × clusters",
    "float32",
    "log2 odds ratio at equal depth, first condition over the second",
)
