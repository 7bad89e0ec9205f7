"""The slots of `simulate`: the truth about planted cells and peaks."""

from __future__ import annotations

from scale_toolkit.slot import Slot

CELL_TYPE = Slot(
    "obs",
    "cell_type",
    "simulate",
    "cells",
    "category",
    "planted cluster; the nearer one on a path between two",
)
IS_DOUBLET = Slot(
    "obs", "is_doublet", "simulate", "cells", "bool", "whether the cell is the union of two"
)
DOUBLET_WITH = Slot(
    "obs", "doublet_with", "simulate", "cells", "category", "cluster of a doublet's second cell"
)
PATH_FROM = Slot(
    "obs",
    "path_from",
    "simulate",
    "cells",
    "category",
    "start of the path between two clusters a cell is on",
)
PATH_TO = Slot("obs", "path_to", "simulate", "cells", "category", "end of that path")
PATH_POSITION = Slot(
    "obs",
    "path_position",
    "simulate",
    "cells",
    "float64",
    "place on that path, in [0, 1]; NaN off any",
)
TRUE_DEPTH = Slot(
    "obs",
    "true_depth",
    "simulate",
    "cells",
    "float64",
    "expected open peaks of a cell, or of a doublet's halves",
)
PROGRAM = Slot(
    "var",
    "program",
    "simulate",
    "peaks",
    "category",
    "cluster, or pair of clusters, that has the peak's odds raised",
)
