"""Options of ``genes``."""

from __future__ import annotations

from dataclasses import dataclass

from scale_toolkit.validation import THREADS, Config, option


@dataclass(frozen=True)
class GenesConfig(Config):
    """Options of ``genes``: which peaks count for a gene."""

    upstream: int = option(
        2_000, "Bases before the start of a gene that belong to it (promoter).", minimum=0
    )
    decay: int = option(
        5_000,
        "Distance in bases at which the weight of a peak outside has fallen to 1/e.",
        minimum=1,
    )
    max_distance: int = option(
        25_000, "Largest distance of a peak from a gene that it counts for, in bases.", minimum=0
    )
    n_threads: int = option(0, THREADS, minimum=0)
