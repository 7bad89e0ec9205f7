"""Elements of figures of a matrix: frame without spines, colour bar, coloured strips,
coordinates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.errors import MissingSlotError
from scale_toolkit.plot import _figure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes


def coordinates(adata: AnnData, basis: str) -> np.ndarray:
    """Return ``obsm[basis]``, cells × dimensions."""
    if basis == keys.LATENT.name:
        return np.asarray(keys.LATENT.get(adata))
    if basis not in adata.obsm:
        available = ", ".join(adata.obsm) or "(there is none)"
        raise MissingSlotError(f"obsm[{basis!r}] is missing", f"one of {available}")
    return np.asarray(adata.obsm[basis])


def plain(ax: Axes) -> None:
    """Hide the spines and the tick marks."""
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def bar(
    ax: Axes,
    image: Any,
    label: str,
    *,
    ticks: Sequence[float] | None = None,
    where: str = "right",
) -> None:
    """Draw a colour bar to the right of the axes or below them."""
    options: dict[str, Any] = {"fraction": 0.05, "pad": 0.03}
    if where == "bottom":
        options = {"location": "bottom", "shrink": 0.35, "aspect": 14, "pad": 0.04}
    colorbar = ax.figure.colorbar(image, ax=ax, ticks=ticks, **options)
    colorbar.set_label(label, fontsize=8)
    colorbar.outline.set_visible(False)
    colorbar.ax.tick_params(length=2, labelsize=7)


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
    """Draw a strip of colours along the axes for each series of labels (one label a column, or a
    row), with one legend.
    """
    from matplotlib.colors import to_rgba_array
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(name for series in labels for name in series.cat.categories))
    shades = to_rgba_array([*_figure.palette_for(names, palette), _figure.UNKNOWN])
    color_of = dict(zip(names, shades))
    for i, series in enumerate(reversed(labels)):
        row = np.array([color_of.get(name, shades[-1]) for name in series])
        bounds = (
            (0, 1.01 + 0.045 * i, 1, 0.035) if side == "top" else (-0.045 - 0.045 * i, 0, 0.035, 1)
        )
        strip = ax.inset_axes(bounds)
        strip.imshow(
            row[None] if side == "top" else row[:, None], aspect="auto", interpolation="nearest"
        )
        strip.set_axis_off()
    if legend:
        listed = list(color_of.items())[: _figure.MOST_IN_LEGEND]
        patches = [Patch(color=color, label=_figure.shortened(name)) for name, color in listed]
        if len(color_of) > len(listed):
            patches.append(Patch(color="none", label=f"and {len(color_of) - len(listed):,} more"))
        ax.legend(
            handles=patches,
            loc="center left",
            bbox_to_anchor=(1.02, 0.5),
            ncols=max(ncol, 1 + (len(patches) - 1) // 18),
            fontsize=fontsize,
            handlelength=1,
            handleheight=1,
        )
