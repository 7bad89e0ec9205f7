"""``scale simulate``."""

from __future__ import annotations

from scale_toolkit.cli.options import Output, command
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import SimulateConfig


@command
def simulate(output: Output = "-", *, config: SimulateConfig, talk: Talk) -> None:
    """Simulate cells with planted clusters, in blocks, with the true labels in obs."""
    from scale_toolkit.io.files import check_destination
    from scale_toolkit.io.h5ad import write_h5ad

    check_destination(output, stdout=talk.binary_stdout())
    from scale_toolkit.stages.simulate import streamed

    adata, blocks = streamed(config)
    write_h5ad(adata, output, streamed=blocks, stdout=talk.binary_stdout())
