"""Share of open cells, clusters × peaks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.core.specificity import most_specific_peaks, specificity_of_matrix
from scale_toolkit.errors import InputError, MissingSlotError
from scale_toolkit.plot import _figure, _matrix
from scale_toolkit.plot._figure import styled
from scale_toolkit.plot.marker_peaks import best_peaks, marker_table, peak_titles

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
    relative: bool = True,
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
        Peaks to show; left out, the best markers of each cluster if `scale markers` has found
        some for these clusters, else the most specific peaks (`get.specificity`). Names of their
        nearest genes come first if `scale markers` was given genes.
    n_peaks
        How many of each cluster that is.
    relative
        Divide each peak by its highest share: rare and frequent peaks are equally visible. False
        shows the shares.
    ax, save, cmap, title, figsize
        As in `embedding`.
    """
    if adata.X is None:
        raise MissingSlotError(
            "X is missing", "counts, cells × peaks", "run `scale prepare` on the counts first"
        )
    labels = _figure.labels_of(adata, groupby)
    names = list(labels.cat.categories)
    borders: list[float] = []
    if peaks is None:
        groups = _markers(adata, labels, groupby or keys.CLUSTER.name, n_peaks) or _most_specific(
            adata, labels, n_peaks
        )
        columns = np.concatenate(groups)
        borders = list(np.cumsum([len(group) for group in groups])[:-1] - 0.5)
    else:
        columns = adata.var_names.get_indexer(list(peaks))
        unknown = [name for name, column in zip(peaks, columns, strict=True) if column < 0]
        if unknown or not len(columns):
            raise InputError(
                f"{len(unknown)} of {len(columns)} peaks are not in var_names: "
                f"{', '.join(unknown[:3])}",
                "names of peaks",
            )
    peaks = peak_titles(adata, columns)
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
    _matrix.plain(ax)
    ax.set_title(title)
    _matrix.bar(ax, image, "share of its highest" if relative else "share of open cells")
    return _figure.finish(ax, save)


def _markers(
    adata: AnnData, labels: pd.Series, column: str, n_peaks: int
) -> list[np.ndarray] | None:
    """Return the positions of the best marker peaks of each cluster that has some, or None."""
    table = marker_table(adata, labels, column)
    if table is None:
        if keys.MARKERS.found_in(adata):
            log.info(
                "%s belongs to other clusters than obs[%r]: the most specific peaks are drawn",
                keys.MARKERS,
                column,
            )
        return None
    groups = [
        group
        for group in best_peaks(table, list(labels.cat.categories), adata.var_names, n_peaks)
        if len(group)
    ]
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
        raise InputError(
            "no peak in X is open in any cell", "counts", "run `scale prepare` on the counts first"
        )
    return np.split(chosen, np.flatnonzero(np.diff(cluster)) + 1)


def share_of_open_cells(X: Any, labels: pd.Series) -> np.ndarray:
    """Return the share of each category's cells in which a peak is open (categories × peaks); cells
    without a label are left out.
    """
    is_open = sparse.csr_matrix(X) > 0
    codes = labels.cat.codes.to_numpy()
    known = np.flatnonzero(codes >= 0)
    sizes = np.bincount(codes[known], minlength=len(labels.cat.categories))
    member = sparse.csr_matrix(
        (1 / sizes[codes[known]], (codes[known], known)), shape=(len(sizes), len(codes))
    )
    return (member @ is_open.astype(np.float64)).toarray()
