from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from scale_toolkit.core import separation


def planted(n_cells=400, n_peaks=300, n_groups=4, seed=0):
    """Open peaks: 25 of each group are open five times as often in it; depth varies fourfold."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n_cells) % n_groups
    rate = np.full((n_cells, n_peaks), 0.08)
    for group in range(n_groups):
        rate[np.ix_(groups == group, range(25 * group, 25 * group + 25))] = 0.4
    depth = rng.uniform(0.5, 2, n_cells)
    opened = rng.random(rate.shape) < rate * depth[:, None]
    return sparse.csr_matrix(opened.astype(np.float32)), groups, rate, depth


@pytest.mark.parametrize("decimals", [0, 8])
def test_area_under_curve_is_scikit_learns(decimals):
    rng = np.random.default_rng(0)
    values, is_in = rng.normal(size=(120, 7)).round(decimals), rng.random(120) < 0.3
    areas = separation.area_under_curve(values, is_in)
    np.testing.assert_allclose(areas, [roc_auc_score(is_in, column) for column in values.T])


def test_half_of_each_group_is_in_the_first_half():
    groups = np.repeat([-1, 0, 1], [7, 10, 31])
    first = separation.split_cells(groups, np.random.default_rng(0))
    assert np.bincount(groups[first] + 1).tolist() in ([4, 5, 15], [4, 5, 16], [3, 5, 15], [3, 5, 16])
    assert (first != separation.split_cells(groups, np.random.default_rng(1))).any()


def test_markers_are_the_planted_peaks():
    opened, groups, _, _ = planted()
    markers = separation.pick_markers(opened, groups, 4, n_threads=1)
    assert markers.shape == (4, 20)
    for group, peaks in enumerate(markers):
        assert np.isin(peaks, range(25 * group, 25 * group + 25)).mean() > 0.9


def test_nearest_average_is_the_mean_of_the_nearest_others():
    latent = np.random.default_rng(0).normal(size=(60, 4))
    cells = np.array([3, 10, 59])
    average = separation.nearest_average(latent, cells, 5).toarray()
    for row, cell in zip(average, cells, strict=True):
        nearest = np.argsort(np.linalg.norm(latent - latent[cell], axis=1))[1:6]
        assert sorted(np.flatnonzero(row)) == sorted(nearest)
        np.testing.assert_allclose(row[nearest], 0.2)


def test_readings_are_compared_on_the_cells_whose_markers_were_not_picked():
    opened, groups, rate, depth = planted()
    cells_read = []

    def truth(cells, peaks):
        cells_read.append(cells)
        return rate[cells][:, peaks]

    figures = separation.separation(
        opened,
        groups,
        list("abcd"),
        {
            "truth": truth,
            "with depth": lambda cells, peaks: rate[cells][:, peaks] * depth[cells, None] ** 3,
            "raw": lambda cells, peaks: opened[cells][:, peaks].toarray(),
            "chance": lambda cells, peaks: np.random.default_rng(0).random((len(cells), len(peaks))),
        },
        np.random.default_rng(0),
        max_cells=1000,
        n_threads=1,
    )
    first = separation.split_cells(groups, np.random.default_rng(0))
    np.testing.assert_array_equal(cells_read[0], np.flatnonzero(~first))
    auc = figures["auc"]
    assert auc["truth"] > 0.95 and auc["chance"] == pytest.approx(0.5, abs=0.05)
    assert auc["truth"] > auc["with depth"] > auc["raw"] > 0.6
    assert figures["cells"] == 200 and sum(group["cells"] for group in figures["groups"].values()) == 200
    assert auc["raw"] == pytest.approx(np.mean([group["raw"] for group in figures["groups"].values()]))


def test_cells_scored_have_a_limit_and_the_seed_decides():
    opened, groups, rate, _ = planted()

    def figures(seed):
        readings = {"truth": lambda cells, peaks: rate[cells][:, peaks]}
        rng = np.random.default_rng(seed)
        return separation.separation(opened, groups, list("abcd"), readings, rng, max_cells=80, n_threads=1)

    assert figures(0)["cells"] == 80
    assert figures(0) == figures(0) != figures(1)


def test_groups_with_few_cells_have_no_figure_and_one_group_has_no_rest():
    opened, groups, rate, _ = planted()
    groups = np.where(groups > 1, -1, groups)
    groups[2], groups[3] = 2, 2
    readings = {"truth": lambda cells, peaks: rate[cells][:, peaks]}
    figures = separation.separation(opened, groups, list("abc"), readings, np.random.default_rng(0), max_cells=80)
    assert figures["groups"]["c"] is None and figures["groups"]["a"]["truth"] > 0.9
    single = np.where(groups == 0, 0, -1)
    alone = separation.separation(opened, single, ["a"], readings, np.random.default_rng(0), max_cells=80)
    assert alone["auc"] is None and alone["groups"] == {"a": None} and alone["cells"] == 0
