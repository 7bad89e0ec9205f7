"""Options of ``map``."""

from __future__ import annotations

from dataclasses import dataclass

from scale_toolkit.validation import SEED, THREADS, Config, option


@dataclass(frozen=True)
class MapConfig(Config):
    """Options of ``map``: what new cells get from a trained file."""

    labels: tuple[str, ...] = option(
        (),
        "Columns of the reference's obs to transfer, such as cell_type.",
        metavar="COLUMN,COLUMN",
    )
    max_fdr: float = option(
        0.05,
        "Largest p-value of a cell that is called not in the reference, after Benjamini and "
        "Hochberg.",
        minimum=0,
        maximum=1,
    )
    min_weight: float = option(
        0.1,
        "Least share of the decoder's weight that the query's peaks must cover.",
        minimum=0,
        maximum=1,
    )
    update: bool = option(
        False,
        "Fine-tune the encoder on the new cells; the reference's decoder and mixture stay.",
    )
    seed: int = option(18, SEED, minimum=0, maximum=2**32 - 1)
    n_threads: int = option(0, THREADS, minimum=0)
