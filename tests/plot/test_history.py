from __future__ import annotations

import numpy as np
import pytest

from scale_toolkit import errors, plot
from scale_toolkit.plot._figure import new_figure


def test_a_panel_for_each_curve(cells, tmp_path):
    axes = plot.history(cells, save=tmp_path / "history.pdf")
    assert [ax.get_title() for ax in axes] == ["loss", "held out"]  # best_epoch and steps are no curves
    loss, held_out = (ax.lines[1] if ax.lines[0].get_linestyle() == ":" else ax.lines[0] for ax in axes)
    np.testing.assert_array_equal(loss.get_ydata(), cells.uns["scale_history"]["loss"])
    np.testing.assert_array_equal(loss.get_xdata(), np.arange(1, 11))
    np.testing.assert_array_equal(held_out.get_xdata(), np.arange(11))  # starts before the first epoch
    for ax in axes:
        (best,) = [line for line in ax.lines if line.get_linestyle() == ":"]
        assert set(best.get_xdata()) == {7}
    assert (tmp_path / "history.pdf").exists()


def test_one_curve_and_all_on_one(cells):
    ax = plot.history(cells, "held_out")
    assert ax.get_ylabel() == "held out"
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.arange(11))
    ax = new_figure((4, 3)).add_subplot()
    assert plot.plot_loss(cells, ax=ax) is ax
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["loss", "held out"]
    assert tuple(plot.history(cells, "loss", figsize=(5, 2)).figure.get_size_inches()) == (5, 2)


def test_errors(cells):
    with pytest.raises(errors.MissingSlotError, match="has no curve kl; expected one of loss, held_out"):
        plot.history(cells, ["loss", "kl"])
    del cells.uns["scale_history"]
    with pytest.raises(errors.MissingSlotError, match="run `scale train`"):
        plot.history(cells)
