"""The scores of `doublets`: observed cells and simulated doublets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scale_toolkit import keys
from scale_toolkit.plot import _figure
from scale_toolkit.plot._figure import styled

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes


@styled
def doublets(
    adata: AnnData,
    *,
    ax: Axes | None = None,
    save: str | Path | None = None,
    figsize: tuple[float, float] = (3.2, 2.4),
) -> Axes:
    """Draw the histograms of scores that `doublets` left in ``uns['scale_doublets']``.

    Each is a share of its own cells, on a logarithmic axis; a dotted line marks the threshold.

    Parameters
    ----------
    adata
        An AnnData after `doublets`.
    ax
        Draw here.
    save
        Write the figure there.
    figsize
        Inches.

    Returns
    -------
    The axes.
    """
    summary = keys.DOUBLETS.get(adata)
    ax = _figure.axes_for(ax, figsize)
    edges = np.asarray(summary["edges"], float)
    for name, words in (("observed", "cells"), ("simulated", "simulated doublets")):
        counts = np.asarray(summary[name], float)
        ax.stairs(counts / max(counts.sum(), 1), edges, label=words, fill=True, alpha=0.5)
    ax.axvline(float(summary["threshold"]), color="0.3", linewidth=0.8, linestyle=":")
    ax.set_yscale("log")
    ax.set_xlabel("doublet score")
    ax.set_ylabel("share")
    ax.set_title(f"{int(summary['n_called']):,} called, rate {float(summary['rate']):.1%}")
    ax.legend(frameon=False)
    return _figure.finish(ax, save)
