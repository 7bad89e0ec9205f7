"""``scale plot``: one command a figure, over the functions of `scale_toolkit.plot`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scale_toolkit import keys
from scale_toolkit.cli.embed import FIGURES
from scale_toolkit.cli.files import check_readable
from scale_toolkit.cli.help import Command, Group, example
from scale_toolkit.cli.options import Input, command, given
from scale_toolkit.cli.talk import Talk
from scale_toolkit.errors import InputError, UsageError
from scale_toolkit.known_labels import LABELS
from scale_toolkit.output_config import (
    PlotConfusionConfig,
    PlotContrastConfig,
    PlotCorrelationConfig,
    PlotEmbeddingConfig,
    PlotHeatmapConfig,
    PlotLocusConfig,
    PlotLossConfig,
    PlotQcConfig,
    PlotSpecificityConfig,
)
from scale_toolkit.validation import Config

if TYPE_CHECKING:
    from anndata import AnnData

Figure = Annotated[
    Path,
    typer.Option(
        "-o", "--output", metavar="FIG", help="The figure: a name that ends in .pdf, .png or .svg."
    ),
]

Gtf = Annotated[
    Path | None,
    given(
        "--gtf",
        metavar="FILE",
        help="Genes (GTF, plain or gzip), to colour cells by a gene's promoter: --color Gad1.",
    ),
]
Region = Annotated[
    str,
    typer.Argument(metavar="REGION", help="Stretch of the genome: chr1:1,000-2,000, half-open."),
]
GeneTrack = Annotated[
    Path | None,
    given("--gtf", metavar="FILE", help="Genes (GTF, plain or gzip), drawn below the clusters."),
]
#: Slots from which imputed values are decoded.
DECODING = tuple(
    slot.path
    for slot in (
        keys.LATENT, keys.HIDDEN, keys.DECODER, keys.BIAS, keys.OFFSET, keys.MEDIAN_OFFSET,
        keys.RECEIPTS,
    )
)  # fmt: skip
#: Slots of the differences between conditions.
CONTRAST = (
    keys.CONTRAST,
    keys.CONTRAST_CLUSTERS,
    keys.CONTRAST_FDR,
    keys.CONTRAST_LOG_ODDS,
)

app = typer.Typer(cls=Group, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def plot() -> None:
    """Draw a figure from an h5ad: PDF, PNG or SVG."""


@app.command(cls=Command, epilog=example("embedding"))
@command
def embedding(
    output: Figure, source: Input = "-", gtf: Gtf = None, *, config: PlotEmbeddingConfig, talk: Talk
) -> None:
    """Draw cells as points, coloured by columns of obs, or by the accessibility of peaks, regions
    or genes.

    A peak, a region or a gene is coloured by imputed values at equal depth if the file comes from
    `scale train`; else only peaks can be drawn, by their counts.
    """
    check_figure(output, source)
    check_readable(gtf)
    from scale_toolkit import plot
    from scale_toolkit.io.h5ad import open_h5ad

    bases = [config.basis, f"X_{config.basis}"] if config.basis else []
    paths = [f"obsm/{name}" for name in (*bases, keys.UMAP.name, keys.TSNE.name)]
    titles = list(config.color)
    with open_h5ad(source) as file:
        adata = file.read_only(paths)
        regions = [
            name for name in config.color if name not in adata.obs and name != keys.CLUSTER.name
        ]
        if regions and f"varm/{keys.DECODER.name}" in file.root:
            from scale_toolkit.stages.region_values import region_values

            adata = file.read_only([*paths, *DECODING])
            values = region_values(adata, regions, read_genes(gtf))
            adata.obs[list(values.columns)] = values
            titles = [f"{name} (imputed)" if name in regions else name for name in titles]
        elif any(name in adata.var_names for name in regions):
            adata = file.read_only([*paths, "X"])
    color = titles[0] if len(titles) == 1 else titles
    adata.obs = adata.obs.rename(columns=dict(zip(config.color, titles, strict=True)))
    plot.embedding(
        adata,
        config.basis,
        color,
        size=config.size,
        names_on_data=config.names_on_data,
        save=output,
    )
    talk.info(f"figure: {output}")


def read_genes(gtf: Path | None) -> Any:
    """Read the genes of --gtf, or None."""
    if gtf is None:
        return None
    from scale_toolkit.io.genes import read_gtf

    return read_gtf(gtf)


@app.command(cls=Command, epilog=example("heatmap"))
@command
def heatmap(output: Figure, source: Input = "-", *, config: PlotHeatmapConfig, talk: Talk) -> None:
    """Share of open cells, clusters by peaks: the most specific peaks of each, or peaks by name."""
    _draw("heatmap", source, output, config, talk, ["X", keys.MARKERS.path, keys.RECEIPTS.path])


@app.command(cls=Command, epilog=example("confusion"))
@command
def confusion(
    output: Figure, source: Input = "-", *, config: PlotConfusionConfig, talk: Talk
) -> None:
    """Cells by known label and cluster, matched, with ARI and NMI."""
    _draw("confusion", source, output, config, talk, [])


@app.command(cls=Command, epilog=example("contrast"))
@command
def contrast(
    output: Figure, source: Input = "-", *, config: PlotContrastConfig, talk: Talk
) -> None:
    """How many peaks differ between the conditions of `scale markers --contrast`, or the peaks of
    one cluster.
    """
    _draw("contrast", source, output, config, talk, [slot.path for slot in CONTRAST])


@app.command(cls=Command, epilog=example("correlation"))
@command
def correlation(
    output: Figure, source: Input = "-", *, config: PlotCorrelationConfig, talk: Talk
) -> None:
    """Correlation of cells with cells over their latent vectors, sorted by cluster."""
    _draw("correlation", source, output, config, talk, [f"obsm/{config.basis}"])


@app.command(cls=Command, epilog=example("specificity"))
@command
def specificity(
    output: Figure, source: Input = "-", *, config: PlotSpecificityConfig, talk: Talk
) -> None:
    """How specific each latent dimension is for each cluster, by an F-test."""
    _draw("specificity", source, output, config, talk, [f"obsm/{config.basis}"])


@app.command(cls=Command, epilog=example("locus"))
@command
def locus(
    output: Figure,
    region: Region,
    source: Input = "-",
    gtf: GeneTrack = None,
    *,
    config: PlotLocusConfig,
    talk: Talk,
) -> None:
    """How open the peaks of a stretch of the genome are in each cluster, with its genes."""
    check_figure(output, source)
    check_readable(gtf)
    from scale_toolkit import plot
    from scale_toolkit.io.genes import read_gene_bodies
    from scale_toolkit.io.h5ad import open_h5ad

    with open_h5ad(source) as file:
        has_decoder = f"varm/{keys.DECODER.name}" in file.root
        is_imputed = config.signal == "imputed" or (config.signal == "auto" and has_decoder)
        adata = file.read_only([*DECODING] if is_imputed else ["X"])
    genes = None if gtf is None else read_gene_bodies(gtf)
    plot.locus(adata, region, config.groupby, genes=genes, signal=config.signal, save=output)
    talk.info(f"figure: {output}")


@app.command(cls=Command, epilog=example("loss"))
@command
def loss(output: Figure, source: Input = "-", *, config: PlotLossConfig, talk: Talk) -> None:
    """Learning curves, in training and on held-out peaks."""
    _draw("loss", source, output, config, talk, [keys.HISTORY.path])


@app.command(cls=Command, epilog=example("qc"))
@command
def qc(output: Figure, source: Input = "-", *, config: PlotQcConfig, talk: Talk) -> None:
    """Open peaks of cells as a knee and as a histogram, and cells of peaks, with the limits of
    `scale prepare`.
    """
    _draw("qc", source, output, config, talk, [keys.QC.path])


def check_figure(path: Path, source: str) -> None:
    """Refuse a figure that cannot be written or has an unknown format, before anything is read."""
    from scale_toolkit.io.files import check_destination

    if path.suffix.lower() not in FIGURES:
        raise UsageError(f"-o is {path}", "a name that ends in " + ", ".join(FIGURES))
    check_destination(path, [source])


def label_of(adata: AnnData, named: str | None, flag: str) -> str | None:
    """Return the column of known labels: the named one, which must exist, or the first of
    `LABELS`.
    """
    if named is not None and named not in adata.obs:
        columns = ", ".join(map(str, adata.obs.columns))
        raise InputError(
            f"obs has no column {named!r}", f"one of {columns}", f"name it with {flag}"
        )
    return named or next((name for name in LABELS if name in adata.obs), None)


def _draw(
    name: str,
    source: str,
    output: Path,
    config: Config,
    talk: Talk,
    wanted: list[str],
) -> None:
    """Read only what the figure needs, draw it, and report its path."""
    check_figure(output, source)
    from scale_toolkit import plot
    from scale_toolkit.io.h5ad import open_h5ad

    with open_h5ad(source) as file:
        adata = file.read_only(wanted)
    options = {spec: getattr(config, spec) for spec in config.__dataclass_fields__}
    if name == "confusion":
        options["reference"] = label_of(adata, options["reference"], "--label")
        if options["reference"] is None:
            raise InputError(
                f"obs has none of {', '.join(LABELS)}",
                "known labels",
                "name their column with --label",
            )
    draw: Callable[..., object] = getattr(plot, name)
    draw(adata, **options, save=output)
    talk.info(f"figure: {output}")
