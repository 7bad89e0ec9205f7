"""``scale verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scale_toolkit import __version__
from scale_toolkit.cli.files import check_readable
from scale_toolkit.cli.inputs import read_inputs
from scale_toolkit.cli.options import Modality, command, given
from scale_toolkit.cli.summary import verdict as shown
from scale_toolkit.cli.talk import Talk
from scale_toolkit.errors import NotReproducedError, UsageError

Result = Annotated[
    str,
    typer.Argument(
        metavar="FILE", help="A result, h5ad; or - for standard input.", show_default=True
    ),
]
_INPUT = (
    "Input of the first stage; repeat the option for several, in the same order. Without "
    "it, only later stages are replayed."
)
Originals = Annotated[list[str] | None, given("--input", "-i", metavar="ORIGINAL", help=_INPUT)]
BatchNames = Annotated[
    str | None, given("--batch-names", metavar="A,B", help="As for `scale prepare`.")
]
Blacklist = Annotated[
    Path | None, given("--blacklist", metavar="BED", help="The regions `scale prepare` left out.")
]
Barcodes = Annotated[
    Path | None, given("--barcodes", metavar="FILE", help="The cells `scale prepare` kept.")
]
Metadata = Annotated[
    Path | None,
    given("--metadata", metavar="TABLE", help="The table `scale prepare` added to obs."),
]
Model = Annotated[
    Path | None, given("--model", metavar="FILE", help="The model of `scale train --pretrain`.")
]


@command
def verify(
    source: Result = "-",
    inputs: Originals = None,
    batch_names: BatchNames = None,
    modality: Modality = None,
    blacklist: Blacklist = None,
    barcodes: Barcodes = None,
    metadata: Metadata = None,
    model: Model = None,
    *,
    talk: Talk,
) -> None:
    """Replay the stages of a result's receipts, and report whether the result is the same, bit for
    bit.
    """
    for path in (blacklist, barcodes, metadata, model):
        check_readable(path)
    further = {"--barcodes": barcodes, "--metadata": metadata, "--modality": modality}
    for flag, value in further.items():
        if value is not None and not inputs:
            raise UsageError(
                f"{flag} without --input", "both", f"drop {flag}, or give --input ORIGINAL"
            )
    from scale_toolkit.io.cells import read_cells, read_metadata
    from scale_toolkit.io.h5ad import open_h5ad
    from scale_toolkit.io.regions import read_bed
    from scale_toolkit.stages.verify import verify as check

    with open_h5ad(source) as file:
        result = file.read()
    names = [name.strip() for name in batch_names.split(",")] if batch_names else []
    listed = read_cells(barcodes) if barcodes else None
    original = read_inputs(inputs, names, modality, listed) if inputs else None
    regions = read_bed(blacklist) if blacklist else None
    with talk.progress() as progress:
        verdict = check(
            result,
            original,
            blacklist=regions,
            metadata=read_metadata(metadata) if metadata else None,
            model=model.read_bytes() if model else None,
            progress=progress,
        )
    talk.show(*shown(verdict))
    if verdict.reproduced:
        talk.info(f"reproduced bit for bit: {', '.join(verdict.replayed)}")
    elif verdict.close:
        talk.say(
            "warning",
            f"reproduced within the tolerance, not bit for bit{_because(verdict.elsewhere)}",
        )
    elif verdict.changed and not verdict.differs:
        changed = ", ".join(verdict.changed)
        versions = ", ".join(sorted(set(verdict.changed.values())))
        raise NotReproducedError(
            f"{changed} cannot be reproduced: version {versions} wrote the file, and the algorithm "
            f"of {changed} has changed since",
            f"a file whose {changed} has run in version {__version__}",
            f"the file is not damaged: verify it with version {versions}, or run {changed} again",
        )
    else:
        raise NotReproducedError(
            f"not reproduced: {verdict.first()}",
            "what the file holds",
            f"look at what is different{_because(verdict.elsewhere)}",
        )


def _because(elsewhere: list[str]) -> str:
    return f" (made with {'; '.join(elsewhere)})" if elsewhere else ""
