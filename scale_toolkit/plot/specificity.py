"""How specific each latent dimension is for each cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit import keys
from scale_toolkit.errors import OptionError
from scale_toolkit.plot import _figure, _matrix
from scale_toolkit.plot._figure import styled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes


@styled
def feature_specificity(
    adata: AnnData,
    groupby: str | None = None,
    basis: str = keys.LATENT.name,
    *,
    statistic: str = "effect",
    vmax: float | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    cmap: str | None = None,
    title: str = "",
    figsize: tuple[float, float] | None = None,
) -> Axes:
    """Draw how specific each latent dimension is for each cluster, the cluster against the rest.

    Parameters
    ----------
    adata
        ``obsm[basis]``: cells × dimensions.
    groupby
        Column of obs; left out, ``scale_cluster``. Cells without a label are left out.
    basis
        Which coordinates.
    statistic
        ``"effect"``: the difference of the means in pooled standard deviations (Cohen's d), which
        does not depend on the number of cells; ``"p"``: −log10 of the p-value of an F-test, as
        SCALE drew it.
    vmax
        Value that gets the strongest colour; left out, 3 for effects and 20 for −log10 p.
    ax, save, cmap, title, figsize
        As in `embedding`.
    """
    if statistic not in ("effect", "p"):
        raise OptionError(f"statistic is {statistic!r}", "one of effect, p")
    labels = _figure.labels_of(adata, groupby)
    latent = _matrix.coordinates(adata, basis)
    has_label = labels.notna().to_numpy()
    names = list(labels.cat.categories)
    size = _figure.inches(1.8 + 0.42 * len(names), 0.8 + 0.27 * latent.shape[1])
    ax = _figure.axes_for(ax, figsize or size)
    groups = labels[has_label].to_numpy().astype(str)
    if statistic == "effect":
        draw_effects(
            ax,
            effect_sizes(latent[has_label], groups, names),
            names,
            vmax=vmax or 3.0,
            cmap=cmap or "RdBu_r",
        )
    else:
        strength = specificity_of_features(latent[has_label], groups, names)
        draw_specificity(ax, strength, names, vmax=vmax or 20.0, cmap=cmap or "Reds")
    ax.set_title(title)
    return _figure.finish(ax, save)


def effect_sizes(features: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return Cohen's d of each feature, cluster against all other cells (features × clusters).

    d = (mean inside − mean outside) / s, with s² the variance within the two groups, pooled over n
    − 2 degrees of freedom (Cohen 1988). NaN if a group is empty or if no variance is left.
    """
    effects = np.full((features.shape[1], len(names)), np.nan)
    values = features.astype(float)
    for column, name in enumerate(names):
        inside = labels == name
        if not inside.any() or inside.all() or len(labels) < 3:
            continue
        groups = (values[inside], values[~inside])
        squares = sum(((group - group.mean(axis=0)) ** 2).sum(axis=0) for group in groups)
        pooled = np.sqrt(squares / (len(labels) - 2))
        difference = groups[0].mean(axis=0) - groups[1].mean(axis=0)
        effects[:, column] = np.divide(
            difference, pooled, out=np.full(len(pooled), np.nan), where=pooled > 0
        )
    return effects


def draw_effects(
    ax: Axes, effects: np.ndarray, names: Sequence[str], *, vmax: float, cmap: Any
) -> None:
    """Draw what `effect_sizes` gives, with the values in the cells if there are not too many."""
    image = ax.imshow(
        effects, cmap=cmap, vmin=-vmax, vmax=vmax, aspect="auto", interpolation="nearest"
    )
    _axes(ax, effects, names)
    _matrix.bar(ax, image, "Cohen's d")
    if effects.size > _figure.MOST_FIGURES:
        return
    for row, column in zip(*np.nonzero(np.abs(np.nan_to_num(effects)) >= 0.05), strict=True):
        value = effects[row, column]
        shade = "white" if abs(value) > 0.65 * vmax else "black"
        ax.text(
            column,
            row,
            f"{value:.1f}".replace("-", "−"),
            ha="center",
            va="center",
            fontsize=6.5,
            color=shade,
        )


def specificity_of_features(
    features: np.ndarray, labels: np.ndarray, names: Sequence[Any]
) -> np.ndarray:
    """Return −log10 p of the one-way F-test, cluster against all other cells (features × clusters).

    NaN if the test cannot be made.
    """
    from scipy.stats import f_oneway

    strength = np.full((features.shape[1], len(names)), np.nan)
    for column, name in enumerate(names):
        inside = labels == name
        if inside.sum() < 1 or (~inside).sum() < 1 or len(inside) < 3:
            continue
        p = f_oneway(features[inside].astype(float), features[~inside].astype(float), axis=0).pvalue
        strength[:, column] = -np.log10(np.maximum(p, np.finfo(float).tiny))
    return strength


def draw_specificity(
    ax: Axes, strength: np.ndarray, names: Sequence[str], *, vmax: float, cmap: Any
) -> None:
    """Draw what `specificity_of_features` gives."""
    image = ax.imshow(
        strength, cmap=cmap, vmin=0, vmax=vmax, aspect="auto", interpolation="nearest"
    )
    _axes(ax, strength, names)
    _matrix.bar(ax, image, "−log10 p")


def _axes(ax: Axes, values: np.ndarray, names: Sequence[str]) -> None:
    long_names = max(map(len, names), default=0) > 4
    _figure.ticks(
        ax.xaxis, names, rotation=45 if long_names else 0, ha="right" if long_names else "center"
    )
    _figure.ticks(ax.yaxis, [str(number) for number in range(1, len(values) + 1)])
    ax.set_ylabel("latent dimension")
    _matrix.plain(ax)
