"""Cells as points in two dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.errors import InputError, MissingSlotError
from scale_toolkit.plot import _decode, _figure
from scale_toolkit.plot._figure import UNKNOWN, styled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.text import Text

#: Panels side by side.
MAX_COLUMNS = 4
#: Names of the axes of known embeddings.
AXES = {
    keys.UMAP.name: "UMAP",
    keys.TSNE.name: "tSNE",
    keys.LATENT.name: "latent",
    keys.LATENT_SCALE.name: "latent",
}


@styled
def embedding(
    adata: AnnData,
    basis: str | None = None,
    color: str | Sequence[str] | None = keys.CLUSTER.name,
    *,
    ax: Axes | None = None,
    save: str | Path | None = None,
    size: float | None = None,
    palette: Any = None,
    cmap: str = "viridis",
    legend: bool = True,
    names_on_data: bool = False,
    counts: bool = False,
    title: str | None = None,
    figsize: tuple[float, float] = (4.2, 4.0),
) -> Axes | np.ndarray:
    """Draw cells as points, coloured by a column of obs or by a peak.

    Points are drawn in a random order that is always the same, so that no cluster covers another
    (of a peak, the cells in which it is open are drawn last). In a PDF or SVG they are pixels, so
    that a figure of 100,000 cells stays small; text and axes stay text and lines.

    Parameters
    ----------
    adata
        ``obsm[basis]``: cells × 2 or more; the first two are drawn.
    basis
        ``"X_umap"``, ``"X_tsne"`` or any other; ``"umap"`` does as well. By default X_umap, or
        X_tsne if only that exists.
    color
        A column of obs (categories with a legend, numbers with a colour bar), a peak, None for one
        colour, or a list of these for one panel each, at most four side by side. Cells without a
        label are grey. A peak is coloured by its imputed values at equal depth if `train` has
        modelled it, as by ``scale plot embedding``; else by its values in X.
    ax
        Draw here; not with a list of colours.
    save
        Write the figure there (.pdf, .png or .svg).
    size
        Area of a point in pt²; by default larger for fewer cells.
    palette
        Colours of the categories: a dict, a list, or a name of a matplotlib colour map. Default:
        colour-blind-safe.
    cmap
        Colour map of numbers.
    legend
        Draw the legend or colour bar.
    names_on_data
        Write the categories at their middle.
    counts
        Colour peaks by their values in X, also if they can be imputed.
    title
        Instead of the name of `color`.
    figsize
        Inches, a panel.

    Returns
    -------
    The axes; for a list of colours an array of axes.
    """
    points, name = _coordinates(adata, basis)
    if color is not None and not isinstance(color, str):
        return _panels(adata, list(color), ax, save, figsize, {
            "basis": basis, "size": size, "palette": palette, "cmap": cmap,
            "legend": legend, "names_on_data": names_on_data, "counts": counts, "title": title,
        })  # fmt: skip
    ax = _figure.axes_for(ax, figsize)
    size = point_size(len(points)) if size is None else size
    values = None if counts else _imputed_values(adata, color)
    if values is not None:
        title = f"{color} (imputed)" if title is None else title
    else:
        values = _values(adata, color)
    if isinstance(values.dtype, pd.CategoricalDtype):
        draw_categories(
            ax,
            points,
            values,
            size=size,
            palette=palette,
            legend=legend,
            names_on_data=names_on_data,
        )
    else:
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
        is_peak = color not in adata.obs
        _draw_numbers(ax, points, numbers, size=size, cmap=cmap, legend=legend, high_on_top=is_peak)
    ax.set_title(title if title is not None else (color or ""))
    _frame(ax)
    ax.set(xlabel=f"{name} 1", ylabel=f"{name} 2")
    return _figure.finish(ax, save)


def point_size(n: int) -> float:
    """Area of a point in pt² for `n` points: 16 for some hundred cells, 0.3 for 100,000 and
    more.
    """
    return float(np.clip(6000 / max(n, 1), 0.3, 16))


def _panels(
    adata: AnnData,
    color: list[str],
    ax: Axes | None,
    save: str | Path | None,
    figsize: tuple[float, float],
    options: dict[str, Any],
) -> np.ndarray:
    if ax is not None:
        raise InputError(
            "got one ax and a list of colours",
            "one colour",
            "call it once for each, or leave ax out",
        )
    n_panels = max(len(color), 1)
    n_columns = n_panels if n_panels <= 3 else min(int(np.ceil(np.sqrt(n_panels))), MAX_COLUMNS)
    n_rows = -(-n_panels // n_columns)
    # constrained: each panel leaves room for its legend
    size = (figsize[0] * 1.3 * n_columns, figsize[1] * n_rows)
    figure = _figure.new_figure(size, layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for panel in axes[n_panels:]:
        panel.remove()
    axes = axes[:n_panels]
    for panel, column in zip(axes, color, strict=False):
        embedding(adata, color=column, ax=panel, **options)
    if save is not None:
        _figure.save_figure(figure, save)
    return axes


def _coordinates(adata: AnnData, basis: str | None) -> tuple[np.ndarray, str]:
    if basis is None:
        only_tsne = keys.TSNE.found_in(adata) and not keys.UMAP.found_in(adata)
        basis = keys.TSNE.name if only_tsne else keys.UMAP.name
    if basis not in adata.obsm and f"X_{basis}" in adata.obsm:
        basis = f"X_{basis}"
    for slot in (keys.UMAP, keys.TSNE):
        if basis in (slot.name, slot.name[2:]):
            basis, points = slot.name, slot.get(adata)
            break
    else:
        if basis not in adata.obsm:
            raise MissingSlotError(
                f"obsm[{basis!r}] is missing",
                "one of " + (", ".join(adata.obsm) or "(there is none)"),
                "run `scale embed` first",
            )
        points = adata.obsm[basis]
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] < 2:
        raise InputError(f"obsm[{basis!r}] has the shape {points.shape}", "cells × 2 or more")
    return points[:, :2], AXES.get(basis, basis)


def _imputed_values(adata: AnnData, color: str | None) -> pd.Series | None:
    """Return the probability that a peak is open in each cell, at the data's median depth; None
    for what is not a modelled peak.
    """
    if color is None or color in adata.obs or color not in adata.var_names:
        return None
    if not _decode.can_decode(adata):
        return None
    position = np.array([adata.var_names.get_loc(color)])
    if not _decode.modelled(adata, position)[0]:
        return None
    return pd.Series(_decode.decoded(adata, position)[:, 0])


def _values(adata: AnnData, color: str | None) -> pd.Series:
    if color is None:
        return pd.Series(pd.Categorical(["cells"] * adata.n_obs))
    if color in adata.obs:
        values = adata.obs[color]
        numeric = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(
            values.dtype
        )
        return values if numeric else _figure.as_categories(values)
    if color in adata.var_names:
        column = adata[:, color].X
        return pd.Series(
            np.ravel(column.toarray() if sparse.issparse(column) else np.asarray(column))
        )
    if color == keys.CLUSTER.name:
        keys.CLUSTER.get(adata)
    raise MissingSlotError(
        f"obs[{color!r}] is missing", "a peak or one of " + ", ".join(map(str, adata.obs.columns))
    )


def draw_categories(
    ax: Axes,
    points: np.ndarray,
    values: pd.Series,
    *,
    size: float,
    palette: Any,
    legend: bool,
    names_on_data: bool,
) -> None:
    """Draw points in the colours of their categories, with a legend beside the axes."""
    from matplotlib.colors import to_rgba_array
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    names, codes = list(values.cat.categories), values.cat.codes.to_numpy()
    # code −1: no label
    shades = to_rgba_array([*_figure.palette_for(names, palette), UNKNOWN])
    order = np.random.default_rng(0).permutation(len(points))
    order = np.concatenate([order[codes[order] < 0], order[codes[order] >= 0]])
    x, y = points[order].T
    ax.scatter(x, y, s=size, c=shades[codes[order]], linewidths=0, rasterized=True)
    if names_on_data and len(names) <= _figure.MOST_IN_LEGEND:
        middles = [np.median(points[codes == code], axis=0) for code in range(len(names))]
        halo = [withStroke(linewidth=2.5, foreground="white")]
        style: dict[str, Any] = {
            "ha": "center",
            "va": "center",
            "fontsize": 8,
            "fontweight": "bold",
            "path_effects": halo,
        }
        _move_apart(ax, [ax.text(x, y, name, **style) for (x, y), name in zip(middles, names)])
    if not legend or (len(names) < 2 and (codes >= 0).all()):
        return
    most = np.argsort(-np.bincount(codes[codes >= 0], minlength=len(names)), kind="stable")[
        : _figure.MOST_IN_LEGEND
    ]
    entries = [(_figure.shortened(names[code]), shades[code]) for code in np.sort(most)]
    if len(names) > len(most):
        entries.append((f"and {len(names) - len(most):,} smaller ones", "none"))
    entries = [*entries, *([("no label", shades[-1])] if (codes < 0).any() else [])]
    dots = [
        Line2D([], [], marker="o", linestyle="", markersize=5.5, color=shade, label=name)
        for name, shade in entries
    ]
    columns = 1 + (len(dots) - 1) // 16
    ax.legend(
        handles=dots,
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
        ncols=columns,
        handletextpad=0.2,
        columnspacing=1,
    )


def _move_apart(ax: Axes, texts: list[Text]) -> None:
    """Move texts that cover one another up and down until they do not."""
    # the extents of texts depend on the final shape of the axes
    _frame(ax)
    _figure.figure_of(ax).draw_without_rendering()
    # left, bottom, right, top in pixels
    boxes = np.array([text.get_window_extent().extents for text in texts])
    for _ in range(200):
        wide = (boxes[:, None, 0] < boxes[None, :, 2]) & (boxes[None, :, 0] < boxes[:, None, 2])
        over = np.minimum(
            boxes[:, None, 3] - boxes[None, :, 1], boxes[None, :, 3] - boxes[:, None, 1]
        )
        lower, upper = np.nonzero(np.triu(wide & (over > 0), 1))
        if not len(lower):
            break
        swap = boxes[lower, 1] > boxes[upper, 1]
        lower, upper, shift = (
            np.where(swap, upper, lower),
            np.where(swap, lower, upper),
            over[lower, upper] / 2 + 0.5,
        )
        np.subtract.at(boxes, lower, shift[:, None] * [0, 1, 0, 1])
        np.add.at(boxes, upper, shift[:, None] * [0, 1, 0, 1])
    centres = ax.transData.inverted().transform(
        np.c_[boxes[:, [0, 2]].mean(1), boxes[:, [1, 3]].mean(1)]
    )
    for text, centre in zip(texts, centres):
        text.set_position(centre)


def _draw_numbers(
    ax: Axes,
    points: np.ndarray,
    values: np.ndarray,
    *,
    size: float,
    cmap: str,
    legend: bool,
    high_on_top: bool,
) -> None:
    """Draw points coloured by numbers, cells without one in grey below.

    A peak is open in few cells, which would be hidden below the others: they are drawn last. Any
    other number is drawn in random order, so that no range of values covers another.
    """
    known = np.isfinite(values)
    if not known.all():
        x, y = points[~known].T
        ax.scatter(x, y, s=size, c=UNKNOWN, linewidths=0, rasterized=True)
    order = np.random.default_rng(0).permutation(np.flatnonzero(known))
    if high_on_top:
        order = order[np.argsort(values[order], kind="stable")]
    x, y = points[order].T
    dots = ax.scatter(x, y, s=size, c=values[order], cmap=cmap, linewidths=0, rasterized=True)
    if legend and known.any():
        bar = ax.figure.colorbar(dots, ax=ax, fraction=0.04, pad=0.03, shrink=0.6)
        bar.outline.set_visible(False)


def _frame(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.set_box_aspect(1)
    ax.margins(0.03)
