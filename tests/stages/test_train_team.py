"""What processes check before they train one model together."""

from __future__ import annotations

import pytest
import torch

from scale_toolkit import keys, memory
from scale_toolkit.config import TrainConfig
from scale_toolkit.errors import DeviceError, InputError, OptionError
from scale_toolkit.io.h5ad import open_h5ad
from scale_toolkit.model.team import Alone
from scale_toolkit.stages import train_team
from scale_toolkit.stages.counts import counts_of
from scale_toolkit.stages.receipts import digest


class Pair(Alone):
    """A leader with another process that has other facts."""

    size = 2

    def __init__(self, change):
        self._change = change

    def collected(self, value):
        return [value, self._change(value)]


def check(planted, change):
    train_team.check_same(Pair(change), planted, TrainConfig().resolved())


def test_the_same_everywhere_is_accepted(planted):
    check(planted, dict)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"version": "0.0"}, "process 2 of 2 has another version than the first"),
        (
            {"options": {"seed": 3}},
            "process 2 of 2 has another seed \\(3, not 18\\) than the first",
        ),
        ({"cells or peaks": "x"}, "process 2 of 2 has other cells or peaks than the first"),
    ],
)
def test_a_difference_is_named(planted, other, message):
    def change(facts):
        options = facts["options"] | other.get("options", {})
        return facts | other | {"options": options}

    with pytest.raises(InputError, match=message):
        check(planted, change)


def test_threads_and_devices_may_differ(planted):
    looks = []
    for settings in (
        TrainConfig(n_threads=1, device="cpu"),
        TrainConfig(n_threads=2, device="cuda:1"),
    ):
        team = Pair(lambda facts: looks.append(facts) or facts)
        train_team.check_same(team, planted, settings.resolved())
    assert looks[0] == looks[1]


def test_other_counts_under_the_same_names_are_noticed(planted):
    settings = TrainConfig().resolved()
    before = train_team._look(planted, settings)
    planted.X.data[-1] += 1
    assert train_team._look(planted, settings) != before


@pytest.mark.parametrize(("n_cells", "batch_size"), [(3, 64), (100, 1)])
def test_too_few_cells_for_the_processes(n_cells, batch_size):
    with pytest.raises(
        InputError, match="2 processes; expected two cells or more for each process"
    ):
        train_team.check_size(Pair(dict), n_cells, batch_size)


def test_only_the_fast_preset_without_batches():
    with pytest.raises(OptionError, match="preset is paper and several processes are asked for"):
        train_team.check_team_options(TrainConfig(preset="paper"))
    with pytest.raises(OptionError, match="batch_key is x and several processes are asked for"):
        train_team.check_team_options(TrainConfig(batch_key="x"))


def test_stray_variables_of_other_programs_do_not_count():
    assert train_team.size_of_team({"RANK": "0", "WORLD_SIZE": "8"}) == 1
    assert train_team.size_of_team({"WORLD_SIZE": "8", "TORCHELASTIC_RUN_ID": "a"}) == 8


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert train_team._device("cuda", 1, 2) == train_team._device("auto", 1, 2) == "cuda:1"
    assert train_team._device("auto", 1, 4) == train_team._device("cpu", 1, 2) == "cpu"
    with pytest.raises(
        DeviceError, match="4 processes on a machine with 2 GPUs; expected a GPU for each"
    ):
        train_team._device("cuda", 1, 4)
    with pytest.raises(DeviceError, match="device is cuda:1, with 2 processes on a machine"):
        train_team._device("cuda:1", 0, 2)


def test_processes_share_the_promised_memory():
    with memory.limited_memory("8G"):
        alone, why = memory.available()
        with memory.shared_among(4):
            shared, _ = memory.available()
    if why == "--memory":
        assert shared < 2 << 30
    assert shared < alone / 2


def test_a_process_reads_its_own_rows_from_the_file(planted, tmp_path, monkeypatch):
    """In several pieces, and the digest of all rows is that of the matrix in memory."""
    monkeypatch.setattr("scale_toolkit.core.rows.ENTRIES_AT_A_TIME", 100)
    monkeypatch.setattr("scale_toolkit.stages.receipts.PIECE", 1000)
    planted.write_h5ad(tmp_path / "cells.h5ad")
    with open_h5ad(tmp_path / "cells.h5ad") as file:
        adata = file.read(counts_on_disk=True)
        rows = counts_of(adata, slice(17, 90))
        assert digest(adata, (keys.X,)) == digest(planted, (keys.X,))
    assert (rows != planted.X[17:90]).nnz == 0
    assert rows.shape == (73, 300)
