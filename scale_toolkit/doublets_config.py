"""Options of ``doublets``."""

from __future__ import annotations

from dataclasses import dataclass

from scale_toolkit.validation import SEED, THREADS, Config, option


@dataclass(frozen=True)
class DoubletsConfig(Config):
    """Options of ``doublets``: which cells look like the union of two."""

    rate: float | None = option(
        None,
        "Share of the cells to call doublets, those with the highest scores; left out, it is "
        "estimated.",
        minimum=0,
        maximum=1,
    )
    autosomes: tuple[str, ...] = option(
        (),
        "With fragments: chromosomes of which a cell has two copies; left out, those with a number "
        "(chr1, 19, chr2L).",
        metavar="CHR,CHR",
    )
    max_fdr: float = option(
        0.01,
        "With fragments: adjusted P of a cell's sites with more than two fragments up to which it "
        "is called too.",
        minimum=0,
        maximum=1,
    )
    remove: bool = option(False, "Drop the called doublets; train and cluster again after that.")
    seed: int = option(18, SEED, minimum=0, maximum=2**32 - 1)
    n_threads: int = option(0, THREADS, minimum=0)
