"""``scale cluster``."""

from __future__ import annotations

from scale_toolkit import keys
from scale_toolkit.cli.files import through
from scale_toolkit.cli.options import Input, Output, command
from scale_toolkit.cli.summary import scores
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import ClusterConfig


@command
def cluster(
    source: Input = "-", output: Output = "-", *, config: ClusterConfig, talk: Talk
) -> None:
    """Cluster the cells in the latent space: Leiden, k-means, or the model's own mixture."""
    with through(source, output, talk, without=keys.LARGE) as cells:
        from scale_toolkit.stages.cluster import cluster as stage

        with talk.progress() as progress:
            result = stage(cells.adata, config, progress=progress)
        if config.reference:
            talk.show(*scores(result, config.reference))
        cells.write(result)
