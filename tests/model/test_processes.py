"""A team of one process of torch.distributed, whose every message is sent: results are those without."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scale_toolkit.core.rows import MatrixRows
from scale_toolkit.errors import InputError, ProcessLostError
from scale_toolkit.model.cells import place_cells
from scale_toolkit.model.encoder_view import EncoderView
from scale_toolkit.model.near import near_cells
from scale_toolkit.model.processes import Processes
from scale_toolkit.model.products import products_of
from scale_toolkit.model.team import ALONE
from scale_toolkit.model.views import find_start, linear_map


@pytest.fixture
def team(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield Processes()
    torch.distributed.destroy_process_group()


def test_values_arrive(team):
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    for arrived in (
        team.total(rows),
        team.joined(rows),
        team.gathered(rows),
        team.collected(rows)[0],
        team.shared(rows),
    ):
        np.testing.assert_array_equal(arrived, rows)
    assert team.total(3) == 3
    assert team.mean(-1.5, 7) == -1.5
    assert team.mean(0.0, 0) == 0


def test_cells_are_split_in_order():
    team = object.__new__(Processes)
    team.size = 3
    assert team.bounds(10).tolist() == [0, 3, 6, 10]
    chosen = np.array([0, 2, 3, 7, 9])
    parts = []
    for team.rank in range(3):
        parts.append(team.local(chosen, 10) + team.bounds(10)[team.rank])
        assert team.seed(18) == 18 + (team.rank << 32)
    np.testing.assert_array_equal(np.concatenate(parts), chosen)


def test_gradients_of_a_mean_stay(team):
    model = torch.nn.Linear(3, 2)
    model(torch.ones(4, 3)).mean().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    team.average_gradients(model, 4)
    for gradient, parameter in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@pytest.mark.parametrize("subset_peaks", [40_000_000, 2_000])
def test_the_start_is_that_without_a_team(team, plant, monkeypatch, subset_peaks):
    monkeypatch.setattr("scale_toolkit.model.views.SUBSET_PEAKS", subset_peaks)
    monkeypatch.setattr("scale_toolkit.model.views.NULL_PEAKS", subset_peaks)
    cells = place_cells(
        MatrixRows(plant(200, 300).X), EncoderView(log_transform=True), torch.device("cpu")
    )
    peak_sums = cells.open_sums()[1]

    def start(products):
        coordinates = find_start(products, peak_sums, None, 18).coordinates
        return coordinates, linear_map(products.seen(cells.see), coordinates)

    for values, expected in zip(
        team.led(products_of(cells), cells.source, start),
        ALONE.led(products_of(cells), cells.source, start),
        strict=True,
    ):
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_an_error_keeps_its_words(team):
    def work():
        raise InputError("a", "b", "c")

    with pytest.raises(InputError, match=r"^a; expected b; c$"):
        team.together(work)


def test_a_lost_process_is_named_in_one_line(team, monkeypatch):
    def lost(*_):
        raise RuntimeError("[../gloo/pair.cc:589] Connection closed by peer [127.0.0.1]:1\nmore")

    monkeypatch.setattr(torch.distributed, "all_reduce", lost)
    with pytest.raises(
        ProcessLostError, match=r"process 1 of 1 lost another one \(Connection closed by peer"
    ):
        team.total(1)


def test_fewer_neighbours_are_as_near():
    """Half of the cells: the five nearest of them are as near as the ten nearest of all."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((400, 3)).astype(np.float32)

    def farthest(index):
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        return np.median((unit[: len(index), None] * unit[index]).sum(2).min(1))

    of_all = near_cells(points, 10, 0.5, rng).index
    of_half = near_cells(points[:200], 10, 0.5, rng, n_cells_in_all=400).index
    assert of_half.shape == (200, 5)
    assert farthest(of_half) == pytest.approx(farthest(of_all[:200]), abs=0.02)
