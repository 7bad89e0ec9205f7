"""``scale embed``."""

from __future__ import annotations

from scale_toolkit import keys
from scale_toolkit.cli.files import through
from scale_toolkit.cli.options import Input, Output, command
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import EmbedConfig


@command
def embed(source: Input = "-", output: Output = "-", *, config: EmbedConfig, talk: Talk) -> None:
    """Draw the latent space in two dimensions: UMAP or tSNE coordinates for every cell."""
    with through(source, output, talk, without=keys.LARGE) as cells:
        from scale_toolkit.stages.embed import embed as stage

        with talk.progress() as progress:
            result = stage(cells.adata, config, progress=progress)
        cells.write(result)
