"""``scale report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scale_toolkit.cli.options import Input, command, given
from scale_toolkit.cli.talk import Talk
from scale_toolkit.errors import UsageError
from scale_toolkit.known_labels import LABELS_IN_WORDS

Page = Annotated[
    Path,
    typer.Option("-o", "--output", metavar="FILE", help="The page: a name that ends in .html."),
]
Label = Annotated[
    str | None,
    given(
        "--label",
        metavar="COLUMN",
        help="Column of obs with known labels; left out, the reference of `scale cluster`, "
        f"{LABELS_IN_WORDS}.",
    ),
]
Title = Annotated[
    str | None,
    given("--title", metavar="TEXT", help="Title of the page; left out, the file's name."),
]


@command
def report(
    source: Input = "-",
    output: Page = Path("report.html"),
    label: Label = None,
    title: Title = None,
    *,
    talk: Talk,
) -> None:
    """Write one HTML page about an analysis: stages, filters, cells, clusters, markers, and what to
    check.
    """
    from scale_toolkit.io.files import check_destination, write_bytes

    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"-o is {output}", "a name that ends in .html")
    check_destination(output, [source])
    from scale_toolkit.io.h5ad import open_h5ad
    from scale_toolkit.report import NEEDED, page

    with open_h5ad(source) as file:
        adata = file.read_only(NEEDED)
        counts = (lambda cells: file.rows("X", cells)) if "X" in file.root else None
        name = title or _title(source)
        text = page(adata, name=name, label=label, counts=counts)
    write_bytes(output, text.encode())
    talk.info(f"report: {output} ({len(text.encode()) / 1e6:.1f} MB)")


def _title(source: str) -> str:
    """Name the page after the file, or after its folder if `scale run` named the file."""
    path = Path(source).resolve()
    if source == "-":
        return "cells"
    return path.parent.name or path.stem if path.stem == "adata" else path.stem
