"""``scale genes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from scale_toolkit import keys
from scale_toolkit.cli.files import check_readable, through
from scale_toolkit.cli.options import Input, Output, command, given
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import GenesConfig
from scale_toolkit.errors import UsageError

Gtf = Annotated[
    Path | None, given("--gtf", metavar="FILE", help="Genes (GTF, plain or gzip) of the genome.")
]


@command
def genes(
    source: Input = "-",
    output: Output = "-",
    gtf: Gtf = None,
    *,
    config: GenesConfig,
    talk: Talk,
) -> None:
    """Write the activity of genes in each cell, as an h5ad of cells × genes."""
    if gtf is None:
        raise UsageError("no --gtf", "a GTF file of the genome that the peaks were called on")
    check_readable(gtf)
    not_loaded = tuple(path for path in keys.LARGE if path != "X")
    with through(source, output, talk, without=not_loaded) as cells:
        from scale_toolkit.io.genes import read_gene_bodies
        from scale_toolkit.io.h5ad import write_h5ad
        from scale_toolkit.stages.genes import streamed

        result, blocks = streamed(cells.adata, config, genes=read_gene_bodies(gtf))
        # nothing is copied from the input, whose columns are peaks
        write_h5ad(result, output, streamed=blocks, stdout=talk.binary_stdout())
