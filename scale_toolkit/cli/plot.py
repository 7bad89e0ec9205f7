"""``scale plot``: one command a figure, over the functions of `scale_toolkit.plot`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scale_toolkit import keys
from scale_toolkit.cli.embed import FIGURES
from scale_toolkit.cli.options import Input, command
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import (
    Config,
    PlotConfusionConfig,
    PlotCorrelationConfig,
    PlotEmbeddingConfig,
    PlotHeatmapConfig,
    PlotLossConfig,
    PlotQcConfig,
    PlotSpecificityConfig,
)
from scale_toolkit.errors import InputError, UsageError

if TYPE_CHECKING:
    from anndata import AnnData

#: Columns of obs that may hold known labels, where none is named.
LABELS = ("cell_type", "celltype", "label")

Figure = Annotated[
    Path, typer.Option("-o", "--output", metavar="FIG", help="The figure: a name that ends in .pdf, .png or .svg.")
]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def plot() -> None:
    """Draw a figure from an h5ad: PDF, PNG or SVG."""


@app.command()
@command
def embedding(output: Figure, source: Input = "-", *, config: PlotEmbeddingConfig, talk: Talk) -> None:
    """Cells as points in two dimensions, coloured by columns of obs or by peaks."""
    color = config.color[0] if len(config.color) == 1 else config.color
    named = [config.basis, f"X_{config.basis}"] if config.basis else []
    wanted = [f"obsm/{name}" for name in (*named, keys.UMAP.name, keys.TSNE.name)]
    _draw("embedding", source, output, config, talk, wanted, columns=config.color, color=color)


@app.command()
@command
def heatmap(output: Figure, source: Input = "-", *, config: PlotHeatmapConfig, talk: Talk) -> None:
    """Share of open cells, clusters by peaks: the most specific peaks of each, or peaks by name."""
    _draw("heatmap", source, output, config, talk, ["X", keys.MARKERS.path, keys.RECEIPTS.path])


@app.command()
@command
def confusion(output: Figure, source: Input = "-", *, config: PlotConfusionConfig, talk: Talk) -> None:
    """Cells by known label and cluster, matched, with ARI and NMI."""
    _draw("confusion", source, output, config, talk, [])


@app.command()
@command
def correlation(output: Figure, source: Input = "-", *, config: PlotCorrelationConfig, talk: Talk) -> None:
    """Correlation of cells with cells over their latent vectors, sorted by cluster."""
    _draw("correlation", source, output, config, talk, [f"obsm/{config.basis}"])


@app.command()
@command
def specificity(output: Figure, source: Input = "-", *, config: PlotSpecificityConfig, talk: Talk) -> None:
    """How specific each latent dimension is for each cluster, by an F-test."""
    _draw("specificity", source, output, config, talk, [f"obsm/{config.basis}"])


@app.command()
@command
def loss(output: Figure, source: Input = "-", *, config: PlotLossConfig, talk: Talk) -> None:
    """Learning curves, in training and on held-out peaks."""
    _draw("loss", source, output, config, talk, [keys.HISTORY.path])


@app.command()
@command
def qc(output: Figure, source: Input = "-", *, config: PlotQcConfig, talk: Talk) -> None:
    """Open peaks of cells as a knee and as a histogram, and cells of peaks, with the limits of `scale prepare`."""
    _draw("qc", source, output, config, talk, [keys.QC.path])


def check_figure(path: Path, source: str) -> None:
    """Refuse a figure that cannot be written, or has no format we know, before anything is read."""
    from scale_toolkit.io.files import check_destination

    if path.suffix.lower() not in FIGURES:
        raise UsageError(f"-o is {path}", "a name that ends in " + ", ".join(FIGURES))
    check_destination(path, [source])


def label_of(adata: AnnData, named: str | None, flag: str) -> str | None:
    """Return the column of known labels: the one that was named, which must be there, or the first that is."""
    if named is not None and named not in adata.obs:
        columns = ", ".join(map(str, adata.obs.columns))
        raise InputError(f"obs has no column {named!r}", f"one of {columns}", f"name it with {flag}")
    return named or next((name for name in LABELS if name in adata.obs), None)


def _draw(
    name: str,
    source: str,
    output: Path,
    config: Config,
    talk: Talk,
    wanted: list[str],
    *,
    columns: tuple[str, ...] = (),
    **changed: object,
) -> None:
    """Read what the figure needs, and nothing more; draw it, and say where it is."""
    check_figure(output, source)
    from scale_toolkit import plot
    from scale_toolkit.io.h5ad import open_h5ad

    with open_h5ad(source) as file:
        adata = file.read_only(wanted)
        if any(column not in adata.obs and column in adata.var_names for column in columns):
            adata = file.read_only([*wanted, "X"])
    options = {spec: getattr(config, spec) for spec in config.__dataclass_fields__} | changed
    if name == "confusion":
        options["reference"] = label_of(adata, options["reference"], "--label")
        if options["reference"] is None:
            raise InputError(f"obs has none of {', '.join(LABELS)}", "known labels", "name their column with --label")
    draw: Callable[..., object] = getattr(plot, name)
    draw(adata, **options, save=output)
    talk.info(f"figure: {output}")
