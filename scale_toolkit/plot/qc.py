"""Open peaks of cells and open cells of peaks, with the limits of `prepare`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit import keys
from scale_toolkit.errors import OptionError
from scale_toolkit.plot import _figure
from scale_toolkit.plot._figure import styled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

PANELS = ("knee", "histogram", "peaks")


@dataclass(frozen=True)
class Tally:
    """Number of cells (or peaks) with each value, and the limit below which they were left out.

    Attributes
    ----------
    values, counts
        Distinct values, ascending, and how many cells (peaks) have each (int64).
    least
        The limit of `prepare`; None if the file does not contain it: then the values are those
        after filtering.
    """

    values: np.ndarray
    counts: np.ndarray
    least: float | None

    @classmethod
    def of(cls, adata: AnnData, what: str) -> Tally:
        """Return the tally of cells (``"cell"``: open peaks of each) or peaks (``"peak"``: number
        of cells in which each is open).
        """
        if keys.QC.found_in(adata):
            table = keys.QC.get(adata)
            return cls(
                np.asarray(table[f"{what}_values"]),
                np.asarray(table[f"{what}_counts"]),
                float(table[f"{what}_least"]),
            )
        slot = keys.N_PEAKS if what == "cell" else keys.N_CELLS
        values, counts = np.unique(np.asarray(slot.get(adata), np.int64), return_counts=True)
        return cls(values, counts, None)

    @property
    def total(self) -> int:
        """All of them."""
        return int(self.counts.sum())

    @property
    def kept(self) -> int:
        """Those that reach the limit."""
        return int(self.counts[self.values >= (self.least or 0)].sum())

    def knee(self) -> tuple[np.ndarray, np.ndarray]:
        """Ranks, ascending from 1, and values, descending: the corners of the knee curve, exact
        at any number of cells.
        """
        values, counts = self.values[::-1], self.counts[::-1]
        last = np.cumsum(counts)
        ranks = np.column_stack([last - counts + 1, last]).ravel()
        corners = np.repeat(values, 2)
        different = np.r_[True, np.diff(ranks) > 0]
        return ranks[different], corners[different]

    def histogram(self, n_bins: int = 50) -> tuple[np.ndarray, np.ndarray]:
        """Return edges (bins + 1 integers, about equally wide in log) and counts; values of 0 are
        left out.

        The limit is an edge, so that no bar extends over it. Every bin contains an integer, so that
        none is empty by construction.
        """
        positive = self.values > 0
        values, counts = self.values[positive], self.counts[positive]
        if not len(values):
            return np.array([1, 2]), np.array([0])
        low, high = int(values[0]), int(values[-1])
        start = min(max(int(np.ceil(self.least or low)), low), high)
        ratio = max((high + 1) / low, 2) ** (1 / n_bins)
        down, up = [start], [start]
        while down[-1] > low:
            down.append(max(min(down[-1] - 1, int(down[-1] / ratio)), low))
        while up[-1] <= high:
            up.append(max(up[-1] + 1, int(np.ceil(up[-1] * ratio))))
        edges = np.array([*down[:0:-1], *up])
        return edges, np.histogram(values, edges, weights=counts)[0].astype(np.int64)


@styled
def qc(
    adata: AnnData,
    panel: str | None = None,
    *,
    ax: Axes | Sequence[Axes] | None = None,
    save: str | Path | None = None,
    figsize: tuple[float, float] = (3.2, 2.6),
) -> Axes | np.ndarray:
    """Draw how many peaks are open in a cell, and in how many cells a peak is open.

    Cells and peaks that `prepare` left out are grey, its limits are dotted lines. For a file of
    another program, only its cells and peaks are shown.

    Parameters
    ----------
    adata
        A prepared AnnData: ``uns['scale_qc']``, or ``obs['n_peaks']`` and ``var['n_cells']``.
    panel
        ``"knee"`` (open peaks of the cells in falling order), ``"histogram"`` of the same, or
        ``"peaks"`` (number of cells in which a peak is open); left out, all three.
    ax
        Draw here: one axes for a panel, three for all.
    save
        Write the figure there (.pdf, .png or .svg).
    figsize
        Inches, a panel.

    Returns
    -------
    The axes; an array of three if no panel is named.
    """
    panels = PANELS if panel is None else (panel,)
    if panel is not None and panel not in PANELS:
        raise OptionError(f"panel is {panel!r}", "one of " + ", ".join(PANELS))
    if ax is None:
        figure = _figure.new_figure((figsize[0] * len(panels), figsize[1]), layout="constrained")
        axes = list(figure.subplots(1, len(panels), squeeze=False)[0])
    else:
        axes = list(np.ravel(np.asarray(ax, dtype=object)))
    if len(axes) != len(panels):
        raise OptionError(
            f"got {len(axes)} axes for {len(panels)} panels",
            "one each",
            "name one panel, or give three axes",
        )
    draw = {"knee": _knee, "histogram": _histogram, "peaks": _histogram}
    for panel_axes, name in zip(axes, panels):
        draw[name](
            panel_axes,
            Tally.of(adata, "peak" if name == "peaks" else "cell"),
            "peak" if name == "peaks" else "cell",
        )
    _figure.finish(axes[0], save)
    return axes[0] if panel is not None else np.array(axes, dtype=object)


SHADES = {"cell": _figure.OKABE_ITO[0], "peak": _figure.OKABE_ITO[2]}
WORDS = {"cell": "open peaks in a cell", "peak": "cells a peak is open in"}


def _knee(ax: Axes, tally: Tally, what: str) -> None:
    ranks, values = tally.knee()
    positive = values > 0
    ranks, values = ranks[positive], values[positive]
    is_kept = values >= (tally.least or 0)
    ax.plot(ranks, values, color=_figure.UNKNOWN, linewidth=1.6)
    ax.plot(ranks[is_kept], values[is_kept], color=SHADES[what], linewidth=2)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel=f"{what}s, most open peaks first",
        ylabel=WORDS[what],
        title=_title(tally, what),
    )
    _plain_numbers(ax.xaxis)
    _plain_numbers(ax.yaxis)
    _limit(ax.axhline, tally)


def _histogram(ax: Axes, tally: Tally, what: str) -> None:
    edges, counts = tally.histogram()
    is_kept = edges[:-1] >= (tally.least or 0)
    ax.bar(
        edges[:-1],
        counts,
        np.diff(edges),
        align="edge",
        color=[SHADES[what] if k else _figure.UNKNOWN for k in is_kept],
        linewidth=0,
    )
    ax.set(xscale="log", xlabel=WORDS[what], ylabel=f"{what}s", title=_title(tally, what))
    _plain_numbers(ax.xaxis)
    _limit(ax.axvline, tally)


def _plain_numbers(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as plain numbers: 1,000 for 10³; few on a short
    axis.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def _title(tally: Tally, what: str) -> str:
    if tally.least is None:
        return f"{tally.total:,} {what}s"
    return f"{tally.kept:,} of {tally.total:,} {what}s kept"


def _limit(line: Any, tally: Tally) -> None:
    if tally.least:
        line(tally.least, color="#404040", linewidth=0.9, linestyle=":")
