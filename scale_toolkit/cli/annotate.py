"""``scale annotate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from scale_toolkit import keys
from scale_toolkit.cli.files import check_readable, through
from scale_toolkit.cli.options import Input, Output, command, given
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import AnnotateConfig
from scale_toolkit.errors import UsageError

if TYPE_CHECKING:
    from anndata import AnnData
    from rich.table import Table

Markers = Annotated[
    Path | None,
    given(
        "--markers",
        metavar="TABLE",
        help="Columns type and marker (TSV or CSV): genes, or regions such as chr1:100-200.",
    ),
]
Gtf = Annotated[
    Path | None,
    given("--gtf", metavar="FILE", help="Genes (GTF), needed if a marker is a gene."),
]


@command
def annotate(
    source: Input = "-",
    output: Output = "-",
    markers: Markers = None,
    gtf: Gtf = None,
    *,
    config: AnnotateConfig,
    talk: Talk,
) -> None:
    """Name clusters by the marker genes or regions of known cell types."""
    if markers is None:
        raise UsageError("no --markers", "a table of types and their markers")
    check_readable(markers)
    check_readable(gtf)
    not_loaded = tuple(path for path in keys.LARGE if path != "X")
    with through(source, output, talk, without=not_loaded) as cells:
        from scale_toolkit.io.genes import read_gtf
        from scale_toolkit.io.type_markers import read_type_markers
        from scale_toolkit.stages.annotate import annotate as stage

        genes = None if gtf is None else read_gtf(gtf)
        result = stage(cells.adata, config, markers=read_type_markers(markers), genes=genes)
        talk.show(*names(result))
        cells.write(result)


def names(adata: AnnData) -> tuple[Table, dict[str, Any]]:
    """Show the type of each cluster, and the same as plain values for ``--json-logs``."""
    from rich.table import Table

    values = keys.ANNOTATION.get(adata)
    table = Table("cluster", "cells", "type", "best", "log2 fold", "margin", "t")
    for row in values.itertuples():
        figures = (f"{row.log2_fold:.2f}", f"{row.margin:.2f}", f"{row.t:.1f}")
        table.add_row(str(row.cluster), f"{row.n_cells:,}", row.type, row.best, *figures)
    return table, {str(row.cluster): row.type for row in values.itertuples()}
