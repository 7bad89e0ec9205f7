"""The readings of the number of clusters, on planted clusters."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pytest
from scipy import sparse

from scale_toolkit import keys, plot
from scale_toolkit.cli import app
from scale_toolkit.core.boundaries import boundary_ratio
from scale_toolkit.core.choose_k import held_out_likelihood
from scale_toolkit.errors import InputError
from scale_toolkit.stages.choose_k import choose_k
from scale_toolkit.stages.cluster import cluster
from scale_toolkit.stages.receipts import receipts


def planted(n_clusters=5, n_cells=400, *, with_counts=True):
    rng = np.random.default_rng(1)
    truth = np.arange(n_cells) % n_clusters
    counts = None
    if with_counts:
        rates = rng.gamma(0.3, 1.0, (n_clusters, 300))
        counts = sparse.csr_matrix(rng.poisson(rates[truth]).astype(np.float32))
    cells = anndata.AnnData(counts, shape=None if with_counts else (n_cells, 0))
    latent = 7 * rng.normal(size=(n_clusters, 6))[truth] + rng.normal(size=(n_cells, 6))
    keys.LATENT.set(cells, latent.astype(np.float32))
    return cells


@pytest.fixture(scope="module")
def chosen():
    return choose_k(planted(), max_k=9, stability=3)


def test_all_readings_find_planted_clusters(chosen):
    choice = keys.CHOICE_OF_K.get(chosen)
    assert list(choice["k"]) == list(range(1, 10))
    assert (choice["recommended"], choice["by_stability"], choice["by_held_out"]) == (5, 5, 5)
    assert 3 <= choice["by_random_matrix"] <= 6
    assert choice["boundary"][3] < 0.3 < choice["boundary"][4]
    assert choice["stability"][4] > 0.95 > choice["stability"][5]
    assert receipts(chosen)[-1]["notes"]["recommended"] == 5


def test_cluster_takes_the_recommended_number(chosen):
    assert cluster(planted()).obs["leiden"].nunique() == keys.CHOICE_OF_K.get(chosen)["recommended"]


def test_without_counts_random_matrix_theory_is_left_out():
    choice = keys.CHOICE_OF_K.get(choose_k(planted(with_counts=False), max_k=6, stability=2))
    assert (choice["by_random_matrix"], choice["recommended"]) == (-1, 5)


def test_many_cells_are_read_on_a_subsample():
    choice = keys.CHOICE_OF_K.get(choose_k(planted(), max_k=7, stability=2, max_cells=150))
    assert (choice["n_cells"], choice["recommended"]) == (150, 5)


def test_one_cell_is_an_error():
    with pytest.raises(InputError, match="1 cell; expected at least 2"):
        choose_k(planted(n_cells=1, with_counts=False))


def test_the_figure_has_a_panel_for_each_reading(chosen, tmp_path):
    axes = plot.choose_k(chosen, save=tmp_path / "k.png")
    assert [ax.get_title() for ax in axes] == ["prefers 5"] * 3
    np.testing.assert_allclose(
        axes[0].get_lines()[0].get_ydata(), keys.CHOICE_OF_K.get(chosen)["boundary"]
    )
    assert (tmp_path / "k.png").stat().st_size > 5_000


def test_the_command_shows_and_draws(tmp_path, capfd):
    planted().write_h5ad(tmp_path / "in.h5ad")
    figure, output = tmp_path / "k.pdf", tmp_path / "out.h5ad"
    call = ["choose-k", str(tmp_path / "in.h5ad"), "-o", str(output), "--figure", str(figure)]
    with pytest.raises(SystemExit) as ended:
        app.main([*call, "--max-k", "7", "--stability", "2", "--json-logs"])
    assert ended.value.code == 0
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert any(line.get("recommended") == 5 for line in lines)
    assert figure.stat().st_size > 1_000
    assert anndata.read_h5ad(output).uns["scale_choose_k"]["recommended"] == 5


# ---- a boundary


def ratio(first, second):
    return boundary_ratio(first, second, np.random.default_rng(0))


@pytest.mark.parametrize("n_dims", [2, 10, 30])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_halves_of_one_cloud_have_a_ratio_near_one_at_any_scale(n_dims, scale):
    cloud = scale * np.random.default_rng(1).normal(size=(800, n_dims))
    order = np.argsort(cloud[:, 0])
    assert ratio(cloud[order[:300]], cloud[order[300:]]) == pytest.approx(1, abs=0.25)


def test_separate_clouds_have_a_ratio_near_zero():
    rng = np.random.default_rng(1)
    assert ratio(rng.normal(size=(500, 5)), 8 + rng.normal(size=(25, 5))) < 0.02


def test_the_ratio_falls_with_the_distance():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(300, 5)), rng.normal(size=(300, 5))
    axis = np.eye(5)[0]
    ratios = [ratio(first, second + shift * axis) for shift in (3, 4, 5, 7)]
    assert ratios == sorted(ratios, reverse=True)


def test_points_that_coincide_have_no_boundary():
    assert ratio(np.zeros((5, 2)), np.zeros((5, 2))) == 1.0
    assert ratio(np.zeros((1, 2)), np.ones((1, 2))) == 1.0


def test_held_out_likelihood_is_that_of_scikit_learn_for_one_component():
    points = np.random.default_rng(2).normal(size=(500, 3))
    mean, error = held_out_likelihood(points, 1, 0)
    assert mean == pytest.approx(-1.5 * np.log(2 * np.pi) - 1.5, abs=0.15)
    assert 0 < error < 0.1


@pytest.mark.parametrize(
    ("options", "revision"),
    [
        ({}, 2),
        ({"n_clusters": 3}, 1),
        ({"resolution": 1.0}, 1),
        ({"method": "kmeans"}, 3),
        ({"method": "kmeans", "resolution": 1.0}, 3),
        ({"method": "kmeans", "n_clusters": 3}, 2),
    ],
    ids=str,
)
def test_a_receipt_tells_numbers_chosen_by_former_rules_apart(options, revision):
    assert receipts(cluster(planted(), **options))[-1].get("revision", 1) == revision
