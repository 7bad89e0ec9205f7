from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from scale_toolkit import errors, keys, plot
from scale_toolkit.plot._figure import UNKNOWN, new_figure
from scale_toolkit.plot.qc import Tally
from scale_toolkit.stages.prepare import prepare


@pytest.fixture
def prepared(planted):
    return prepare(planted, min_peaks=25, min_cells=8)


def bars(ax):
    return np.array([bar.get_height() for bar in ax.patches])


def test_all_three_panels_say_what_was_kept(planted, prepared, tmp_path):
    knee, histogram, peaks = plot.qc(prepared, save=tmp_path / "qc.svg")
    assert knee.get_title() == histogram.get_title() == f"{prepared.n_obs} of 120 cells kept"
    assert peaks.get_title() == f"{prepared.n_vars} of 300 peaks kept"
    assert prepared.n_obs < 120 and prepared.n_vars < 300
    grey, kept = knee.lines[:2]
    n_open = np.sort((planted.X.toarray() > 0).sum(1))[::-1]
    np.testing.assert_array_equal(np.interp(range(1, 121), *grey.get_data()), n_open)
    assert kept.get_xdata()[-1] == prepared.n_obs
    assert bars(histogram).sum() == 120
    assert bars(peaks).sum() == np.count_nonzero((planted[planted.obs_names.isin(prepared.obs_names)].X.toarray() > 0).sum(0))
    assert [line.get_xdata()[0] for line in (histogram.lines[0], peaks.lines[0])] == [25, 8]
    assert knee.lines[2].get_ydata()[0] == 25
    left_out = [bar.get_height() for bar in histogram.patches if to_hex(bar.get_facecolor()).upper() == UNKNOWN]
    assert sum(left_out) == 120 - prepared.n_obs
    assert (tmp_path / "qc.svg").exists()


def test_one_panel_on_the_axes_given(prepared):
    ax = new_figure((3, 3)).add_subplot()
    assert plot.qc(prepared, "peaks", ax=ax) is ax
    assert ax.patches
    three = new_figure((9, 3)).subplots(1, 3)
    assert list(plot.qc(prepared, ax=three)) == list(three)
    with pytest.raises(errors.OptionError, match="got 1 axes for 3 panels; expected one each"):
        plot.qc(prepared, ax=ax)
    with pytest.raises(errors.OptionError, match="panel is 'x'; expected one of knee, histogram, peaks"):
        plot.qc(prepared, "x")


def test_a_file_of_another_program_shows_what_it_holds(prepared):
    keys.QC.drop(prepared)
    knee, _, peaks = plot.qc(prepared)
    assert knee.get_title() == f"{prepared.n_obs} cells"
    assert (len(knee.lines), len(peaks.lines)) == (2, 0)
    keys.N_PEAKS.drop(prepared)
    with pytest.raises(
        errors.MissingSlotError, match=r"obs\['n_peaks'\] is missing; .* run `scale prepare` on this file first"
    ):
        plot.qc(prepared)


@given(values=st.lists(st.integers(0, 3000), min_size=1, max_size=60), least=st.sampled_from([None, 0, 1, 7, 150, 5000]))
def test_knee_and_histogram_lose_no_cell(values, least):
    tally = Tally(*np.unique(np.array(values, np.int64), return_counts=True), least)
    falling = np.sort(values)[::-1]
    ranks, heights = tally.knee()
    np.testing.assert_array_equal(np.interp(np.arange(1, len(values) + 1), ranks, heights), falling)
    edges, counts = tally.histogram()
    assert counts.sum() == np.count_nonzero(falling)
    assert (np.diff(edges) >= 1).all()
    np.testing.assert_array_equal(counts, np.histogram([v for v in values if v], edges)[0])
    if least and 0 < edges[0] < least <= max(values):
        assert least in edges
    assert tally.kept == np.count_nonzero(falling >= (least or 0))


def test_a_million_cells_are_a_few_points(tmp_path):
    rng = np.random.default_rng(0)
    values, counts = np.unique(rng.lognormal(7, 1, 10**6).astype(np.int64), return_counts=True)
    tally = Tally(values, counts, 100)
    assert tally.total == 10**6
    assert len(tally.knee()[0]) < 2 * len(values) + 1 < 10**5
