"""SCALE's plotting functions under the names and with the arguments of its release 1.1.2.

They return the axes (the release: nothing, or a seaborn grid with ``return_grid``), take ``ax``,
write any of PDF, PNG and SVG, and leave matplotlib's backend and settings alone. Arguments that
placed parts of a seaborn grid by hand (``bbox_to_anchor``, ``position``, ``return_grid``) are gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scale_toolkit.errors import OptionError
from scale_toolkit.plot import _figure
from scale_toolkit.plot._figure import styled
from scale_toolkit.plot._matrix import bar as _bar
from scale_toolkit.plot._matrix import plain as _plain
from scale_toolkit.plot._matrix import strips
from scale_toolkit.plot.confusion import draw_table
from scale_toolkit.plot.correlation import draw_correlation
from scale_toolkit.plot.embedding import draw_categories, point_size
from scale_toolkit.plot.specificity import draw_specificity, specificity_of_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes


def sort_by_classes(
    X: pd.DataFrame, y: Any, classes: Sequence[Any] | None = None
) -> tuple[pd.DataFrame, np.ndarray, Any, np.ndarray]:
    """Sort the columns of `X` (features × cells) by class; cells of no class are left out.

    Returns
    -------
    X and y in the new order, the classes, and the positions of the cells.
    """
    y = np.asarray(y)
    order: Any = np.unique(y) if classes is None else classes
    index = np.concatenate([np.flatnonzero(y == c) for c in order])
    return X.iloc[:, index], y[index], order, index


@styled
def plot_embedding(
    X: np.ndarray,
    labels: Any,
    classes: Sequence[Any] | None = None,
    method: str = "tSNE",
    cmap: Any = None,
    figsize: tuple[float, float] = (4, 4),
    markersize: float | None = None,
    marker: np.ndarray | None = None,
    return_emb: bool = False,
    save: str | Path | None = None,
    save_emb: str | Path | None = None,
    show_legend: bool = True,
    show_axis_label: bool = True,
    *,
    ax: Axes | None = None,
    **legend_params: Any,
) -> Any:
    """Draw cells in two dimensions, coloured by label.

    Parameters
    ----------
    X
        Cells × features; unless it has two, `method` ("tSNE", "UMAP" or "PCA", seed 124) reduces it
        to two.
    labels
        Label of each cell. Cells whose label is not among `classes` are grey.
    classes
        Labels in the order of the legend.
    cmap
        Name of a matplotlib colour map or colours; by default colour-blind-safe ones (the release:
        tab20).
    markersize
        Area of a point in pt².
    marker
        Further points × features, drawn as black stars.
    return_emb
        Return the coordinates instead of the axes.
    save, save_emb
        Write the figure (.pdf, .png, .svg), the coordinates (text).
    show_legend, show_axis_label
        Draw the legend, the names of the axes.
    ax
        Draw here.
    **legend_params
        For matplotlib's legend, such as ``ncols`` or ``fontsize``.
    """
    X, labels = np.asarray(X), np.asarray(labels)
    n = len(labels)
    if marker is not None:
        X = np.concatenate([X, marker])
    X = _two_dimensions(X, method)
    values = _categories(labels, classes)
    ax = _figure.axes_for(ax, figsize)
    size = point_size(n) if markersize is None else markersize
    draw_categories(
        ax, X[:n], values, size=size, palette=cmap, legend=show_legend, names_on_data=False
    )
    if marker is not None:
        ax.scatter(X[n:, 0], X[n:, 1], s=10 * size, color="black", marker="*")
    old = ax.get_legend()
    if legend_params and old is not None:
        placed = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), **legend_params}
        ax.legend(
            handles=old.legend_handles,
            labels=[text.get_text() for text in old.get_texts()],
            **placed,
        )
    ax.set(xticks=[], yticks=[])
    ax.set_box_aspect(1)
    if show_axis_label:
        ax.set(xlabel=f"{method} dim 1", ylabel=f"{method} dim 2")
    if save_emb:
        np.savetxt(save_emb, X)
    _figure.finish(ax, save or None)
    return X if return_emb else ax


def _two_dimensions(X: np.ndarray, method: str) -> np.ndarray:
    if X.shape[1] == 2:
        return X
    if method == "tSNE":
        from sklearn.manifold import TSNE

        return TSNE(
            n_components=2, random_state=124, perplexity=min(30, (len(X) - 1) / 3)
        ).fit_transform(X)
    if method == "PCA":
        from sklearn.decomposition import PCA

        return PCA(n_components=2, random_state=124).fit_transform(X)
    if method == "UMAP":
        from umap import UMAP

        neighbors = min(30, len(X) - 1)
        return UMAP(n_neighbors=neighbors, min_dist=0.1, random_state=124, n_jobs=1).fit_transform(
            X
        )
    raise OptionError(f"method is {method!r}", "one of tSNE, UMAP, PCA")


def _categories(labels: Any, classes: Sequence[Any] | None) -> pd.Series:
    if classes is None:
        return _figure.as_categories(labels)
    names = [str(name) for name in classes]
    code = {name: i for i, name in enumerate(names)}
    return pd.Series(
        pd.Categorical.from_codes(
            [code.get(str(label), -1) for label in np.asarray(labels)], categories=names
        )
    )


@styled
def plot_heatmap(
    X: pd.DataFrame,
    y: Any,
    classes: Sequence[Any] | None = None,
    y_pred: Any = None,
    row_labels: Any = None,
    colormap: Any = None,
    row_cluster: bool = False,
    cax_title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    yticklabels: Any = "",
    legend_font: float = 10,
    show_legend: bool = True,
    show_cax: bool = True,
    tick_color: Any = "black",
    ncol: int = 3,
    save: str | Path | None = None,
    *,
    ax: Axes | None = None,
    figsize: tuple[float, float] = (6, 5),
    cmap: Any = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
) -> Axes:
    """Draw features × cells as colours, cells sorted by class, with a strip of class colours above.

    Parameters
    ----------
    X
        Features × cells.
    y, classes
        Class of each cell, and the order of the classes.
    y_pred
        A second label of each cell, for a second strip.
    row_labels
        Label of each feature, for a strip at the left.
    colormap
        Colours of the classes: a name, a list or a dict.
    row_cluster
        Sort the features by average-linkage clustering.
    cax_title, show_cax
        Title of the colour bar; whether there is one.
    yticklabels, tick_color
        Names of the features (left out: none), and their colour.
    legend_font, show_legend, ncol
        The legend of the classes.
    save, ax, figsize, cmap, vmin, vmax
        As everywhere.
    """
    X = pd.DataFrame(X)
    X, y, classes, index = sort_by_classes(X, y, classes)
    names = (
        np.full(len(X), "")
        if isinstance(yticklabels, str) and not yticklabels
        else np.asarray(yticklabels)
    )
    _figure.check_length("names of features", len(names), len(X))
    rows = np.arange(len(X))
    if row_cluster and len(X) > 2:
        from scipy.cluster.hierarchy import leaves_list, linkage

        rows = leaves_list(linkage(X.to_numpy(dtype=float), method="average"))
    ax = _figure.axes_for(ax, figsize)
    image = ax.imshow(
        X.to_numpy(dtype=float)[rows],
        aspect="auto",
        cmap=cmap,
        vmin=vmin,
        vmax=vmax,
        interpolation="nearest",
    )
    image.set_rasterized(True)
    ax.set_xticks([])
    ax.set_yticks(range(len(rows)), names[rows], color=tick_color, fontsize=6)
    _plain(ax)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    above = [_categories(y, classes)]
    if y_pred is not None:
        above.append(_figure.as_categories(np.asarray(y_pred)[index]))
    label_names = list(dict.fromkeys(name for series in above for name in series.cat.categories))
    palette = dict(zip(label_names, _figure.palette_for(label_names, colormap)))
    strips(ax, above, palette=palette, legend=show_legend, ncol=ncol, fontsize=legend_font)
    if row_labels is not None:
        strips(
            ax,
            [_categories(np.asarray(row_labels)[rows], label_names)],
            palette=palette,
            legend=False,
            side="left",
        )
        # the names go left of the strip
        ax.tick_params(axis="y", pad=18)
    if show_cax:
        _bar(ax, image, cax_title, where="bottom")
    return _figure.finish(ax, save)


@styled
def plot_confusion_matrix(
    cm: np.ndarray,
    x_classes: Sequence[Any] | None = None,
    y_classes: Sequence[Any] | None = None,
    normalize: bool = False,
    title: str = "",
    cmap: Any = "Blues",
    figsize: tuple[float, float] = (4, 4),
    mark: bool = True,
    save: str | Path | None = None,
    rotation: float = 45,
    show_cbar: bool = True,
    show_xticks: bool = True,
    show_yticks: bool = True,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw a confusion matrix (rows: predicted clusters, named by `y_classes`; columns:
    `x_classes`).

    ``normalize`` divides each column by its sum, ``mark`` writes the figures, ``rotation`` turns
    the names of the columns; the rest as everywhere.
    """
    cm = np.asarray(cm)
    if normalize:
        cm = cm / np.maximum(cm.sum(axis=0, keepdims=True), 1)
    x_classes = range(cm.shape[1]) if x_classes is None else x_classes
    y_classes = range(cm.shape[0]) if y_classes is None else y_classes
    ax = _figure.axes_for(ax, figsize)
    draw_table(
        ax,
        cm,
        list(map(str, x_classes)),
        list(map(str, y_classes)),
        cmap=cmap,
        rotation=rotation,
        mark=mark,
    )
    ax.set_title(title)
    if not show_xticks:
        ax.set_xticks([])
    if show_yticks:
        ax.set_ylabel("Predicted Cluster")
    else:
        ax.set_yticks([])
    if show_cbar:
        _bar(ax, ax.images[0], "")
    return _figure.finish(ax, save)


@styled
def corr_heatmap(
    X: pd.DataFrame,
    y: Any = None,
    classes: Sequence[Any] | None = None,
    cmap: Any = "RdBu_r",
    show_legend: bool = True,
    show_cbar: bool = True,
    figsize: tuple[float, float] = (5, 5),
    ncol: int = 1,
    distance: str = "pearson",
    ticks: Sequence[float] | None = None,
    save: str | Path | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the correlation (`distance`: pearson, spearman or kendall) of cells, the columns of
    `X`, sorted by class `y`.
    """
    X = pd.DataFrame(X)
    labels = None
    if y is not None:
        X, y, classes, _ = sort_by_classes(X, y, classes)
        labels = _categories(y, classes)
    ax = _figure.axes_for(ax, figsize)
    draw_correlation(
        ax,
        X,
        labels,
        method=distance,
        cmap=cmap,
        legend=show_legend,
        bar=show_cbar,
        ncol=ncol,
        ticks=ticks,
    )
    return _figure.finish(ax, save)


@styled
def feature_specifity(
    feature: Any,
    ref: Any,
    classes: Sequence[Any],
    figsize: tuple[float, float] = (6, 6),
    save: str | Path | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw −log10 p of an F-test of each latent feature (cells × features), each class of `ref`
    against the rest.
    """
    strength = specificity_of_features(np.asarray(feature), np.asarray(ref), list(classes))
    ax = _figure.axes_for(ax, figsize)
    draw_specificity(ax, strength, [str(name) for name in classes], vmax=20, cmap="RdBu_r")
    ax.set_ylabel("Feature")
    return _figure.finish(ax, save)


@styled
def lineplot(
    data: pd.DataFrame, name: str, title: str = "", cbar: bool = False, *, ax: Axes | None = None
) -> Axes:
    """Draw the column `name` of `data` against its ``fraction``, a line for each ``method``;
    with `cbar`, a legend.
    """
    ax = _figure.axes_for(ax, (3.6, 3))
    methods = list(dict.fromkeys(data["method"]))
    for method, shade in zip(methods, _figure.colors(len(methods))):
        rows = data[data["method"] == method]
        ax.plot(
            rows["fraction"].astype(str),
            rows[name],
            marker="o",
            markersize=4,
            color=shade,
            label=method,
        )
    ax.set(xlabel="fraction", ylabel=name, title=title)
    if cbar:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return ax


@styled
def plot_metrics(path: str | Path, dataset: str, ref: Any, fraction: Sequence[str]) -> np.ndarray:
    """Draw ARI, NMI and F1 of four methods against the share of reads that was dropped, as in
    SCALE's paper.

    Reads ``path/dataset/FRACTION/{scABC,SC3,scVI}_predict.txt`` and ``cluster_assignments.txt``
    (SCALE): tab-separated, cell and cluster, in the order of `ref`. A method whose file is missing
    has no point there (the release: 0).
    """
    from scale_toolkit.compat.labels import read_labels
    from scale_toolkit.core import metrics

    files = {m: f"{m}_predict.txt" for m in ("scABC", "SC3", "scVI")} | {
        "SCALE": "cluster_assignments.txt"
    }
    rows = []
    for share in fraction:
        for method, name in files.items():
            file = Path(path) / dataset / share / name
            if file.exists():
                report = metrics.agreement(list(ref), read_labels(file)[0])
                figures = {"ARI": report.ari, "NMI": report.nmi, "F1": report.f1}
                rows.append(
                    {**figures, "method": method, "fraction": share.replace("corrupt_", "")}
                )
    if not rows:
        raise OptionError(
            f"{Path(path) / dataset} holds no cluster assignments",
            "one of " + ", ".join(files.values()),
        )
    axes = _figure.new_figure((10.5, 3)).subplots(1, 3, gridspec_kw={"wspace": 0.35})
    for i, (panel, name) in enumerate(zip(axes, ("ARI", "NMI", "F1"))):
        lineplot(pd.DataFrame(rows), name, dataset, cbar=i == 2, ax=panel)
    return axes
