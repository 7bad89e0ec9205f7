"""What every figure shares: its style, its colours, where it is drawn and how it is written."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from scale_toolkit import keys
from scale_toolkit.errors import InputError, MissingSlotError, OptionError, ScaleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

FORMATS = ("pdf", "png", "svg")

STYLE = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib's own: the same figure on every machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titleweight": "regular",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.title_fontsize": 9,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # letters stay letters in an editor
    "svg.fonttype": "none",
    "svg.hashsalt": "scale",  # element ids that repeat
}

#: Okabe and Ito's colours that the colour-blind can tell apart, the strong ones first; yellow last,
#: as it is faint on white.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#F0E442")
UNKNOWN = "#D0D0D0"

# what a figure can show; beyond it names are thinned out, never the data
MOST_INCHES = 16.0
MOST_TICKS = 80
MOST_LETTERS = 40
MOST_IN_LEGEND = 48
MOST_FIGURES = 900  # in the cells of a table


def colors(n: int) -> list[tuple[float, float, float]]:
    """Give `n` distinct colours: Okabe and Ito's eight, then darker and lighter ones of the same
    hues, then more hues.
    """
    from matplotlib.colors import hsv_to_rgb, to_rgb

    base = [np.array(to_rgb(color)) for color in OKABE_ITO]
    palette = [*base, *(0.55 * color for color in base), *(0.5 * color + 0.5 for color in base)]
    golden = 0.618034  # hues that never come close to one another, however many are taken
    more = range(len(palette), n)
    palette += [
        hsv_to_rgb([(i * golden) % 1, 0.45 + 0.5 * (i % 3) / 2, 0.95 - 0.3 * (i % 4) / 3])
        for i in more
    ]
    return [tuple(map(float, color)) for color in palette[:n]]


def styled(draw: Callable) -> Callable:
    """Let a function draw in the house style without changing the caller's settings."""

    @functools.wraps(draw)
    def call(*args: Any, **kwargs: Any) -> Any:
        _wake_notebook()
        interactive = mpl.is_interactive()
        with mpl.rc_context({**STYLE, "interactive": interactive}):
            return draw(*args, **kwargs)

    return call


def _wake_notebook() -> None:
    """Load the backend that a notebook's kernel has chosen, which makes matplotlib interactive.

    Else the first figure would, inside `styled`, where settings are put back: neither it nor a
    later one would be shown.
    """
    name = os.environ.get("MPLBACKEND", "")
    if name.startswith("module://matplotlib_inline"):
        with contextlib.suppress(ImportError):
            importlib.import_module(name.removeprefix("module://"))


def new_figure(figsize: tuple[float, float], **options: Any) -> Figure:
    """Make an empty figure; in a notebook one that pyplot will show."""
    if mpl.is_interactive():
        from matplotlib import pyplot as plt

        return plt.figure(figsize=figsize, **options)
    return Figure(figsize=figsize, **options)


def axes_for(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """Give the caller's axes, or those of a new figure."""
    return new_figure(figsize).add_subplot() if ax is None else ax


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure as PDF, PNG or SVG (by the suffix): beside its place first, then renamed, so
    never half a file.

    No date or version is written: the same figure gives the same bytes.
    """
    path = Path(path)
    kind = path.suffix[1:].lower()
    if kind not in FORMATS:
        raise OptionError(
            f"the figure's name is {path.name!r}",
            "a name that ends in " + ", ".join(f".{f}" for f in FORMATS),
        )
    metadata = {
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        "svg": {"Date": None, "Creator": None},
        "png": {"Software": None},
    }
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with mpl.rc_context(STYLE):
            figure.savefig(
                part, format=kind, metadata=metadata[kind], bbox_inches="tight", facecolor="white"
            )
        part.replace(path)
    except OSError as error:
        raise ScaleError(
            f"{path} cannot be written ({error.strerror})",
            do="name a folder that exists and is yours",
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def finish(ax: Axes, save: str | Path | None) -> Axes:
    """Write the figure where that is asked, and give its axes back."""
    if save is not None and save is not False:
        save_figure(ax.figure, save)
    return ax


def inches(width: float, height: float) -> tuple[float, float]:
    """A size that a page can show, however many clusters there are."""
    return min(width, MOST_INCHES), min(height, MOST_INCHES)


def ticks(axis: Axis, names: Sequence[str], **style: Any) -> None:
    """Write the names along an axis: every one, or of too many to read every so manieth."""
    step = -(-len(names) // MOST_TICKS)
    axis.set_ticks(
        range(0, len(names), max(step, 1)),
        [shortened(name) for name in names[:: max(step, 1)]],
        **style,
    )


def shortened(name: Any, letters: int = MOST_LETTERS) -> str:
    """A name of a length that a figure can bear."""
    text = str(name)
    return text if len(text) <= letters else text[: letters - 1] + "…"


def labels_of(adata: AnnData, column: str | None) -> pd.Series:
    """A categorical column of obs (left out: ``scale_cluster``), its categories as text in a
    natural order.
    """
    if column is None:
        values = keys.CLUSTER.get(adata)
    elif column in adata.obs:
        values = adata.obs[column]
    else:
        raise MissingSlotError(
            f"obs[{column!r}] is missing", "one of " + ", ".join(map(str, adata.obs.columns))
        )
    return as_categories(values)


def as_categories(values: Any) -> pd.Series:
    """Labels as a categorical of texts without empty categories; a categorical keeps its order,
    numbers go by size.
    """
    series = pd.Series(
        np.asarray(values) if not isinstance(values, (pd.Series, pd.Categorical)) else values
    )
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.cat.remove_unused_categories()
        order = list(series.cat.categories)
        if all(_natural(name)[0] == 0 for name in order):
            order.sort(key=_natural)  # pandas puts "10" before "2"
    else:
        order = sorted(series.dropna().unique(), key=_natural)
    text = {name: str(name) for name in order}
    return pd.Series(
        pd.Categorical(series.map(text).to_numpy(dtype=object), categories=list(text.values())),
        index=series.index,
    )


def _natural(name: Any) -> tuple:
    try:
        return 0, float(name), ""
    except (TypeError, ValueError):
        return 1, 0.0, str(name)


def check_length(what: str, found: int, expected: int) -> None:
    """Raise where a list does not have one entry a cell (row, column)."""
    if found != expected:
        raise InputError(f"{found} {what}", f"{expected}")


def palette_for(names: Sequence[str], palette: Any) -> list:
    """Colours of `names`: given by name, in order, or ours."""
    if palette is None:
        return colors(len(names))
    if isinstance(palette, dict):
        return [palette.get(name, UNKNOWN) for name in names]
    if isinstance(palette, str):
        cmap = mpl.colormaps[palette]
        listed = getattr(cmap, "colors", None)
        if listed is not None and len(names) <= len(listed) <= 20:
            return list(listed[: len(names)])
        return [cmap(x) for x in np.linspace(0, 1, len(names))]
    palette = list(palette)
    if len(palette) < len(names):
        raise OptionError(
            f"the palette has {len(palette)} colours", f"{len(names)}, one for each of the labels"
        )
    return palette[: len(names)]
