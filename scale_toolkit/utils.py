"""Functions that SCALE's users call in a notebook, under the names SCALE gave them.

If SCALE's release 1.1.2 no longer runs or does not do what it says, the function here does what it
says; each docstring names the difference. SCALE's matrices are peaks × cells, as they were; if an
AnnData (cells × peaks) is accepted too, the docstring says so.
"""

from __future__ import annotations

from scale_toolkit.compat.binarize import binarization
from scale_toolkit.compat.estimate import estimate_k
from scale_toolkit.compat.labels import cluster_report, read_labels, reassign_cluster_with_ref
from scale_toolkit.compat.peaks import (
    cluster_specific,
    get_decoder_weight,
    jsd,
    jsd_sp,
    log2norm,
    mat_specificity_score,
    peak_selection,
    predefined_pattern,
    vec_specificity_score,
)
from scale_toolkit.compat.tables import (
    cell_filter,
    gene_filter_,
    pairwise_pearson,
    peak_filter,
    sample_filter,
    sort_by_mad,
)
from scale_toolkit.get import specificity, top_markers

__all__ = [
    "binarization",
    "cell_filter",
    "cluster_report",
    "cluster_specific",
    "estimate_k",
    "gene_filter_",
    "get_decoder_weight",
    "jsd",
    "jsd_sp",
    "log2norm",
    "mat_specificity_score",
    "pairwise_pearson",
    "peak_filter",
    "peak_selection",
    "predefined_pattern",
    "read_labels",
    "reassign_cluster_with_ref",
    "sample_filter",
    "sort_by_mad",
    "specificity",
    "top_markers",
    "vec_specificity_score",
]
