"""``scale embed``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from scale_toolkit import keys
from scale_toolkit.cli.files import check_side_file, through
from scale_toolkit.cli.options import Input, Output, command, given
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import EmbedConfig
from scale_toolkit.errors import UsageError

FIGURES = (".pdf", ".png", ".svg")

if TYPE_CHECKING:
    from anndata import AnnData

Figure = Annotated[
    Path | None,
    given(
        "--figure",
        metavar="FILE",
        help="Draw the cells too (.pdf, .png or .svg), by cluster if `scale cluster` was run.",
    ),
]


@command
def embed(
    source: Input = "-",
    output: Output = "-",
    figure: Figure = None,
    *,
    config: EmbedConfig,
    talk: Talk,
) -> None:
    """Draw the latent space in two dimensions: UMAP or tSNE coordinates for every cell."""
    check_side_file(figure, "--figure", (source, output))
    if figure and figure.suffix.lower() not in FIGURES:
        raise UsageError(f"--figure is {figure}", "a name that ends in " + ", ".join(FIGURES))
    with through(source, output, talk, without=keys.LARGE) as cells:
        from scale_toolkit.stages.embed import embed as stage

        with talk.progress() as progress:
            result = stage(cells.adata, config, progress=progress)
        if figure:
            from scale_toolkit import plot

            basis = {"umap": keys.UMAP, "tsne": keys.TSNE}[config.method]
            plot.embedding(result, basis=basis.name, color=_columns(result), save=figure)
        cells.write(result)


def _columns(adata: AnnData) -> list[str | None]:
    """Return the colours of a figure: the clusters, and the labels they were compared with; without
    clusters one colour.
    """
    from scale_toolkit.stages.receipts import receipts

    if not keys.CLUSTER.found_in(adata):
        return [None]
    compared = [
        receipt["options"]["reference"]
        for receipt in receipts(adata)
        if receipt["stage"] == "cluster"
    ]
    return [keys.CLUSTER.name, *(name for name in compared[-1:] if name in adata.obs)]
