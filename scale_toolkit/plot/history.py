"""Learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scale_toolkit import keys
from scale_toolkit.errors import MissingSlotError
from scale_toolkit.plot import _figure
from scale_toolkit.plot._figure import styled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes

#: The order of the curves; a file keeps them by the alphabet.
CURVES = ("loss", "reconstruction", "divergence", "held_out")


@styled
def history(
    adata: AnnData,
    quantities: str | Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    save: str | Path | None = None,
    figsize: tuple[float, float] = (2.9, 2.4),
) -> Axes | np.ndarray:
    """Draw the learning curves that `train` left in ``uns['scale_history']``: one panel a quantity,
    as their scales differ.

    A dotted line marks the epoch whose weights were kept, if it is known.

    Parameters
    ----------
    adata
        A trained AnnData.
    quantities
        Names of the curves; left out, all. One name or `ax` gives one panel.
    ax
        Draw all of them here.
    save
        Write the figure there.
    figsize
        Inches, a panel.

    Returns
    -------
    The axes, or an array of axes if there are several.
    """
    stored = keys.HISTORY.get(adata)
    order = [
        *(name for name in CURVES if name in stored),
        *(name for name in stored if name not in CURVES),
    ]
    curves = {
        name: np.asarray(stored[name], dtype=float)
        for name in order
        if np.ndim(stored[name]) == 1 and len(stored[name])
    }
    chosen = [quantities] if isinstance(quantities, str) else list(quantities or curves)
    missing = [name for name in chosen if name not in curves]
    if missing or not chosen:
        raise MissingSlotError(
            f"{keys.HISTORY} has no curve {', '.join(missing)}".rstrip(),
            "one of " + (", ".join(curves) or "(there is none)"),
        )
    n_epochs = min(map(len, curves.values()))
    if ax is None and len(chosen) > 1:
        figure = _figure.new_figure((figsize[0] * len(chosen), figsize[1]))
        axes = figure.subplots(1, len(chosen), gridspec_kw={"wspace": 0.4})
    else:
        ax = _figure.axes_for(ax, figsize)
        axes = np.array([ax] * len(chosen))
    for panel, name, shade in zip(axes, chosen, _figure.colors(len(chosen))):
        # a curve with one value more than the others starts before the first epoch
        epochs = np.arange(len(curves[name])) + (1 if len(curves[name]) == n_epochs else 0)
        panel.plot(epochs, curves[name], color=shade, linewidth=1.4, label=name.replace("_", " "))
        panel.set_xlabel("epoch")
        if "best_epoch" in stored:
            panel.axvline(
                float(stored["best_epoch"]), color="#7F7F7F", linewidth=0.8, linestyle=":", zorder=0
            )
        panel.xaxis.get_major_locator().set_params(integer=True)
        if ax is None:
            panel.set_title(name.replace("_", " "))
    if ax is not None:
        ax.set_ylabel(chosen[0].replace("_", " ") if len(chosen) == 1 else "")
        if len(chosen) > 1:
            ax.legend()
    _figure.finish(axes[0], save)
    return axes if ax is None else ax
