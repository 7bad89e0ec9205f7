"""Options of ``annotate``."""

from __future__ import annotations

from dataclasses import dataclass

from scale_toolkit.validation import Config, option


@dataclass(frozen=True)
class AnnotateConfig(Config):
    """Options of ``annotate``: when a cluster is named by a cell type."""

    cluster_by: str = option("scale_cluster", "Column of obs with the clusters.")
    max_distance: int = option(
        5_000, "Bases from the start of a marker gene within which a peak counts.", minimum=0
    )
    min_fold: float = option(
        0.3, "Least log2 fold of a type's markers among the open peaks of a cluster.", minimum=0
    )
    min_t: float = option(3.0, "Least t of that enrichment over the cluster's cells.", minimum=0)
    min_margin: float = option(
        0.2, "Least lead of the best type over the second, as log2 fold.", minimum=0
    )
