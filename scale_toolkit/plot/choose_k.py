"""The readings of `choose-k` on one page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scale_toolkit import keys
from scale_toolkit.plot import _figure
from scale_toolkit.plot._figure import styled

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

#: Panels: the array in ``uns['scale_choose_k']``, the number it prefers, and the axis' label.
PANELS = (
    ("boundary", "by_boundaries", "clearest boundary\nnot yet separated"),
    ("stability", "by_stability", "stability of the least\nstable cluster"),
    ("held_out", "by_held_out", "log-likelihood of\na held-out cell"),
)


@styled
def choose_k(
    adata: AnnData,
    *,
    save: str | Path | None = None,
    figsize: tuple[float, float] = (2.9, 2.4),
) -> np.ndarray:
    """Draw the readings that `choose-k` left in ``uns['scale_choose_k']``, one panel each.

    A solid line marks the recommended number of clusters, a dotted one what the panel's own
    reading prefers; the title names what random matrix theory gives.

    Parameters
    ----------
    adata
        An AnnData after `choose-k`.
    save
        Write the figure there.
    figsize
        Inches, of a panel.

    Returns
    -------
    The axes, an array of three.
    """
    choice = keys.CHOICE_OF_K.get(adata)
    k = np.asarray(choice["k"])
    figure = _figure.new_figure((figsize[0] * len(PANELS), figsize[1]))
    axes = figure.subplots(1, len(PANELS), gridspec_kw={"wspace": 0.55})
    for ax, (name, preferred, label) in zip(axes, PANELS, strict=True):
        values = np.asarray(choice[name], dtype=float)
        ax.plot(k, values, marker="o", markersize=2.5)
        if name == "held_out":
            error = np.asarray(choice["held_out_error"], dtype=float)
            ax.fill_between(k, values - error, values + error, alpha=0.25, linewidth=0)
        if name == "boundary":
            ax.axhline(float(choice["max_ratio"]), color="0.6", linewidth=0.8)
        ax.axvline(int(choice["recommended"]), color="0.3", linewidth=0.8)
        ax.axvline(int(choice[preferred]), color="0.3", linewidth=0.8, linestyle=":")
        ax.set_xlabel("clusters")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_ylabel(label)
        ax.set_title(f"prefers {int(choice[preferred])}")
    title = f"recommended: {int(choice['recommended'])} clusters"
    if int(choice["by_random_matrix"]) >= 0:
        title += f"; random matrix theory: {int(choice['by_random_matrix'])}"
    figure.suptitle(title, y=1.08)
    _figure.finish(axes[0], save)
    return axes
