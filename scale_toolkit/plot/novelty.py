"""The novelty of mapped cells, beside that of the reference's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scale_toolkit import keys
from scale_toolkit.errors import InputError
from scale_toolkit.plot import _figure
from scale_toolkit.plot._figure import styled

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes


@styled
def novelty(
    adata: AnnData,
    *,
    ax: Axes | None = None,
    save: str | Path | None = None,
    figsize: tuple[float, float] = (3.2, 2.4),
) -> Axes:
    """Draw the histograms of novelty that `map` left in ``uns['scale_map']``.

    Each is a share of its own cells.

    Parameters
    ----------
    adata
        An AnnData after `map`.
    ax
        Draw here.
    save
        Write the figure there.
    figsize
        Inches.

    Returns
    -------
    The axes.

    Raises
    ------
    InputError
        The reference was a model file, without cells.
    """
    summary = keys.MAPPING.get(adata)
    if "edges" not in summary:
        raise InputError(
            f"{keys.MAPPING} holds no novelty: the cells were mapped to a model file",
            "cells mapped to the h5ad that `scale train` wrote",
            "map them again with that file as the reference",
        )
    ax = _figure.axes_for(ax, figsize)
    edges = np.asarray(summary["edges"], float)
    for name, words in (("reference", "reference"), ("query", "new cells")):
        counts = np.asarray(summary[name], float)
        ax.stairs(counts / max(counts.sum(), 1), edges, label=words, fill=True, alpha=0.5)
    ax.set_xlabel("novelty")
    ax.set_ylabel("share")
    n_called, n_cells = int(summary["n_called"]), int(summary["n_cells"])
    ax.set_title(f"{n_called:,} of {n_cells:,} not in the reference")
    ax.legend(frameon=False)
    return _figure.finish(ax, save)
