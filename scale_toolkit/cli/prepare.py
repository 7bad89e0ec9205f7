"""``scale prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scale_toolkit.cli.inputs import read_fragments, read_inputs
from scale_toolkit.cli.options import Modality, Options, Output, command, given
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import FragmentsConfig, PrepareConfig
from scale_toolkit.errors import UsageError

_FRAGMENTS = "Fragments"
_INPUTS = (
    "h5ad, h5mu or zarr store, count table (peaks × barcodes), folder of mtx, peaks and barcodes, "
    "or 10x h5; "
    "- for h5ad on standard input."
)

Inputs = Annotated[
    list[str] | None, typer.Argument(metavar="INPUT...", show_default="-", help=_INPUTS)
]
BatchNames = Annotated[
    str | None,
    given("--batch-names", metavar="A,B", help="Names of several inputs; else those of the files."),
]
Blacklist = Annotated[
    Path | None, given("--blacklist", metavar="BED", help="Drop peaks that overlap these regions.")
]
Fragments = Annotated[
    list[str] | None,
    given(
        "--fragments",
        metavar="FILE",
        help="Count this 10x fragments file over --peaks; again for each further file, which "
        "becomes a batch.",
        panel=_FRAGMENTS,
    ),
]
Peaks = Annotated[
    Path | None,
    given("--peaks", metavar="BED", help="Peaks to count over.", panel=_FRAGMENTS),
]
Gtf = Annotated[
    Path | None,
    given(
        "--gtf",
        metavar="FILE",
        help="Genes (GTF, plain or gzip): add each cell's TSS enrichment to obs.",
        panel=_FRAGMENTS,
    ),
]
Barcodes = Annotated[
    Path | None,
    given(
        "--barcodes",
        metavar="FILE",
        help="Keep only these cells: barcodes.tsv, or Cell Ranger's singlecell.csv or "
        "per_barcode_metrics.csv.",
    ),
]
Metadata = Annotated[
    Path | None,
    given(
        "--metadata",
        metavar="TABLE",
        help="Add the columns of this table (.tsv, .csv) to obs, by its column of barcodes.",
    ),
]


@command
def prepare(
    inputs: Inputs = None,
    output: Output = "-",
    batch_names: BatchNames = None,
    modality: Modality = None,
    blacklist: Blacklist = None,
    fragments: Fragments = None,
    peaks: Peaks = None,
    gtf: Gtf = None,
    barcodes: Barcodes = None,
    metadata: Metadata = None,
    *,
    counting: Annotated[FragmentsConfig, Options(panel=_FRAGMENTS)],
    config: Annotated[PrepareConfig, Options(panel="Cells and peaks")],
    talk: Talk,
) -> None:
    """Read any accepted input, keep the cells and peaks that pass, and write them as h5ad."""
    names = [name.strip() for name in batch_names.split(",")] if batch_names else []
    if bool(fragments) != bool(peaks):
        raise UsageError(
            f"--{'fragments' if fragments else 'peaks'} alone",
            "both --fragments FILE and --peaks BED",
        )
    if fragments and inputs:
        raise UsageError(f"--fragments and the input {inputs[0]}", "one of the two")
    if fragments and modality:
        raise UsageError("both --fragments and --modality", "one of the two", "drop --modality")
    if gtf and not fragments:
        raise UsageError(
            "--gtf without --fragments", "both", "drop --gtf, or give it to `scale markers`"
        )
    sources = [*fragments, str(peaks)] if fragments else inputs or ["-"]
    from scale_toolkit.io.cells import read_cells, read_metadata
    from scale_toolkit.io.files import check_destination
    from scale_toolkit.io.genes import read_gtf
    from scale_toolkit.io.h5ad import write_h5ad

    further = [path for path in (blacklist, gtf, barcodes, metadata) if path]
    check_destination(output, [*sources, *further], stdout=talk.binary_stdout())
    from scale_toolkit.io.regions import read_bed
    from scale_toolkit.stages.prepare import prepare as stage

    regions = read_bed(blacklist) if blacklist else None
    listed = read_cells(barcodes) if barcodes else None
    table = read_metadata(metadata) if metadata else None
    if fragments and peaks:
        genes = read_gtf(gtf) if gtf else None
        cells = read_fragments(fragments, peaks, counting, names, barcodes=listed, genes=genes)
    else:
        cells = read_inputs(sources, names, modality, listed)
    with talk.progress() as progress:
        result = stage(
            cells,
            config,
            progress=progress,
            blacklist=regions,
            metadata=table,
            may_overwrite=True,
        )
    write_h5ad(result, output, stdout=talk.binary_stdout())
