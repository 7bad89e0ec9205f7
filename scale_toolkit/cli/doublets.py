"""``scale doublets``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from scale_toolkit import keys
from scale_toolkit.cli.files import check_readable, check_side_file, through
from scale_toolkit.cli.options import Input, Output, command, given
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import DoubletsConfig
from scale_toolkit.errors import UsageError

if TYPE_CHECKING:
    from anndata import AnnData
    from rich.table import Table

FIGURES = (".pdf", ".png", ".svg")
Figure = Annotated[
    Path | None,
    given("--figure", metavar="FILE", help="Draw the scores too (.pdf, .png or .svg)."),
]


Fragments = Annotated[
    list[str] | None,
    given(
        "--fragments",
        metavar="FILE",
        help="Fragments of the cells, sorted: call also those with more than two at many sites. "
        "Again for each batch, in their order.",
    ),
]


@command
def doublets(
    source: Input = "-",
    output: Output = "-",
    figure: Figure = None,
    fragments: Fragments = None,
    *,
    config: DoubletsConfig,
    talk: Talk,
) -> None:
    """Score how much each cell looks like the union of two unlike cells; call or drop those."""
    check_side_file(figure, "--figure", (source, output))
    if figure and figure.suffix.lower() not in FIGURES:
        raise UsageError(f"--figure is {figure}", "a name that ends in " + ", ".join(FIGURES))
    paths = fragments or []
    if [source, *paths].count("-") > 1:
        raise UsageError("standard input is given twice", "one - at most")
    for path in paths:
        check_readable(path)
    not_loaded = tuple(path for path in keys.LARGE if path != "X")
    with through(source, output, talk, without=not_loaded) as cells:
        from scale_toolkit.io.fragments import read_blocks
        from scale_toolkit.stages.doublets import doublets as stage

        with talk.progress() as progress:
            blocks = [read_blocks(path) for path in paths]
            result = stage(cells.adata, config, progress=progress, fragments=blocks)
        if figure:
            from scale_toolkit import plot

            plot.doublets(result, save=figure)
        talk.show(*summary(result))
        cells.write(result)


def summary(adata: AnnData) -> tuple[Table, dict[str, Any]]:
    """Show what was called, and the same as plain values for ``--json-logs``."""
    from rich.table import Table

    values = keys.DOUBLETS.get(adata)
    facts = {
        "cells": int(values["n_cells"]),
        "doublets": int(values["n_called"]),
        "rate": round(float(values["rate"]), 4),
        "threshold": round(float(values["threshold"]), 4),
        "detectable": round(float(values["detectable"]), 4),
    }
    if "sites_called" in values:
        facts["by fragments"] = int(values["sites_called"])
        facts["by them alone"] = int(values["sites_alone"])
    table = Table(*facts, title="doublets of unlike cells", title_justify="left")
    table.add_row(*map(str, facts.values()))
    return table, facts
