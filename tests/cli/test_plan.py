"""``scale plan`` and ``--dry-run``: figures on the screen and as JSON, warnings where it will not fit, nothing written."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from scale_toolkit.config import ClusterConfig, ImputeConfig, TrainConfig
from scale_toolkit.io.size import size_of
from scale_toolkit.needs import STAGES, Size, needs


@pytest.fixture
def cells(plant, tmp_path):
    made = plant()
    made.write_h5ad(tmp_path / "cells.h5ad")
    return made


def test_every_stage_with_its_figures(scale, cells, tmp_path):
    code, said = scale("plan cells.h5ad -o plan.json")
    assert code == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    size = size_of(tmp_path / "cells.h5ad")
    assert (found["cells"], found["peaks"], found["open"]) == size
    defaults = {"train": TrainConfig(), "cluster": ClusterConfig(), "impute": ImputeConfig()}
    plain = {stage: needs(stage, size, **defaults)._asdict() for stage in STAGES}
    assert found["stages"] == plain
    assert found["memory_free_mb"] > 100
    assert f"{size.n_cells} cells × {size.n_peaks} peaks" in said
    assert all(stage.replace("_", "-") in said for stage in STAGES)


def test_options_count(scale, cells, tmp_path):
    words = "--preset paper --max-iter 5000 --stability 500 --binary --binary-format packed"
    assert scale(f"plan cells.h5ad {words} --quiet -o plan.json") == (0, "")
    found = json.loads((tmp_path / "plan.json").read_text())["stages"]
    size = size_of(tmp_path / "cells.h5ad")
    asked = {
        "train": TrainConfig(preset="paper", max_iter=5000),
        "cluster": ClusterConfig(stability=500),
        "impute": ImputeConfig(binary=True, binary_format="packed"),
    }
    for stage in asked:
        assert found[stage] == needs(stage, size, **asked)._asdict()


@pytest.mark.parametrize("words", ["plan cells.h5ad --devices 4", "train cells.h5ad --dry-run --devices 4 -o out.h5ad"])
def test_processes_of_training_are_planned(scale, cells, words):
    one, four = (scale(line)[1] for line in (words.replace("--devices 4", ""), words))

    def memory(said):
        line = next(line for line in said.splitlines() if line.startswith("train "))
        return float(line.split()[1].replace(",", "")) * {"MB": 1, "GB": 1000}[line.split()[2]]

    assert memory(four) > memory(one) + 1000
    assert "train: 4 processes on one machine" in four
    assert "each of 4 GPUs" in four
    assert "processes" not in one


def test_json_on_standard_output_and_nothing_else(cells, tmp_path):
    with (tmp_path / "cells.h5ad").open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "scale_toolkit", "plan", "-", "-o", "-"],
            stdin=file, capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    assert json.loads(done.stdout)["cells"] == cells.n_obs
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        ("train cells.h5ad --dry-run -o out.h5ad", ["train"]),
        ("impute cells.h5ad --binary --dry-run -o out.h5ad", ["impute"]),
        ("impute cells.h5ad --validate --dry-run -o out.h5ad", ["train", "impute"]),
        ("run cells.h5ad -k 3 --dry-run -o folder", ["prepare", "select-peaks", "train", "cluster", "embed", "markers", "report"]),
        ("run cells.h5ad --impute --dry-run -o folder", ["prepare", "select-peaks", "train", "cluster", "embed", "markers", "impute", "report"]),
    ],
)
def test_a_dry_run_says_what_it_would_take_and_writes_nothing(scale, cells, tmp_path, words, stages):
    before = sorted(tmp_path.iterdir())
    code, said = scale(words)
    assert code == 0
    lines = said.splitlines()
    end = next(i for i, line in enumerate(lines) if line.startswith("free here"))
    assert [line.split()[0] for line in lines[2:end]] == stages
    assert ("on a GPU" in said) == ("train" in stages)
    assert sorted(tmp_path.iterdir()) == before


def test_a_dry_run_still_checks_the_options(scale, cells):
    assert scale("train cells.h5ad --dry-run --latent 0") == (2, "error: --latent is 0; expected 1 or more\n")
    code, said = scale("train absent.h5ad --dry-run")
    assert code == 1
    assert "absent.h5ad" in said


def test_what_does_not_fit_is_said(scale, cells, monkeypatch):
    monkeypatch.setattr("scale_toolkit.memory.available", lambda: (100_000_000, "the limit of this job's cgroup"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0})())
    _, said = scale("plan cells.h5ad")
    assert "warning: train needs" in said
    assert "100 MB are free here (the limit of this job's cgroup)" in said
    assert "0 MB of disk are free here" in said


def test_counts_that_go_to_temporary_files_are_planned_there(scale, cells, monkeypatch):
    """Counts of 10⁹ open peaks with 8 GB: less memory, and 10 GB for `train` in TMPDIR."""
    monkeypatch.setattr("scale_toolkit.io.size.size_of", lambda *_, **__: Size(10**6, 10**5, 10**9))
    monkeypatch.setattr("scale_toolkit.memory.available", lambda: (8_000_000_000, "--memory"))
    _, said = scale("plan cells.h5ad")
    train = next(line for line in said.splitlines() if line.startswith("train"))
    assert "temporary files" in said
    assert train.endswith("10.0 GB")
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5_000_000_000})())
    _, said = scale("plan cells.h5ad")
    assert "warning: counts take 10.0 GB of temporary files, and 5.0 GB are free in TMPDIR" in said


def test_few_counts_need_no_temporary_files(scale, cells):
    assert "temporary" not in scale("plan cells.h5ad")[1]
