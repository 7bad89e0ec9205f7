"""Correlation of cells with cells, ordered by a dendrogram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.plot import _figure, _matrix
from scale_toolkit.plot._figure import styled
from scale_toolkit.plot._matrix import strips

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes

#: Rows up to which the leaves of a dendrogram are put into the best order (its cost grows with the
#: square).
MAX_OPTIMAL = 300


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
    """Draw the correlation of cells with cells over their latent vectors.

    Clusters are in the order of a dendrogram (average linkage of 1 − r between the mean vectors of
    the clusters), which is drawn above; the cells of a cluster are in the order of their own.

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
    latent = _matrix.coordinates(adata, basis)
    cells = np.flatnonzero(labels.notna())
    if len(cells) > max_cells:
        cells = np.sort(np.random.default_rng(0).choice(cells, max_cells, replace=False))
    labels = labels.iloc[cells].reset_index(drop=True)
    palette = dict(
        zip(labels.cat.categories, _figure.colors(len(labels.cat.categories)), strict=True)
    )
    labels = labels.cat.remove_unused_categories()
    tree, cluster_order = dendrogram_of(cluster_means(latent[cells], labels))
    labels = labels.cat.reorder_categories(
        [labels.cat.categories[position] for position in cluster_order]
    )
    order = cell_order(latent[cells], labels.cat.codes.to_numpy())
    sorted_labels = labels.iloc[order].reset_index(drop=True)
    ax = _figure.axes_for(ax, figsize)
    draw_correlation(
        ax,
        pd.DataFrame(latent[cells[order]].T),
        sorted_labels,
        method=method,
        cmap=cmap,
        palette=palette,
    )
    _draw_dendrogram(ax, tree, np.bincount(sorted_labels.cat.codes, minlength=len(cluster_order)))
    ax.set_title(title, pad=14 if tree is None else 48)
    return _figure.finish(ax, save)


def cluster_means(values: np.ndarray, labels: pd.Series) -> np.ndarray:
    """Return the mean vector of each category, categories × dimensions."""
    codes = labels.cat.codes.to_numpy()
    return np.stack(
        [values[codes == code].mean(axis=0) for code in range(len(labels.cat.categories))]
    )


def dendrogram_of(values: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Return the linkage of the rows (None for fewer than two) and their order along its leaves.

    The distance is 1 − Pearson's r; a constant row, which has no correlation, counts as
    uncorrelated.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    if len(values) < 2:
        return None, np.arange(len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.nan_to_num(np.corrcoef(np.asarray(values, float)))
    distance = np.clip(1 - (r + r.T) / 2, 0, 2)
    np.fill_diagonal(distance, 0)
    tree = linkage(
        squareform(distance, checks=False), "average", optimal_ordering=len(values) <= MAX_OPTIMAL
    )
    return tree, leaves_list(tree)


def cell_order(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the cells cluster by cluster, each cluster's cells in the order of their
    dendrogram.
    """
    ordered = []
    for code in np.unique(codes):
        cells = np.flatnonzero(codes == code)
        ordered.append(cells[dendrogram_of(values[cells])[1]])
    return np.concatenate(ordered)


def _draw_dendrogram(ax: Axes, tree: np.ndarray | None, sizes: np.ndarray) -> None:
    """Draw the dendrogram of the clusters above their blocks of cells."""
    if tree is None:
        return
    from scipy.cluster.hierarchy import dendrogram

    branches = dendrogram(tree, no_plot=True)
    ends = np.cumsum(sizes)
    centres = ends - sizes / 2 - 0.5
    # scipy draws leaf i at 5 + 10 i
    leaf_positions = 5 + 10 * np.arange(len(sizes))
    above = ax.inset_axes((0, 1.06, 1, 0.12), sharex=ax)
    for x, y in zip(branches["icoord"], branches["dcoord"], strict=True):
        above.plot(np.interp(x, leaf_positions, centres), y, color="#606060", linewidth=0.8)
    above.set_axis_off()


def draw_correlation(
    ax: Axes,
    X: pd.DataFrame,
    labels: pd.Series | None,
    *,
    method: str,
    cmap: Any,
    legend: bool = True,
    bar: bool = True,
    palette: Any = None,
    ncol: int = 1,
    ticks: Sequence[float] | None = None,
) -> None:
    """Draw the correlation of the columns of `X` (features × cells), sorted by label."""
    order = np.arange(X.shape[1])
    if labels is not None:
        order = np.argsort(labels.cat.codes.to_numpy(), kind="stable")
    r = X.iloc[:, order].corr(method=method).to_numpy()
    image = ax.imshow(r, cmap=cmap, vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
    ax.set(xticks=[], yticks=[])
    ax.set_box_aspect(1)
    _matrix.plain(ax)
    if labels is not None:
        strips(ax, [labels.iloc[order]], palette=palette, legend=legend, ncol=ncol)
    if bar:
        _matrix.bar(ax, image, method, ticks=[-1, 0, 1] if ticks is None else ticks, where="bottom")
