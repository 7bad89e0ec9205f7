"""``scale run``, and the console script ``SCALE.py``: SCALE.py's whole job, made of the stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scale_toolkit.cli.analysis import Plan, analyse, replaced
from scale_toolkit.cli.files import check_folder, check_pretrain, check_readable
from scale_toolkit.cli.inputs import read_fragments, read_inputs
from scale_toolkit.cli.options import (
    Gpu,
    Modality,
    Options,
    Pretrain,
    PretrainPeaks,
    command,
    given,
    on_gpu,
)
from scale_toolkit.cli.plan import DryRun, foresee
from scale_toolkit.cli.prepare import Barcodes, Fragments, Metadata, Peaks
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import (
    ClusterConfig,
    EmbedConfig,
    FragmentsConfig,
    ImputeConfig,
    MarkersConfig,
    PrepareConfig,
    SelectPeaksConfig,
    TrainConfig,
)
from scale_toolkit.errors import UsageError

if TYPE_CHECKING:
    from anndata import AnnData

#: Fewest cells of a peak if --min-cells is not given: as in SCALE 1.1.2.
RELEASE_MIN_CELLS = 3

_FRAGMENTS, _PEAKS, _MODEL, _RESULTS = "Fragments", "Cells and peaks", "Model", "Results"

Inputs = Annotated[
    list[str] | None, typer.Argument(metavar="INPUT...", help="As --data-list.", show_default=False)
]
DataList = Annotated[
    list[str] | None,
    given("--data-list", "-d", metavar="INPUT...", help="Any input of `scale prepare`."),
]
NCentroids = Annotated[
    int | None,
    given(
        "--n-centroids",
        "-k",
        metavar="INT >=1",
        help="Exactly this many clusters, and components of the mixture; left out, 30 components, "
        "and clusters from the data.",
    ),
]
Outdir = Annotated[
    Path, typer.Option("--outdir", "-o", metavar="FOLDER", help="Folder of the results.")
]
MinCells = Annotated[
    float | None,
    given(
        "--min-cells",
        metavar="FLOAT >=0",
        help="Keep peaks open in at least this many cells (10; --preset release: "
        f"{RELEASE_MIN_CELLS}; --pretrain: 0); "
        "below 1, a fraction of all cells.",
        panel=_PEAKS,
    ),
]
Impute = Annotated[
    bool, given("--impute", help="Add the probability that each peak is open.", panel=_RESULTS)
]
Binary = Annotated[
    bool, given("--binary", help="Add the imputed values as 0 and 1.", panel=_RESULTS)
]
Blacklist = Annotated[
    Path | None,
    given(
        "--blacklist", metavar="BED", help="Drop peaks that overlap these regions.", panel=_PEAKS
    ),
]
Gtf = Annotated[
    Path | None,
    given(
        "--gtf",
        metavar="FILE",
        help="Genes (GTF, plain or gzip): name the gene nearest to each marker peak; with "
        "--fragments, also each cell's TSS enrichment.",
        panel=_RESULTS,
    ),
]
Verbose = Annotated[bool, given("--verbose", help="A line for every step of progress.")]


@command
def run(
    inputs: Inputs = None,
    data_list: DataList = None,
    n_centroids: NCentroids = None,
    outdir: Outdir = Path("output"),
    min_cells: MinCells = None,
    gpu: Gpu = None,
    pretrain: Pretrain = None,
    pretrain_peaks: PretrainPeaks = None,
    modality: Modality = None,
    fragments: Fragments = None,
    peaks: Peaks = None,
    barcodes: Barcodes = None,
    metadata: Metadata = None,
    blacklist: Blacklist = None,
    gtf: Gtf = None,
    impute: Impute = False,
    binary: Binary = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    *,
    counting: Annotated[FragmentsConfig, Options(_FRAGMENTS)],
    prepare: Annotated[PrepareConfig, Options(_PEAKS, excluded=("min_cells",))],
    select: Annotated[
        SelectPeaksConfig, Options(_PEAKS, only=("n_peaks",), names={"n_peaks": ("--n-feature",)})
    ],
    train: Annotated[
        TrainConfig,
        Options(_MODEL, excluded=("n_components",), names={"n_components": ("--n-centroids",)}),
    ],
    embed: Annotated[
        EmbedConfig, Options(_RESULTS, only=("method",), names={"method": ("--embed",)})
    ],
    cluster: Annotated[
        ClusterConfig,
        Options(
            _RESULTS,
            only=("method", "resolution", "reference", "stability"),
            names={"method": ("--cluster-method",)},
        ),
    ],
    talk: Talk,
) -> None:
    """Do the whole analysis: prepare, select peaks, train, cluster, embed, markers and report; a
    folder of results.
    """
    sources = [*(data_list or []), *(inputs or [])]
    check_sources(sources, fragments, peaks, modality)
    talk.verbose = verbose
    if min_cells is None and (pretrain or train.preset == "release"):
        min_cells = 0 if pretrain else RELEASE_MIN_CELLS
    shared = {"seed": train.seed, "n_threads": train.n_threads}
    plan = Plan(
        folder=outdir,
        prepare=replaced(prepare, min_cells=min_cells),
        select=select,
        train=replaced(on_gpu(train, gpu), n_components=n_centroids),
        embed=replaced(embed, **shared),
        cluster=replaced(cluster, n_clusters=n_centroids, **shared),
        markers=replaced(MarkersConfig(), **shared),
        impute=ImputeConfig(numeric=impute, binary=binary, n_threads=train.n_threads)
        if impute or binary
        else None,
        pretrain=pretrain,
        pretrain_peaks=pretrain_peaks,
        blacklist=blacklist,
    )
    if dry_run:
        check_measurable(fragments, barcodes)
    check_folder(outdir)
    check_pretrain(pretrain, pretrain_peaks)
    for path in (*(fragments or ()), peaks, barcodes, metadata, blacklist, gtf):
        check_readable(path)
    if dry_run:
        stages = [
            "prepare",
            "select_peaks",
            "train",
            "cluster",
            "embed",
            "markers",
            *(["impute"] if plan.impute else []),
            "report",
        ]
        foresee(
            sources,
            stages,
            talk,
            train=plan.train,
            impute=plan.impute,
            cluster=plan.cluster,
            modality=modality,
            writes=["impute" if plan.impute else "embed"],
        )
        return
    from scale_toolkit.io.cells import read_cells, read_metadata
    from scale_toolkit.io.genes import read_gtf

    # each file is read once, even if two stages use it: any of them may be a pipe
    genes = read_gtf(gtf) if gtf else None
    listed = read_cells(barcodes) if barcodes else None
    table = read_metadata(metadata) if metadata else None
    with talk.progress("read"):
        cells: AnnData | dict[str, AnnData] = (
            read_fragments(fragments, peaks, counting, barcodes=listed, genes=genes)
            if fragments and peaks
            else read_inputs(sources, (), modality, listed)
        )
    analyse(cells, replaced(plan, genes=genes, metadata=table), talk)


def check_sources(
    sources: list[str], fragments: list[str] | None, peaks: Path | None, modality: str | None
) -> None:
    """Refuse a call without input, or with two kinds of input."""
    if bool(fragments) != bool(peaks):
        raise UsageError(
            f"--{'fragments' if fragments else 'peaks'} alone",
            "both --fragments FILE and --peaks BED",
        )
    if fragments and sources:
        raise UsageError(f"--fragments and the input {sources[0]}", "one of the two")
    if fragments and modality:
        raise UsageError("both --fragments and --modality", "one of the two", "drop --modality")
    if not fragments and not sources:
        raise UsageError(
            "no input",
            "-d INPUT, or --fragments FILE --peaks BED",
            "for example scale run -d cells.h5ad -k 6",
        )


def check_measurable(fragments: list[str] | None, barcodes: Path | None) -> None:
    """Refuse --dry-run with inputs whose size is unknown before the counts are read."""
    if barcodes:
        raise UsageError(
            "--dry-run with --barcodes",
            "counts of all cells",
            "keep the cells with scale prepare --barcodes first, then scale plan",
        )
    if fragments:
        raise UsageError(
            "--dry-run with --fragments",
            "counts",
            "count them with scale prepare first, then scale plan",
        )
