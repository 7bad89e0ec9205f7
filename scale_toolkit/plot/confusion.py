"""Cells by known label and cluster."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit import keys
from scale_toolkit.core import metrics
from scale_toolkit.errors import InputError
from scale_toolkit.plot import _figure, _matrix
from scale_toolkit.plot._figure import styled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes

_LOG = logging.getLogger("scale_toolkit")


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
    """Draw cells by known label (rows) and cluster (columns, in the order of the labels they match
    best), with ARI and NMI.

    Parameters
    ----------
    adata
        Clustered cells.
    reference
        Column of obs with known labels; cells without one are left out. If `cluster` has written
        its clusters there, the labels are those it kept (``leiden_original``).
    cluster
        Column of obs with clusters; left out, ``scale_cluster``.
    normalize
        Show shares of each label's cells instead of numbers.
    ax, save, cmap, title, figsize
        As in `embedding`.
    """
    reference = column_of_labels(adata, reference, cluster or keys.CLUSTER.name)
    known, clusters = _figure.labels_of(adata, reference), _figure.labels_of(adata, cluster)
    is_labelled = known.notna().to_numpy() & clusters.notna().to_numpy()
    if not is_labelled.any():
        raise InputError(
            f"no cell has both a label in obs[{reference!r}] and a cluster", "at least one"
        )
    report = metrics.agreement(
        known[is_labelled].astype(str).to_numpy(), clusters[is_labelled].astype(str).to_numpy()
    )
    table = report.table / report.table.sum(axis=1, keepdims=True) if normalize else report.table
    size = _figure.inches(1.8 + 0.45 * len(report.clusters), 1.2 + 0.4 * len(report.classes))
    ax = _figure.axes_for(ax, figsize or size)
    draw_table(ax, table, report.clusters, report.classes, cmap=cmap, rotation=0)
    ax.set(xlabel=cluster or keys.CLUSTER.name, ylabel=reference)
    ax.set_title(
        title if title is not None else f"ARI {report.ari:.2f}   NMI {report.nmi:.2f}", pad=8
    )
    _matrix.bar(ax, ax.images[0], "share" if normalize else "cells")
    return _figure.finish(ax, save)


def draw_table(
    ax: Axes,
    table: np.ndarray,
    columns: Sequence[str],
    rows: Sequence[str],
    *,
    cmap: Any,
    rotation: float,
    mark: bool = True,
) -> None:
    """Draw a matrix with its figures in the cells; zeros stay empty."""
    table = np.asarray(table)
    _figure.check_length("names of columns", len(columns), table.shape[1])
    _figure.check_length("names of rows", len(rows), table.shape[0])
    shares = table.dtype.kind == "f"
    image = ax.imshow(
        table, cmap=cmap, interpolation="nearest", aspect="auto", vmin=0, vmax=1 if shares else None
    )
    _figure.ticks(ax.xaxis, columns, rotation=rotation, ha="right" if rotation else "center")
    _figure.ticks(ax.yaxis, rows)
    _matrix.plain(ax)
    if not mark or table.size > _figure.MOST_FIGURES:
        return
    for i, j in zip(*np.nonzero(table >= (0.005 if shares else 1))):
        red, green, blue, _ = image.cmap(image.norm(table[i, j]))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        text = f"{table[i, j]:.2f}" if shares else f"{table[i, j]:d}"
        ax.text(
            j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else "black"
        )


#: Columns that `cluster` and `train` write: they hold clusters, not known labels.
CLUSTER_COLUMNS = tuple(
    slot.name for slot in (keys.CLUSTER, keys.LEIDEN, keys.KMEANS, keys.GMM, keys.COMPONENT)
)


def is_clustering_itself(adata: AnnData, reference: str, cluster: str = keys.CLUSTER.name) -> bool:
    """Whether a reference is the clustering it would be compared with: the same column, or a
    copy that `cluster` wrote.
    """
    if reference == cluster:
        return True
    if reference not in CLUSTER_COLUMNS or not {reference, cluster} <= set(adata.obs):
        return False
    return adata.obs[reference].astype(str).equals(adata.obs[cluster].astype(str))


def column_of_labels(adata: AnnData, reference: str, cluster: str = keys.CLUSTER.name) -> str:
    """Return the column that holds the known labels called `reference`.

    `cluster` keeps labels that were in the column it writes under another name
    (``leiden_original``): these are meant, not the clusters.

    Raises
    ------
    InputError
        The column holds the clusters themselves, and no labels were kept: the agreement would be
        1 and mean nothing.
    """
    if not is_clustering_itself(adata, reference, cluster):
        return reference
    originals = [str(name) for name in adata.obs if str(name).startswith(f"{reference}_original")]
    if not originals:
        raise InputError(
            f"obs[{reference!r}] holds the clusters of obs[{cluster!r}] themselves",
            "known labels from another source",
            "name another column",
        )
    _LOG.info("obs[%r] holds the clusters: compared with obs[%r]", reference, originals[-1])
    return originals[-1]
