"""``scale select-peaks``."""

from __future__ import annotations

from scale_toolkit import keys
from scale_toolkit.cli.files import through
from scale_toolkit.cli.options import Input, Output, command
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import SelectPeaksConfig


@command
def select_peaks(
    source: Input = "-", output: Output = "-", *, config: SelectPeaksConfig, talk: Talk
) -> None:
    """Score peaks by how much they vary between cells, and keep the best."""
    with through(
        source, output, talk, without=(keys.IMPUTED.path, keys.BINARY.path, keys.BINARY_PACKED.path)
    ) as cells:
        from scale_toolkit.stages.select_peaks import select_peaks as stage

        with talk.progress() as progress:
            result = stage(cells.adata, config, progress=progress)
        cells.write(result)
