"""Matrices as colours: peaks of clusters, confusion, correlation, latent dimensions of clusters."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.core import metrics
from scale_toolkit.core.specificity import most_specific_peaks, specificity_of_matrix
from scale_toolkit.errors import InputError, MissingSlotError
from scale_toolkit.plot import _figure
from scale_toolkit.plot._figure import styled
from scale_toolkit.plot.marker_peaks import best_peaks, marker_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes

log = logging.getLogger("scale_toolkit")


@styled
def heatmap(
    adata: AnnData,
    groupby: str | None = None,
    peaks: Sequence[str] | None = None,
    *,
    n_peaks: int = 8,
    relative: bool = False,
    ax: Axes | None = None,
    save: str | Path | None = None,
    cmap: str = "viridis",
    title: str = "",
    figsize: tuple[float, float] | None = None,
) -> Axes:
    """Draw the share of open cells, clusters × peaks.

    Parameters
    ----------
    adata
        X: counts or binary.
    groupby
        Column of obs; left out, ``scale_cluster``. Cells without a label are left out.
    peaks
        Peaks to show; left out, the best markers of each cluster where `scale markers` has found some of these clusters, else
        the most specific peaks (`get.specificity`).
    n_peaks
        How many of each cluster that is.
    relative
        Divide each peak by its highest share.
    ax, save, cmap, title, figsize
        As in `embedding`.
    """
    if adata.X is None:
        raise MissingSlotError("X is missing", "counts, cells × peaks", "run `scale prepare` on the counts first")
    labels = _figure.labels_of(adata, groupby)
    names = list(labels.cat.categories)
    borders: list[float] = []
    if peaks is None:
        groups = _markers(adata, labels, groupby or keys.CLUSTER.name, n_peaks) or _most_specific(adata, labels, n_peaks)
        columns = np.concatenate(groups)
        borders = list(np.cumsum([len(group) for group in groups])[:-1] - 0.5)
    else:
        columns = adata.var_names.get_indexer(list(peaks))
        unknown = [name for name, column in zip(peaks, columns, strict=True) if column < 0]
        if unknown or not len(columns):
            raise InputError(
                f"{len(unknown)} of {len(columns)} peaks are not in var_names: {', '.join(unknown[:3])}", "names of peaks"
            )
    peaks = list(adata.var_names[columns])
    shares = share_of_open_cells(sparse.csr_matrix(adata.X)[:, columns], labels)
    if relative:
        shares = shares / np.where(shares.max(axis=0) > 0, shares.max(axis=0), 1)
    size = _figure.inches(1.6 + 0.16 * min(max(len(peaks), 10), 60), 1.4 + 0.22 * len(names))
    ax = _figure.axes_for(ax, figsize or size)
    image = ax.imshow(shares, aspect="auto", cmap=cmap, interpolation="nearest", vmin=0)
    for border in borders if len(borders) < _figure.MOST_TICKS else ():
        ax.axvline(border, color="white", linewidth=0.8)
    _figure.ticks(ax.yaxis, names)
    if len(peaks) <= 60:
        ax.set_xticks(range(len(peaks)), peaks, rotation=90, fontsize=6)
    else:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(peaks)} peaks")
    _plain(ax)
    ax.set_title(title)
    _bar(ax, image, "share of its highest" if relative else "share of open cells")
    return _figure.finish(ax, save)


def _markers(adata: AnnData, labels: pd.Series, column: str, n_peaks: int) -> list[np.ndarray] | None:
    """Return the positions of the best marker peaks of each cluster that has some, or None."""
    table = marker_table(adata, labels, column)
    if table is None:
        if keys.MARKERS.found_in(adata):
            log.info("%s belongs to other clusters than obs[%r]: the most specific peaks are drawn", keys.MARKERS, column)
        return None
    groups = [group for group in best_peaks(table, list(labels.cat.categories), adata.var_names, n_peaks) if len(group)]
    return groups or None


def _most_specific(adata: AnnData, labels: pd.Series, n_peaks: int) -> list[np.ndarray]:
    """Return the positions of the most specific peaks of each cluster that has some."""
    codes = labels.cat.codes.to_numpy()
    n_clusters = len(labels.cat.categories)
    is_open = sparse.csr_matrix((sparse.csr_matrix(adata.X)[codes >= 0] > 0).T).astype(np.float64)
    is_open.eliminate_zeros()
    scores = specificity_of_matrix(is_open, codes[codes >= 0], n_clusters)
    chosen, cluster = most_specific_peaks(scores, range(n_clusters), n_peaks)
    if not len(chosen):
        raise InputError("no peak in X is open in any cell", "counts", "run `scale prepare` on the counts first")
    return np.split(chosen, np.flatnonzero(np.diff(cluster)) + 1)


def share_of_open_cells(X: Any, labels: pd.Series) -> np.ndarray:
    """Share of each category's cells in which a peak is open (categories × peaks); cells without a label count nowhere."""
    is_open = sparse.csr_matrix(X) > 0
    codes = labels.cat.codes.to_numpy()
    known = np.flatnonzero(codes >= 0)
    sizes = np.bincount(codes[known], minlength=len(labels.cat.categories))
    member = sparse.csr_matrix((1 / sizes[codes[known]], (codes[known], known)), shape=(len(sizes), len(codes)))
    return (member @ is_open.astype(np.float64)).toarray()


@styled
def confusion_matrix(
    adata: AnnData,
    reference: str,
    cluster: str | None = None,
    *,
    normalize: bool = False,
    ax: Axes | None = None,
    save: str | Path | None = None,
    cmap: str = "Blues",
    title: str | None = None,
    figsize: tuple[float, float] | None = None,
) -> Axes:
    """Draw cells by known label (rows) and cluster (columns, in the order of the labels they match best), with ARI and NMI.

    Parameters
    ----------
    adata
        Clustered cells.
    reference
        Column of obs with known labels; cells without one are left out.
    cluster
        Column of obs with clusters; left out, ``scale_cluster``.
    normalize
        Show shares of each label's cells instead of numbers.
    ax, save, cmap, title, figsize
        As in `embedding`.
    """
    known, clusters = _figure.labels_of(adata, reference), _figure.labels_of(adata, cluster)
    both = known.notna().to_numpy() & clusters.notna().to_numpy()
    if not both.any():
        raise InputError(f"no cell has both a label in obs[{reference!r}] and a cluster", "at least one")
    report = metrics.agreement(known[both].astype(str).to_numpy(), clusters[both].astype(str).to_numpy())
    table = report.table / report.table.sum(axis=1, keepdims=True) if normalize else report.table
    size = _figure.inches(1.8 + 0.45 * len(report.clusters), 1.2 + 0.4 * len(report.classes))
    ax = _figure.axes_for(ax, figsize or size)
    draw_table(ax, table, report.clusters, report.classes, cmap=cmap, rotation=0)
    ax.set(xlabel=cluster or keys.CLUSTER.name, ylabel=reference)
    ax.set_title(title if title is not None else f"ARI {report.ari:.2f}   NMI {report.nmi:.2f}", pad=8)
    _bar(ax, ax.images[0], "share" if normalize else "cells")
    return _figure.finish(ax, save)


def draw_table(
    ax: Axes, table: np.ndarray, columns: Sequence[str], rows: Sequence[str], *, cmap: Any, rotation: float, mark: bool = True
) -> None:
    """Draw a matrix with its figures in the cells; zeros stay empty."""
    table = np.asarray(table)
    _figure.check_length("names of columns", len(columns), table.shape[1])
    _figure.check_length("names of rows", len(rows), table.shape[0])
    shares = table.dtype.kind == "f"
    image = ax.imshow(table, cmap=cmap, interpolation="nearest", aspect="auto", vmin=0, vmax=1 if shares else None)
    _figure.ticks(ax.xaxis, columns, rotation=rotation, ha="right" if rotation else "center")
    _figure.ticks(ax.yaxis, rows)
    _plain(ax)
    if not mark or table.size > _figure.MOST_FIGURES:
        return
    for i, j in zip(*np.nonzero(table >= (0.005 if shares else 1))):
        red, green, blue, _ = image.cmap(image.norm(table[i, j]))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = f"{table[i, j]:.2f}" if shares else f"{table[i, j]:d}"
        ax.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")


@styled
def correlation(
    adata: AnnData,
    groupby: str | None = None,
    basis: str = keys.LATENT.name,
    *,
    method: str = "pearson",
    max_cells: int = 1000,
    ax: Axes | None = None,
    save: str | Path | None = None,
    cmap: str = "RdBu_r",
    title: str = "",
    figsize: tuple[float, float] = (4.6, 4.2),
) -> Axes:
    """Draw the correlation of cells with cells over their latent vectors, cells sorted by cluster.

    Parameters
    ----------
    adata
        ``obsm[basis]``: cells × dimensions.
    groupby
        Column of obs; left out, ``scale_cluster``. Cells without a label are left out.
    basis
        Which coordinates.
    method
        ``"pearson"``, ``"spearman"`` or ``"kendall"``.
    max_cells
        Of more cells, a random choice of this many (the same every time).
    ax, save, cmap, title, figsize
        As in `embedding`.
    """
    labels = _figure.labels_of(adata, groupby)
    latent = _coordinates(adata, basis)
    cells = np.flatnonzero(labels.notna())
    if len(cells) > max_cells:
        cells = np.sort(np.random.default_rng(0).choice(cells, max_cells, replace=False))
    X = pd.DataFrame(latent[cells].T)
    ax = _figure.axes_for(ax, figsize)
    draw_correlation(ax, X, labels.iloc[cells].reset_index(drop=True), method=method, cmap=cmap)
    ax.set_title(title, pad=14)
    return _figure.finish(ax, save)


def draw_correlation(
    ax: Axes,
    X: pd.DataFrame,
    labels: pd.Series | None,
    *,
    method: str,
    cmap: Any,
    legend: bool = True,
    bar: bool = True,
    ncol: int = 1,
    ticks: Sequence[float] | None = None,
) -> None:
    """Draw the correlation of the columns of `X` (features × cells), sorted by label."""
    order = np.arange(X.shape[1]) if labels is None else np.argsort(labels.cat.codes.to_numpy(), kind="stable")
    r = X.iloc[:, order].corr(method=method).to_numpy()
    image = ax.imshow(r, cmap=cmap, vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
    ax.set(xticks=[], yticks=[])
    ax.set_box_aspect(1)
    _plain(ax)
    if labels is not None:
        strips(ax, [labels.iloc[order]], legend=legend, ncol=ncol)
    if bar:
        _bar(ax, image, method, ticks=[-1, 0, 1] if ticks is None else ticks, where="bottom")


def strips(
    ax: Axes,
    labels: Sequence[pd.Series],
    *,
    palette: Any = None,
    legend: bool = True,
    ncol: int = 1,
    fontsize: float = 8,
    side: str = "top",
) -> None:
    """Draw a strip of colours along the axes for each series of labels (one label a column, or a row), with one legend."""
    from matplotlib.colors import to_rgba_array
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(name for series in labels for name in series.cat.categories))
    shades = to_rgba_array([*_figure.palette_for(names, palette), _figure.UNKNOWN])
    color_of = dict(zip(names, shades))
    for i, series in enumerate(reversed(labels)):
        row = np.array([color_of.get(name, shades[-1]) for name in series])
        place = [0, 1.01 + 0.045 * i, 1, 0.035] if side == "top" else [-0.045 - 0.045 * i, 0, 0.035, 1]
        strip = ax.inset_axes(place)
        strip.imshow(row[None] if side == "top" else row[:, None], aspect="auto", interpolation="nearest")
        strip.set_axis_off()
    if legend:
        shown = list(color_of.items())[: _figure.MOST_IN_LEGEND]
        patches = [Patch(color=color, label=_figure.shortened(name)) for name, color in shown]
        if len(color_of) > len(shown):
            patches.append(Patch(color="none", label=f"and {len(color_of) - len(shown):,} more"))
        ax.legend(
            handles=patches,
            loc="center left",
            bbox_to_anchor=(1.02, 0.5),
            ncols=max(ncol, 1 + (len(patches) - 1) // 18),
            fontsize=fontsize,
            handlelength=1,
            handleheight=1,
        )


@styled
def feature_specificity(
    adata: AnnData,
    groupby: str | None = None,
    basis: str = keys.LATENT.name,
    *,
    vmax: float = 20,
    ax: Axes | None = None,
    save: str | Path | None = None,
    cmap: str = "Reds",
    title: str = "",
    figsize: tuple[float, float] | None = None,
) -> Axes:
    """Draw how specific each latent dimension is for each cluster: −log10 of the p-value of an F-test, cluster against rest.

    Parameters
    ----------
    adata
        ``obsm[basis]``: cells × dimensions.
    groupby
        Column of obs; left out, ``scale_cluster``. Cells without a label are left out.
    basis
        Which coordinates.
    vmax
        −log10 p that gets the strongest colour.
    ax, save, cmap, title, figsize
        As in `embedding`.
    """
    labels = _figure.labels_of(adata, groupby)
    latent = _coordinates(adata, basis)
    known = labels.notna().to_numpy()
    names = list(labels.cat.categories)
    strength = specificity_of_features(latent[known], labels[known].to_numpy().astype(str), names)
    ax = _figure.axes_for(ax, figsize or _figure.inches(1.8 + 0.4 * len(names), 0.8 + 0.27 * latent.shape[1]))
    draw_specificity(ax, strength, names, vmax=vmax, cmap=cmap)
    ax.set_title(title)
    return _figure.finish(ax, save)


def _coordinates(adata: AnnData, basis: str) -> np.ndarray:
    if basis == keys.LATENT.name:
        return np.asarray(keys.LATENT.get(adata))
    if basis not in adata.obsm:
        raise MissingSlotError(f"obsm[{basis!r}] is missing", "one of " + (", ".join(adata.obsm) or "(there is none)"))
    return np.asarray(adata.obsm[basis])


def specificity_of_features(features: np.ndarray, labels: np.ndarray, names: Sequence) -> np.ndarray:
    """−log10 p of the one-way F-test, cluster against all other cells (features × clusters); NaN where it cannot be tested."""
    from scipy.stats import f_oneway

    strength = np.full((features.shape[1], len(names)), np.nan)
    for column, name in enumerate(names):
        own = labels == name
        if own.sum() < 1 or (~own).sum() < 1 or len(own) < 3:
            continue
        p = f_oneway(features[own].astype(float), features[~own].astype(float), axis=0).pvalue
        strength[:, column] = -np.log10(np.maximum(p, np.finfo(float).tiny))
    return strength


def draw_specificity(ax: Axes, strength: np.ndarray, names: Sequence[str], *, vmax: float, cmap: Any) -> None:
    """Draw what `specificity_of_features` gives."""
    image = ax.imshow(strength, cmap=cmap, vmin=0, vmax=vmax, aspect="auto", interpolation="nearest")
    long_names = max(map(len, names), default=0) > 4
    _figure.ticks(ax.xaxis, names, rotation=45 if long_names else 0, ha="right" if long_names else "center")
    _figure.ticks(ax.yaxis, range(1, len(strength) + 1))
    ax.set_ylabel("latent dimension")
    _plain(ax)
    _bar(ax, image, "−log10 p")


def _plain(ax: Axes) -> None:
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def _bar(ax: Axes, image: Any, label: str, *, ticks: Sequence[float] | None = None, where: str = "right") -> None:
    options = (
        {"location": "bottom", "shrink": 0.35, "aspect": 14, "pad": 0.04}
        if where == "bottom"
        else {"fraction": 0.05, "pad": 0.03}
    )
    bar = ax.figure.colorbar(image, ax=ax, ticks=ticks, **options)
    bar.set_label(label, fontsize=8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=7)
