"""The slots that ``doublets`` writes."""

from __future__ import annotations

from scale_toolkit.slot import Slot

DOUBLET_SCORE = Slot(
    "obs",
    "doublet_score",
    "doublets",
    "cells",
    "float64",
    "likeness to simulated doublets of unlike cells, 0 to 1",
)
PREDICTED_DOUBLET = Slot(
    "obs", "predicted_doublet", "doublets", "cells", "bool", "whether the cell is called a doublet"
)
DOUBLETS = Slot(
    "uns",
    "scale_doublets",
    "doublets",
    "",
    "dict",
    "estimated rate, threshold, and histograms of observed and simulated scores",
)
