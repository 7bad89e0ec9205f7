"""``scale map``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from scale_toolkit import keys
from scale_toolkit.cli.files import check_readable, check_side_file, through
from scale_toolkit.cli.options import Input, Output, command, given
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import MapConfig
from scale_toolkit.errors import UsageError

if TYPE_CHECKING:
    from anndata import AnnData
    from rich.table import Table

FIGURES = (".pdf", ".png", ".svg")
Reference = Annotated[
    Path | None,
    given(
        "--reference",
        metavar="FILE",
        help="The output of `scale train`, with counts; or its model (`scale train --model`), "
        "which gives latent vectors and responsibilities, without labels and novelty.",
    ),
]
Figure = Annotated[
    Path | None,
    given("--figure", metavar="FILE", help="Draw the novelty too (.pdf, .png or .svg)."),
]


@command
def map(
    source: Input = "-",
    output: Output = "-",
    reference: Reference = None,
    figure: Figure = None,
    *,
    config: MapConfig,
    talk: Talk,
) -> None:
    """Place new cells in the latent space of a trained file, with its labels."""
    if reference is None:
        raise UsageError("no --reference", "the h5ad or the model of `scale train`")
    if figure and figure.suffix.lower() not in FIGURES:
        raise UsageError(f"--figure is {figure}", "a name that ends in " + ", ".join(FIGURES))
    check_readable(reference)
    check_side_file(figure, "--figure", (source, output, str(reference)))
    not_loaded = tuple(path for path in keys.LARGE if path != "X")
    with through(source, output, talk, without=not_loaded) as cells:
        from scale_toolkit.io.reference import read_reference
        from scale_toolkit.stages.map import map as stage

        trained = read_reference(reference, not_loaded)
        if figure and isinstance(trained, bytes):
            raise UsageError(
                f"--figure, and --reference {reference} is a model file, without cells",
                "the h5ad that `scale train` wrote, whose cells are compared with",
                "drop --figure",
            )
        with talk.progress() as progress:
            result = stage(cells.adata, config, progress=progress, reference=trained)
        if figure:
            from scale_toolkit import plot

            plot.novelty(result, save=figure)
        talk.show(*summary(result))
        cells.write(result)


def summary(adata: AnnData) -> tuple[Table, dict[str, Any]]:
    """Show what was covered and called, and the same as plain values for ``--json-logs``."""
    from rich.table import Table

    values = keys.MAPPING.get(adata)
    facts: dict[str, Any] = {
        "cells": int(values["n_cells"]),
        "peaks by name": int(values["n_named"]),
        "by overlap": int(values["n_overlapping"]),
        "of": int(values["n_peaks"]),
        "weight": round(float(values["weight"]), 4),
    }
    if "n_called" in values:
        facts["not in the reference"] = int(values["n_called"])
    table = Table(*facts, title="mapped to the reference", title_justify="left")
    table.add_row(*(str(value) for value in facts.values()))
    return table, facts
