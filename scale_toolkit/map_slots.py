"""The slots that ``map`` writes besides those of ``train``."""

from __future__ import annotations

from scale_toolkit.slot import Slot

NOVELTY = Slot(
    "obs",
    "scale_novelty",
    "map",
    "cells",
    "float64",
    "unlikeness to the reference's cells, in their standard deviations",
)
NOVELTY_P = Slot(
    "obs",
    "scale_novelty_p",
    "map",
    "cells",
    "float64",
    "share of the reference's own cells that are as unlike the others",
)
NOT_IN_REFERENCE = Slot(
    "obs",
    "scale_not_in_reference",
    "map",
    "cells",
    "bool",
    "whether the cell is called unlike every type of the reference",
)
MAPPING = Slot(
    "uns",
    "scale_map",
    "map",
    "",
    "dict",
    "peaks and weight that were covered, labels, calls, and histograms of novelty",
)


def label_slots(column: str) -> tuple[Slot, Slot]:
    """Return the slots of the labels of a column of the reference, and of their confidence."""
    name = f"scale_map_{column}"
    return (
        Slot("obs", name, "map", "cells", "category", "label from the reference"),
        Slot("obs", f"{name}_confidence", "map", "cells", "float64", "its probability"),
    )
