"""``scale run``, and the console script ``SCALE.py``: SCALE.py's whole job, made of the stages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scale_toolkit import keys
from scale_toolkit.cli.files import check_column, check_folder, check_pretrain
from scale_toolkit.cli.inputs import read_inputs
from scale_toolkit.cli.options import Gpu, Modality, Options, Pretrain, PretrainPeaks, command, given, on_gpu
from scale_toolkit.cli.plan import DryRun, foresee
from scale_toolkit.cli.summary import results
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import (
    ClusterConfig,
    Config,
    EmbedConfig,
    ImputeConfig,
    PrepareConfig,
    SelectPeaksConfig,
    TrainConfig,
)
from scale_toolkit.errors import UsageError

if TYPE_CHECKING:
    from anndata import AnnData

#: Columns of obs that SCALE's users keep known labels in: the reference where none is named.
LABELS = ("celltype", "cell_type")
MOST_LABELS = 100
#: Fewest cells of a peak, where --min-cells is not given: as SCALE 1.1.2 has it.
RELEASE_MIN_CELLS = 3

_PEAKS, _MODEL, _RESULTS = "Cells and peaks", "Model", "Results"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `analyse` is to do: one config a stage, and where the files go."""

    folder: Path
    prepare: PrepareConfig
    select: SelectPeaksConfig
    train: TrainConfig
    embed: EmbedConfig
    cluster: ClusterConfig
    impute: ImputeConfig | None = None
    pretrain: Path | None = None
    pretrain_peaks: Path | None = None


Inputs = Annotated[list[str] | None, typer.Argument(metavar="INPUT...", help="As --data-list.", show_default=False)]
DataList = Annotated[list[str] | None, given("--data-list", "-d", metavar="INPUT...", help="Any input of `scale prepare`.")]
NCentroids = Annotated[
    int | None,
    given(
        "--n-centroids",
        "-k",
        metavar="INT >=1",
        help="Exactly this many clusters, and components of the mixture; left out, 30 components and --resolution decide.",
    ),
]
Outdir = Annotated[Path, typer.Option("--outdir", "-o", metavar="FOLDER", help="Folder of the results.")]
MinCells = Annotated[
    float | None,
    given(
        "--min-cells",
        metavar="FLOAT >=0",
        help=f"Keep peaks open in at least this many cells (10; --preset release: {RELEASE_MIN_CELLS}; --pretrain: 0); "
        "below 1, a fraction of all cells.",
        panel=_PEAKS,
    ),
]
Impute = Annotated[bool, given("--impute", help="Add the probability that each peak is open.", panel=_RESULTS)]
Binary = Annotated[bool, given("--binary", help="Add the imputed values as 0 and 1.", panel=_RESULTS)]
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
    impute: Impute = False,
    binary: Binary = False,
    verbose: Verbose = False,
    dry_run: DryRun = False,
    *,
    prepare: Annotated[PrepareConfig, Options(_PEAKS, without=("min_cells",))],
    select: Annotated[SelectPeaksConfig, Options(_PEAKS, only=("n_peaks",), names={"n_peaks": ("--n-feature",)})],
    train: Annotated[TrainConfig, Options(_MODEL, without=("n_components",), names={"n_components": ("--n-centroids",)})],
    embed: Annotated[EmbedConfig, Options(_RESULTS, only=("method",), names={"method": ("--embed",)})],
    cluster: Annotated[
        ClusterConfig,
        Options(_RESULTS, only=("method", "resolution", "reference", "stability"), names={"method": ("--cluster-method",)}),
    ],
    talk: Talk,
) -> None:
    """Do the whole analysis: prepare, select peaks, train, embed and cluster; results go to a folder."""
    sources = [*(data_list or []), *(inputs or [])]
    if not sources:
        raise UsageError("no input", "-d INPUT", "for example scale run -d cells.h5ad -k 6")
    talk.verbose = verbose
    if min_cells is None and (pretrain or train.preset == "release"):
        min_cells = 0 if pretrain else RELEASE_MIN_CELLS
    shared = {"seed": train.seed, "n_threads": train.n_threads}
    plan = Plan(
        folder=outdir,
        prepare=_with(prepare, min_cells=min_cells),
        select=select,
        train=_with(on_gpu(train, gpu), n_components=n_centroids),
        embed=_with(embed, **shared),
        cluster=_with(cluster, n_clusters=n_centroids, **shared),
        impute=ImputeConfig(numeric=impute, binary=binary, n_threads=train.n_threads) if impute or binary else None,
        pretrain=pretrain,
        pretrain_peaks=pretrain_peaks,
    )
    check_folder(outdir)
    check_pretrain(pretrain, pretrain_peaks)
    if dry_run:
        stages = ["prepare", "select_peaks", "train", "cluster", "embed", *(["impute"] if plan.impute else [])]
        asked = {"train": plan.train, "impute": plan.impute, "cluster": plan.cluster}
        foresee(sources, stages, talk, **asked, modality=modality, writes=stages[-1:])
        return
    analyse(read_inputs(sources, (), modality), plan, talk)


def analyse(cells: AnnData | dict[str, AnnData], plan: Plan, talk: Talk) -> AnnData:
    """Run the stages on what was read, write the folder of results, and say what came out."""
    from scale_toolkit import plot
    from scale_toolkit.io.files import write_bytes
    from scale_toolkit.io.h5ad import write_h5ad
    from scale_toolkit.io.regions import model_peaks
    from scale_toolkit.stages.cluster import cluster
    from scale_toolkit.stages.embed import embed
    from scale_toolkit.stages.impute import streamed
    from scale_toolkit.stages.prepare import prepare
    from scale_toolkit.stages.select_peaks import select_peaks
    from scale_toolkit.stages.train import encode, find_device, train

    find_device(plan.train.device)  # an absent GPU is told before the work, not after half of it
    plan.folder.mkdir(parents=True, exist_ok=True)
    figure = plan.folder / f"{plan.embed.method}.pdf"
    with talk.progress() as progress:
        adata = prepare(cells, plan.prepare, progress=progress)
    check_column(adata, plan.cluster.reference)
    if plan.pretrain:
        talk.info("the peaks are the model's: --n-feature is not applied")
        names = model_peaks(plan.pretrain, plan.pretrain_peaks)
        with talk.progress() as progress:
            adata = encode(adata, plan.train, progress=progress, model=plan.pretrain.read_bytes(), peaks=names)
    else:
        with talk.progress() as progress:
            adata = select_peaks(adata, plan.select, progress=progress)
        with talk.progress() as progress:
            keep = lambda data: write_bytes(plan.folder / "model.pt", data)  # noqa: E731
            adata = train(adata, plan.train, progress=progress, keep_model=keep)
    by_label = _with_labels(plan.cluster, adata)
    with talk.progress() as progress:
        adata = cluster(adata, by_label, progress=progress)
    with talk.progress() as progress:
        adata = embed(adata, plan.embed, progress=progress)
    basis = {"umap": keys.UMAP, "tsne": keys.TSNE}[plan.embed.method]
    columns = [keys.CLUSTER.name, *([by_label.reference] if by_label.reference else [])]
    plot.embedding(adata, basis=basis.name, color=columns, save=figure)
    blocks = {}
    if plan.impute:
        adata, blocks = streamed(adata, plan.impute)
    write_h5ad(adata, plan.folder / "adata.h5ad", streamed=blocks)
    talk.show(*results(adata, plan.folder, figure, by_label.reference))
    return adata


def _with(config: Config, **values: object) -> Config:
    """Return `config` with those of `values` that are set."""
    return dataclasses.replace(config, **{name: value for name, value in values.items() if value is not None})


def _with_labels(config: ClusterConfig, adata: AnnData) -> ClusterConfig:
    """Compare with SCALE's own column of labels where it is there and holds some, and no reference is named."""
    usable = (name for name in LABELS if name in adata.obs and 1 < adata.obs[name].nunique() <= MOST_LABELS)
    return config if config.reference else _with(config, reference=next(usable, None))
