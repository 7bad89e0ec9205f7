"""Differences between two conditions, as `markers --contrast` found them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.errors import InputError
from scale_toolkit.plot import _figure
from scale_toolkit.plot._figure import OKABE_ITO, UNKNOWN, styled
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes

#: Peaks with their names in a figure.
MOST_NAMED = 6
#: Distance of two names, as shares of the width and the height.
_APART = np.array([0.2, 0.04])
#: Smallest corrected p that is drawn: beyond, points lie on the upper edge.
_LEAST_FDR = 1e-100


@styled
def contrast(
    adata: AnnData,
    cluster: str | None = None,
    *,
    ax: Axes | None = None,
    save: str | Path | None = None,
    figsize: tuple[float, float] | None = None,
) -> Axes:
    """Draw how many peaks differ in each cluster, or the peaks of one cluster as a volcano.

    Parameters
    ----------
    adata
        An AnnData after `markers` with `contrast`.
    cluster
        Draw this cluster: log2 odds ratio at equal depth against −log10 of the corrected p, every
        tested peak a point, differences in colour, the best with their nearest gene or name.
    ax, save, figsize
        As in `embedding`.

    Raises
    ------
    MissingSlotError
        `markers` has not compared conditions.
    InputError
        The cluster is unknown.
    """
    clusters = pd.DataFrame(keys.CONTRAST_CLUSTERS.get(adata))
    pair = (str(clusters["first"].iloc[0]), str(clusters["second"].iloc[0]))
    names = clusters["cluster"].astype(str).tolist()
    if cluster is None:
        ax = _figure.axes_for(ax, figsize or _figure.inches(4.2, 1.2 + 0.25 * len(names)))
        _draw_numbers(ax, clusters, names, pair)
    else:
        if cluster not in names:
            raise InputError(
                f"cluster {cluster!r} was not compared", f"one of {first_names(names, 12)}"
            )
        ax = _figure.axes_for(ax, figsize or (4.2, 3.4))
        _draw_volcano(ax, adata, names.index(cluster), cluster, pair)
    return _figure.finish(ax, save)


def _draw_numbers(
    ax: Axes, clusters: pd.DataFrame, names: list[str], pair: tuple[str, str]
) -> None:
    """Draw a bar to the right for each cluster, and one to the left."""
    from matplotlib.ticker import MaxNLocator

    rows = np.arange(len(names))
    for column, sign, color, name in (
        ("higher_in_first", 1, OKABE_ITO[1], pair[0]),
        ("higher_in_second", -1, OKABE_ITO[0], pair[1]),
    ):
        counts = clusters[column].to_numpy(np.int64)
        ax.barh(rows, sign * counts, color=color, label=f"more open in {_figure.shortened(name)}")
    ax.axvline(0, color="0.3", linewidth=0.8)
    _figure.ticks(ax.yaxis, names)
    ax.invert_yaxis()
    if not clusters[["higher_in_first", "higher_in_second"]].to_numpy().any():
        ax.set_xlim(-1, 1)
        middle = ax.text(0.5, 0.5, "no peak differs", ha="center", va="center")
        middle.set_transform(ax.transAxes)
        middle.set_bbox({"facecolor": "white", "edgecolor": "none"})
    # counts have no fractions
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.xaxis.set_major_formatter(lambda value, _: f"{abs(value):,.0f}")
    ax.set_xlabel("peaks that differ")
    ax.set_ylabel("cluster")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=1)


def _draw_volcano(
    ax: Axes, adata: AnnData, position: int, cluster: str, pair: tuple[str, str]
) -> None:
    effect = np.asarray(keys.CONTRAST_LOG_ODDS.get(adata))[:, position].astype(float)
    fdr = np.asarray(keys.CONTRAST_FDR.get(adata))[:, position].astype(float)
    height = -np.log10(np.maximum(fdr, _LEAST_FDR))
    table = keys.CONTRAST.get(adata)
    table = table[table["cluster"].astype(str) == cluster]
    peaks = adata.var_names.get_indexer(table["peak"].astype(str))
    table, peaks = table[peaks >= 0], peaks[peaks >= 0]
    tested = np.isfinite(fdr)
    background = tested.copy()
    background[peaks] = False
    size = float(np.clip(4000 / max(tested.sum(), 1), 1.5, 12))
    ax.scatter(
        effect[background], height[background], s=size, color=UNKNOWN, linewidths=0, rasterized=True
    )
    for name, color in zip(pair, (OKABE_ITO[1], OKABE_ITO[0]), strict=True):
        chosen = peaks[(table["higher_in"].astype(str) == name).to_numpy()]
        label = f"{len(chosen):,} more open in {_figure.shortened(name)}"
        ax.scatter(
            effect[chosen], height[chosen], s=2 * size, color=color, linewidths=0, label=label
        )
    words = table["nearest_gene"] if "nearest_gene" in table else pd.Series("", index=table.index)
    points = np.column_stack([effect, height])
    span = np.maximum(np.ptp(points[tested], axis=0), 1e-9) if tested.any() else np.ones(2)
    named: list[np.ndarray] = []
    for peak, gene, name in zip(peaks, words, table["peak"], strict=True):
        # names of neighbouring points would cover each other
        if any((np.abs(points[peak] - point) < _APART * span).all() for point in named):
            continue
        if len(named) == MOST_NAMED:
            break
        named.append(points[peak])
        ax.annotate(
            _figure.shortened(str(gene) or str(name), 24),
            (effect[peak], height[peak]),
            xytext=(3, 2),
            textcoords="offset points",
            fontsize=6,
        )
    ax.axvline(0, color="0.6", linewidth=0.6, zorder=0)
    ax.set_xlabel("log2 odds ratio at equal depth")
    ax.set_ylabel("−log10 corrected p")
    ax.set_title(f"cluster {_figure.shortened(cluster)}: {tested.sum():,} peaks tested")
    if len(peaks):
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1)
