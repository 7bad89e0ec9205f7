"""``scale markers``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from scale_toolkit import keys
from scale_toolkit.cli.files import check_folder, check_readable, check_side_file, through
from scale_toolkit.cli.options import Input, Output, command, given
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import MarkersConfig
from scale_toolkit.errors import UsageError

if TYPE_CHECKING:
    from anndata import AnnData

_FILES = "Files"
_GENES = "Genes and motifs"

Table = Annotated[
    Path | None,
    given(
        "--table",
        metavar="FILE",
        panel=_FILES,
        help="Write the markers or differences as a table too (TSV), a row each.",
    ),
]
BedDir = Annotated[
    Path | None,
    given(
        "--bed-dir",
        metavar="FOLDER",
        panel=_FILES,
        help="Write the markers of each cluster as BED, one file each, here; with --contrast one "
        "for each cluster and condition.",
    ),
]
Gtf = Annotated[
    Path | None,
    given(
        "--gtf",
        metavar="FILE",
        panel=_GENES,
        help="Genes (GTF, plain or gzip): name the gene whose start is nearest to each peak.",
    ),
]
Genome = Annotated[
    Path | None,
    given(
        "--genome",
        metavar="FILE",
        panel=_GENES,
        help="The genome (FASTA, plain or gzip), for --motifs.",
    ),
]
Motifs = Annotated[
    Path | None,
    given(
        "--motifs",
        metavar="FILE",
        panel=_GENES,
        help="Motifs (MEME or JASPAR): test each for enrichment in the markers of each cluster. "
        "Needs --genome.",
    ),
]
MotifTable = Annotated[
    Path | None,
    given(
        "--motif-table",
        metavar="FILE",
        panel=_GENES,
        help="Write the enrichment of motifs as a table too (TSV).",
    ),
]


@command
def markers(
    source: Input = "-",
    output: Output = "-",
    table: Table = None,
    bed_dir: BedDir = None,
    gtf: Gtf = None,
    genome: Genome = None,
    motifs: Motifs = None,
    motif_table: MotifTable = None,
    *,
    config: MarkersConfig,
    talk: Talk,
) -> None:
    """Find the marker peaks of every cluster, with the genes next to them and the motifs in
    them; or with --contrast the peaks that differ between two conditions within each cluster.
    """
    if (genome is None) != (motifs is None):
        raise UsageError(
            "one of --genome and --motifs",
            "both or neither",
            "motifs are searched in the genome's sequence",
        )
    if motif_table is not None and motifs is None:
        raise UsageError(
            "--motif-table without --motifs", "both", "add --motifs and --genome, or drop it"
        )
    check_side_file(table, "--table", (source, output))
    check_side_file(
        motif_table, "--motif-table", [source, output, *([] if table is None else [str(table)])]
    )
    if bed_dir is not None:
        check_folder(bed_dir, "--bed-dir")
    for path in (gtf, genome, motifs):
        check_readable(path)
    not_loaded = tuple(path for path in keys.LARGE if path != "X")
    with through(source, output, talk, without=not_loaded) as cells:
        from scale_toolkit.core.intervals import require_intervals
        from scale_toolkit.stages.markers import markers as stage

        for flag, given_path in (("--bed-dir", bed_dir), ("--gtf", gtf), ("--genome", genome)):
            if given_path is not None:
                # an error before the work, not after it
                require_intervals(cells.adata.var_names, flag)
        inputs = _inputs(cells.adata, gtf, genome, motifs)
        with talk.progress() as progress:
            result = stage(cells.adata, config, progress=progress, **inputs)
        _write(result, table, bed_dir, motif_table, config)
        cells.write(result)


def _inputs(
    adata: AnnData, gtf: Path | None, genome: Path | None, motifs: Path | None
) -> dict[str, Any]:
    """Read the inputs of the stage besides the cells."""
    inputs: dict[str, Any] = {}
    if gtf is not None:
        from scale_toolkit.io.genes import read_gtf

        inputs["genes"] = read_gtf(gtf)
    if genome is not None and motifs is not None:
        from scale_toolkit.core.intervals import parse_names
        from scale_toolkit.extras import library
        from scale_toolkit.io.genome import read_sequences
        from scale_toolkit.io.motifs import read_motifs

        library("lightmotif")
        inputs["motifs"] = read_motifs(motifs)
        inputs["sequences"] = read_sequences(genome, parse_names(adata.var_names))
    return inputs


def _write(
    adata: AnnData,
    table: Path | None,
    bed_dir: Path | None,
    motif_table: Path | None,
    config: MarkersConfig,
) -> None:
    """Write the requested tables and BED files; without markers nothing, as the stage warned."""
    from scale_toolkit.io.markers import write_beds, write_table

    if config.contrast:
        differences = keys.CONTRAST.get(adata)
        if table is not None and len(differences):
            write_table(table, differences)
        if bed_dir is not None:
            for condition, rows in differences.groupby("higher_in", observed=True):
                write_beds(bed_dir, f"{config.cluster_by}.{condition}", rows)
        return
    table_of_markers = keys.MARKERS.get(adata)
    if not len(table_of_markers):
        return
    if table is not None:
        write_table(table, table_of_markers)
    if bed_dir is not None:
        write_beds(bed_dir, config.cluster_by, table_of_markers)
    if motif_table is not None and len(keys.MOTIFS.get(adata)):
        write_table(motif_table, keys.MOTIFS.get(adata))
