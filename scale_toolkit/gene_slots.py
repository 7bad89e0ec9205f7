"""The slots that ``genes`` writes to a new AnnData of cells × genes, besides X."""

from __future__ import annotations

from scale_toolkit.slot import Slot

GENE_COUNTS = Slot(
    "layers",
    "counts",
    "genes",
    "cells × genes",
    "CSR float32",
    "weighted sum of the open peaks of a cell near each gene",
)
GENE_PEAKS = Slot("var", "n_peaks", "genes", "genes", "int64", "peaks that count for the gene")
