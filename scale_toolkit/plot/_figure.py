"""Style, colours, axes and files of all figures."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    # shipped with matplotlib: the same figure on every machine
    "font.sans-serif": ["DejaVu Sans"],
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
    # text stays text in an editor
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # the same element ids in every run
    "svg.hashsalt": "scale",
}

#: Okabe and Ito's palette for colour-blind readers, the strong colours first; yellow last, as it is
#: faint on white.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#F0E442")
UNKNOWN = "#D0D0D0"

# Limits of what a figure can show: beyond them some names are left out, never data.
MOST_INCHES = 16.0
MOST_TICKS = 80
MOST_LETTERS = 40
MOST_IN_LEGEND = 48
# Figures in the cells of a table.
MOST_FIGURES = 900


def colors(n: int) -> list[tuple[float, float, float]]:
    """Give `n` distinct colours: Okabe and Ito's eight, then darker and lighter ones of the same
    hues, then more hues.
    """
    from matplotlib.colors import hsv_to_rgb, to_rgb

    base = [np.array(to_rgb(color)) for color in OKABE_ITO]
    palette: list[np.ndarray] = [
        *base,
        *(0.55 * color for color in base),
        *(0.5 * color + 0.5 for color in base),
    ]
    # multiples of the golden ratio modulo 1 stay far from each other, for any number of hues
    golden = 0.618034
    more = range(len(palette), n)
    palette += [
        hsv_to_rgb([(i * golden) % 1, 0.45 + 0.5 * (i % 3) / 2, 0.95 - 0.3 * (i % 4) / 3])
        for i in more
    ]
    return [(float(red), float(green), float(blue)) for red, green, blue in palette[:n]]


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
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

    Otherwise the first figure would load it inside `styled`, which restores the settings: then no
    figure would be shown.
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
    """Write a figure as PDF, PNG or SVG (by the suffix), completely or not at all.

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
    from scale_toolkit.io.files import atomic

    try:
        with atomic(path) as private, mpl.rc_context(STYLE):
            figure.savefig(
                private,
                format=kind,
                metadata=metadata[kind],
                bbox_inches="tight",
                facecolor="white",
            )
    except OSError as error:
        raise ScaleError(
            f"{path} cannot be written ({error.strerror})",
            do="make room, or name a folder that is yours",
        ) from error
    return path


def figure_of(ax: Axes) -> Figure:
    """Return the figure of axes, also of axes in a part of it (`SubFigure`)."""
    figure: Figure = ax.figure.figure
    return figure


def finish(ax: Axes, save: str | Path | Literal[False] | None) -> Axes:
    """Write the figure if a path is given, and return its axes."""
    if save is not None and save is not False:
        save_figure(figure_of(ax), save)
    return ax


def inches(width: float, height: float) -> tuple[float, float]:
    """Return a size that a page can show, for any number of clusters."""
    return min(width, MOST_INCHES), min(height, MOST_INCHES)


def ticks(axis: Axis, names: Sequence[str], **style: Any) -> None:
    """Write the names along an axis: every one, or every n-th of more than `MOST_TICKS`."""
    step = -(-len(names) // MOST_TICKS)
    axis.set_ticks(
        range(0, len(names), max(step, 1)),
        [shortened(name) for name in names[:: max(step, 1)]],
        **style,
    )


def shortened(name: Any, letters: int = MOST_LETTERS) -> str:
    """Return a name, truncated to the length that a figure can show."""
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
            # pandas sorts "10" before "2"
            order.sort(key=_natural)
    else:
        order = sorted(series.dropna().unique(), key=_natural)
    text = {name: str(name) for name in order}
    return pd.Series(
        pd.Categorical(series.map(text).to_numpy(dtype=object), categories=list(text.values())),
        index=series.index,
    )


def _natural(name: Any) -> tuple[int, float, str]:
    try:
        return 0, float(name), ""
    except (TypeError, ValueError):
        return 1, 0.0, str(name)


def label_colors(values: Any, names: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """Return the colours that labels have in figures, for some names: those of labels in the
    figures' order, then all others, in the colour of unknown labels.

    Parameters
    ----------
    values
        Labels of the cells, as in obs.
    names
        Names to return.
    """
    from matplotlib.colors import to_rgb

    labels = list(as_categories(values).cat.categories)
    shades = dict(zip(labels, colors(len(labels)), strict=True))
    known = {name: shade for name, shade in shades.items() if name in set(names)}
    return known | {name: to_rgb(UNKNOWN) for name in names if name not in known}


def check_length(what: str, found: int, expected: int) -> None:
    """Raise if a list does not have one entry for each cell (row, column)."""
    if found != expected:
        raise InputError(f"{found} {what}", f"{expected}")


def palette_for(names: Sequence[str], palette: Any) -> list[Any]:
    """Return the colours of `names`: by name, in order, or by default."""
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
