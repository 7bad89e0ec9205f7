"""``scale impute``."""

from __future__ import annotations

from scale_toolkit import keys
from scale_toolkit.cli.files import through
from scale_toolkit.cli.options import Input, Output, command
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import ImputeConfig


@command
def impute(source: Input = "-", output: Output = "-", *, config: ImputeConfig, talk: Talk) -> None:
    """Write the probability that each peak is open in each cell, or its binary form, block by block."""
    with through(source, output, talk, without=keys.LARGE) as cells:
        from scale_toolkit.stages.impute import outdated, streamed

        cells.forget(*(slot.path for slot in outdated(cells.adata, config)))
        with talk.progress() as progress:
            adata, blocks = streamed(cells.adata, config, progress=progress)
            cells.write(adata, blocks)
