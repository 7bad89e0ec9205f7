"""``scale export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scale_toolkit import keys
from scale_toolkit.cli.options import Input, command
from scale_toolkit.cli.talk import Talk
from scale_toolkit.output_config import ExportConfig

Place = Annotated[
    Path,
    typer.Option(
        "-o",
        "--output",
        metavar="PLACE",
        help="A folder for mtx, a file for the others.",
        show_default=False,
    ),
]


@command
def export(source: Input = "-", *, output: Place, config: ExportConfig, talk: Talk) -> None:
    """Write cells for other programs: mtx and tables for R, 10x h5, cellxgene, MuData."""
    from scale_toolkit.io import export as exporting
    from scale_toolkit.io.files import check_destination
    from scale_toolkit.io.h5ad import open_h5ad

    exporting.check_place(output, config.to)
    if config.to != "mtx":
        check_destination(output, [source])
    large = tuple(path for path in keys.LARGE if path != "X")
    not_loaded = (
        ()
        if config.to == "h5mu"
        else tuple(path for path in large if not (config.layer and path == "layers"))
    )
    with open_h5ad(source) as file:
        adata = file.read(not_loaded)
    missing = exporting.export(adata, output, config.to, layer=config.layer)
    if missing:
        talk.info(
            f"to submit to CELLxGENE Discover, add to obs: {', '.join(missing)} (the "
            "organism to uns; docs/export.md)"
        )
