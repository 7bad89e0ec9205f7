"""``scale train`` in several processes (gloo, on the loopback interface)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from scale_toolkit import keys
from scale_toolkit.cli import processes
from scale_toolkit.errors import ProcessLostError
from scale_toolkit.stages.receipts import receipts

SCALE = [sys.executable, "-m", "scale_toolkit"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
OPTIONS = ["-k", "3", "--max-epochs", "4", "--n-threads", "1"]
SECONDS = 300
WITHOUT_TEAM = {
    name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")
}


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        cwd=folder,
        env=WITHOUT_TEAM,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=folder,
        env=WITHOUT_TEAM,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(plant, tmp_path_factory):
    """A folder with cells, and what one process makes of them."""
    path = tmp_path_factory.mktemp("devices")
    plant(n_cells=201, n_peaks=400).write_h5ad(path / "cells.h5ad")
    assert run([*SCALE, "train", "cells.h5ad", *OPTIONS, "-o", "alone.h5ad"], path).returncode == 0
    return path


def check_like_alone(folder: Path, name: str, n_processes: int) -> None:
    """The start is that of one process, the learning curve too, and the receipt says how it was made."""
    alone, team = (anndata.read_h5ad(folder / file) for file in ("alone.h5ad", name))
    np.testing.assert_allclose(keys.LATENT.get(team), keys.LATENT.get(alone), atol=1e-3)
    np.testing.assert_array_equal(keys.CELL_OPEN_RATE.get(team), keys.CELL_OPEN_RATE.get(alone))
    np.testing.assert_array_equal(keys.PEAK_OPEN_RATE.get(team), keys.PEAK_OPEN_RATE.get(alone))
    np.testing.assert_allclose(keys.OFFSET.get(team), keys.OFFSET.get(alone), rtol=1e-5)
    curves, expected = (keys.HISTORY.get(adata)["held_out"] for adata in (team, alone))
    assert len(curves) == len(expected)
    assert curves[0] == pytest.approx(expected[0], abs=1e-4)
    # three seeds of one process differ by up to 0.01 nats after as many epochs
    np.testing.assert_allclose(curves, expected, atol=0.01)
    # the decoder was trained: it has left its start, in the same direction
    change = np.corrcoef(keys.DECODER.get(team).ravel(), keys.DECODER.get(alone).ravel())[0, 1]
    assert change > 0.95
    groups = KMeans(3, n_init=5, random_state=0).fit_predict(keys.LATENT.get(team))
    assert adjusted_rand_score(team.obs["cell_type"], groups) > 0.9
    receipt, receipt_alone = receipts(team)[-1], receipts(alone)[-1]
    assert receipt["notes"]["processes"] == n_processes
    assert "processes" not in receipt_alone["notes"]
    assert receipt["notes"]["steps"] == receipt_alone["notes"]["steps"]
    assert receipt["input"] == receipt_alone["input"]
    np.testing.assert_array_equal(team.X.toarray(), alone.X.toarray())


def test_two_processes_train_like_one(folder):
    ended = run(
        [
            *SCALE,
            "train",
            "cells.h5ad",
            *OPTIONS,
            "--devices",
            "2",
            "--model",
            "m.pt",
            "-o",
            "two.h5ad",
        ],
        folder,
    )
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
    check_like_alone(folder, "two.h5ad", 2)
    assert (folder / "m.pt").stat().st_size > 0
    assert ended.stderr.count("train: ") <= 2  # the other process says nothing


def test_torchrun_starts_four(folder):
    ended = run(
        [*TORCHRUN, "4", "-m", "scale_toolkit", "train", "cells.h5ad", *OPTIONS, "-o", "four.h5ad"],
        folder,
    )
    assert ended.returncode == 0, ended.stderr
    check_like_alone(folder, "four.h5ad", 4)


def test_an_error_of_all_is_said_once(folder):
    ended = run(
        [
            *SCALE,
            "train",
            "cells.h5ad",
            *OPTIONS,
            "--devices",
            "2",
            "--batch-size",
            "1",
            "-o",
            "x.h5ad",
        ],
        folder,
    )
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "error: 201 cells in steps of 1, and 2 processes; expected two cells or more for each process, and one or more "
        "of each step; use fewer processes"
    ]
    assert not (folder / "x.h5ad").exists()


def test_processes_with_other_cells_are_refused(folder, plant):
    plant(n_cells=201, n_peaks=400, seed=1).write_h5ad(folder / "others.h5ad")
    script = 'exec "$0" -m scale_toolkit train $([ "$RANK" = 0 ] && echo cells || echo others).h5ad "$@" -o y.h5ad'
    words = [*TORCHRUN, "2", "--no-python", "bash", "-c", script, sys.executable, *OPTIONS]
    ended = run(words, folder)
    assert ended.returncode != 0
    line = (
        "error: process 2 of 2 has other cells or peaks than the first; expected the same in all; start all processes "
        "with the same command, on the same file"
    )
    assert ended.stderr.splitlines().count(line) == 1
    assert not (folder / "y.h5ad").exists()


def children_of(process: subprocess.Popen) -> dict[str, int]:
    """Rank -> process."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    environments = {
        int(pid): Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") for pid in pids
    }
    return {
        variable.decode().removeprefix("RANK="): pid
        for pid, environment in environments.items()
        for variable in environment
        if variable.startswith(b"RANK=")
    }


def wait_for(condition, what: str):
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    raise AssertionError(f"waited for {what}")


def last_epoch(checkpoint: Path) -> int:
    return max(
        (int(path.stem.removeprefix("epoch-")) for path in checkpoint.glob("epoch-*.json")),
        default=0,
    )


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds child processes in /proc")
def test_a_process_that_dies_stops_all_and_another_number_resumes(folder):
    endless = [
        "train",
        "cells.h5ad",
        "-k",
        "3",
        "--n-threads",
        "1",
        "--patience",
        "0",
        "--max-iter",
        "100000000",
    ]
    endless += ["--checkpoint", "kept", "--every", "0", "-o", "z.h5ad"]
    kept = folder / "kept"
    started = [*SCALE, *endless]
    first = start([*started, "--devices", "2"], folder)
    try:
        wait_for(lambda: last_epoch(kept) >= 2, "two epochs")
        os.kill(children_of(first)["1"], signal.SIGKILL)
        _, stderr = first.communicate(timeout=60)
    finally:
        first.kill()
    assert first.returncode == 1
    assert stderr.splitlines()[-1].startswith(
        "error: process 2 of 2 was ended by SIGKILL; expected all processes"
    )
    assert sum(line.startswith("error") for line in stderr.splitlines()) == 1
    epoch = last_epoch(kept)
    again = start([*started, "--devices", "3"], folder)
    try:
        wait_for(lambda: last_epoch(kept) > epoch, "another epoch")
        pids = children_of(again)
        again.terminate()
        _, stderr = again.communicate(timeout=60)
    finally:
        again.kill()
    assert f"resuming after epoch {epoch}" in stderr
    assert len(pids) == 3
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids.values())
    assert not (folder / "z.h5ad").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "train - --devices 2 -o out.h5ad",
            "the input - cannot be read by several processes; expected an h5ad file",
        ),
        (
            "train cells.h5ad --preset paper --devices 2 -o out.h5ad",
            "--preset is paper and several processes are asked for",
        ),
        (
            "train cells.h5ad --batch-key a --devices 2 -o out.h5ad",
            "--batch-key is a and several processes are asked for",
        ),
        (
            "train cells.h5ad --pretrain cells.h5ad --devices 2 -o out.h5ad",
            "several processes and --pretrain",
        ),
    ],
)
def test_what_several_processes_cannot_do(scale, plant, tmp_path, words, message):
    plant().write_h5ad(tmp_path / "cells.h5ad")
    code, stderr = scale(words)
    assert code == 2
    assert message in stderr


def test_devices_within_torchrun_are_refused(scale, plant, tmp_path, monkeypatch):
    plant().write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, stderr = scale("train cells.h5ad --devices 2 -o out.h5ad")
    assert (code, "--devices 2 in a process of torchrun; expected one of the two" in stderr) == (
        2,
        True,
    )


def test_other_commands_within_torchrun_are_refused(scale, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, stderr = scale("cluster cells.h5ad -o out.h5ad")
    assert (code, "scale cluster in 2 processes; expected scale train" in stderr) == (2, True)


@pytest.mark.parametrize(
    ("codes", "outcome"),
    [
        ([0, 0], 0),
        ([processes.LOST_ANOTHER, 1, -signal.SIGTERM], 1),
        ([2, 2], 2),
        ([processes.LOST_ANOTHER, -signal.SIGKILL], "process 2 of 2 was ended by SIGKILL"),
        ([processes.LOST_ANOTHER, processes.LOST_ANOTHER], "the 2 processes lost each other"),
    ],
)
def test_the_process_with_a_reason_of_its_own_decides(codes, outcome):
    if isinstance(outcome, int):
        assert processes._outcome(codes) == outcome
    else:
        with pytest.raises(ProcessLostError, match=outcome):
            processes._outcome(codes)
