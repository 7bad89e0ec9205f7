"""``scale choose-k``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from scale_toolkit import keys
from scale_toolkit.cli.files import check_side_file, through
from scale_toolkit.cli.options import Input, Output, command, given
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import ChooseKConfig
from scale_toolkit.errors import UsageError

if TYPE_CHECKING:
    from anndata import AnnData
    from rich.table import Table

FIGURES = (".pdf", ".png", ".svg")
Figure = Annotated[
    Path | None,
    given("--figure", metavar="FILE", help="Draw the readings too (.pdf, .png or .svg)."),
]


@command
def choose_k(
    source: Input = "-",
    output: Output = "-",
    figure: Figure = None,
    *,
    config: ChooseKConfig,
    talk: Talk,
) -> None:
    """Show how many clusters the cells have, by three readings, with a recommendation."""
    check_side_file(figure, "--figure", (source, output))
    if figure and figure.suffix.lower() not in FIGURES:
        raise UsageError(f"--figure is {figure}", "a name that ends in " + ", ".join(FIGURES))
    with through(source, output, talk, without=(keys.IMPUTED.path, keys.BINARY.path)) as cells:
        from scale_toolkit.stages.choose_k import choose_k as stage

        with talk.progress() as progress:
            result = stage(cells.adata, config, progress=progress)
        if figure:
            from scale_toolkit import plot

            plot.choose_k(result, save=figure)
        talk.show(*readings(result))
        cells.write(result)


def readings(adata: AnnData) -> tuple[Table, dict[str, Any]]:
    """Show the table of readings, and the same as plain values for ``--json-logs``."""
    from rich.table import Table

    choice = keys.CHOICE_OF_K.get(adata)
    recommended = int(choice["recommended"])
    rivals = {
        name: int(choice[f"by_{name}"])
        for name in ("boundaries", "stability", "held_out", "random_matrix")
    }
    table = Table(
        "clusters",
        "boundary",
        "stability",
        "held-out likelihood",
        "preferred by",
        title=f"{recommended} clusters are recommended",
        title_justify="left",
        caption="boundary: of the next split, near 0 if real and 1 within a cluster",
        caption_justify="left",
    )
    for row, k in enumerate(map(int, choice["k"])):
        preferred = [name.replace("_", " ") for name, value in rivals.items() if value == k]
        figures = [choice[name][row] for name in ("boundary", "stability", "held_out")]
        table.add_row(
            f"{k} *" if k == recommended else str(k),
            *(f"{value:.2f}" if value == value else "" for value in figures),
            ", ".join(preferred),
        )
    facts = {"recommended": recommended, **{f"by_{name}": k for name, k in rivals.items()}}
    outside = [name for name, k in rivals.items() if k not in choice["k"] and k >= 0]
    for name in outside:
        table.add_row(str(rivals[name]), "", "", "", name.replace("_", " "))
    return table, facts
