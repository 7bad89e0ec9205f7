"""Options of ``simulate``."""

from __future__ import annotations

from dataclasses import dataclass

from scale_toolkit.validation import SEED, Config, option

LIKE = (
    "leukemia",
    "forebrain",
    "splenocyte",
    "mouse-atlas",
    "insilico",
    "gm12878-hek",
    "gm12878-hl",
    "breast-tumor",
)


@dataclass(frozen=True)
class SimulateConfig(Config):
    """Options of ``simulate``: cells with planted clusters. A None means the value of `like`, or
    the default in the help.
    """

    like: str | None = option(
        None, "Size, depth and number of classes of one of SCALE's data sets.", choices=LIKE
    )
    n_cells: int | None = option(None, "Cells (1,000).", minimum=1)
    n_peaks: int | None = option(None, "Peaks (20,000).", minimum=1)
    n_clusters: int | None = option(None, "Planted clusters (8).", flags=("-k",), minimum=1)
    open_peaks: float | None = option(
        None, "Median number of open peaks a cell (2,000).", minimum=1
    )
    n_batches: int = option(
        1, "Batches, each with its own shift of peak frequencies and depth.", minimum=1
    )
    doublets: float = option(
        0.0,
        "Share of cells that are the union of two cells of different clusters.",
        minimum=0,
        maximum=1,
    )
    continuum: float = option(
        0.0, "Share of cells that lie on a path between two clusters.", minimum=0, maximum=1
    )
    seed: int = option(18, SEED, minimum=0, maximum=2**32 - 1)
