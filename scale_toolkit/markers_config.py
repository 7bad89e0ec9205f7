"""Options of ``markers``."""

from __future__ import annotations

from dataclasses import dataclass

from scale_toolkit.errors import OptionError
from scale_toolkit.validation import SEED, THREADS, Config, option


@dataclass(frozen=True)
class MarkersConfig(Config):
    """Options of ``markers``: which peaks are open more often in a cluster than in the other
    cells.
    """

    cluster_by: str = option(
        "scale_cluster",
        "Column of obs with the clusters; cells without one are left out.",
        flags=("--groupby",),
        metavar="COLUMN",
    )
    contrast: tuple[str, ...] = option(
        (),
        "Compare two conditions within each cluster instead of the clusters: a column of obs and "
        "two of its values; a score above 0 is more open in A.",
        metavar="COLUMN:A:B",
    )
    sample_key: str | None = option(
        None,
        "Column of obs with the sample (donor, library) of each cell: the replicates of "
        "--contrast. Left out, cells count as independent.",
        metavar="COLUMN",
    )
    method: str = option(
        "logistic",
        "logistic: score test of a logistic regression on cluster and log depth; wilcoxon: "
        "scanpy's rank-sum test of the "
        "binarised counts, which knows no depth.",
        choices=("logistic", "wilcoxon"),
    )
    max_fdr: float = option(
        0.05, "Largest p-value of a marker after Benjamini and Hochberg.", minimum=0, maximum=1
    )
    min_odds_ratio: float = option(
        1.5,
        "Least odds ratio of a marker: its odds of being open in the cluster over those in the "
        "rest, at equal depth. With --contrast, in either direction.",
        minimum=1,
    )
    min_share: float = option(
        0.01,
        "Share of the cluster's cells that a marker is open in, at least.",
        minimum=0,
        maximum=1,
    )
    min_cells: int = option(
        10, "Test only peaks that are open in at least this many cells.", minimum=1
    )
    weight_cutoff: float = option(
        2.5,
        "Mark a peak for a latent dimension where its decoder loading is this many standard "
        "deviations from their mean.",
        minimum=0,
    )
    # motif enrichment
    motif_p: float = option(
        1e-4,
        "p-value of a motif's hit in one place of random sequence.",
        minimum=1e-12,
        maximum=0.1,
    )
    background_ratio: int = option(
        5,
        "Background peaks a marker, of like GC content and open in about as many cells; fewer "
        "where there are not as many.",
        minimum=1,
    )
    seed: int = option(18, SEED, minimum=0, maximum=2**32 - 1)
    n_threads: int = option(0, THREADS, minimum=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.contrast:
            object.__setattr__(self, "contrast", _parsed(self.contrast))
        if self.contrast and self.method != "logistic":
            raise OptionError(
                f"contrast is given and method is {self.method}",
                "logistic",
                "drop one of the two",
            )
        if self.sample_key is not None and not self.contrast:
            raise OptionError(f"sample_key is {self.sample_key} and contrast is left out", "both")


def _parsed(contrast: tuple[str, ...]) -> tuple[str, ...]:
    """Return column and two values, from three strings or from ``COLUMN:A:B``."""
    # the command line splits at commas, which a value may hold
    fields = contrast if len(contrast) == 3 else tuple(",".join(contrast).split(":"))
    if len(fields) != 3 or not all(fields):
        raise OptionError(
            f"contrast is {':'.join(contrast)!r}",
            "COLUMN:A:B, a column of obs and two of its values",
            "in Python, a tuple of three strings if a value holds a colon",
        )
    if fields[1] == fields[2]:
        raise OptionError(f"contrast compares {fields[1]!r} with itself", "two different values")
    return fields
