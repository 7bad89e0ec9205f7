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
DOUBLET_SITES = Slot(
    "obs",
    "doublet_sites",
    "doublets",
    "cells",
    "int64",
    "autosomal sites that more than two fragments of the cell cover, if fragments were given",
)
DOUBLET_SITES_PADJ = Slot(
    "obs",
    "doublet_sites_pval_adj",
    "doublets",
    "cells",
    "float64",
    "adjusted P of that number by chance",
)
DOUBLETS = Slot(
    "uns",
    "scale_doublets",
    "doublets",
    "",
    "dict",
    "estimated rate, threshold, and histograms of observed and simulated scores",
)
