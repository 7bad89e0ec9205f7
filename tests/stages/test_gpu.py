"""How a GPU is used and how its failures are reported; the GPU itself is stood in for."""

import numpy as np
import pytest
import torch

from scale_toolkit.config import TrainConfig
from scale_toolkit.errors import DeviceError
from scale_toolkit.stages.gpu import gpu_settings, used

GPU = torch.device("cuda")


@pytest.mark.parametrize("name", ["gpu_memory", "precision", "deterministic"])
def test_an_option_changes_how_a_gpu_is_used(name):
    """`name` changes how a GPU is used; without one, no result can change."""
    if name == "gpu_memory":
        assert gpu_settings(TrainConfig()).memory is None
        assert gpu_settings(TrainConfig(gpu_memory=1.5)).memory == 1_500_000_000
        return
    changed = {"precision": "auto", "deterministic": True}[name]
    state = {
        "precision": torch.get_float32_matmul_precision,
        "deterministic": torch.are_deterministic_algorithms_enabled,
    }[name]
    before = state()
    with used(GPU, TrainConfig()):
        plain = state()
    with used(GPU, TrainConfig(**{name: changed})):
        assert state() != plain
    assert state() == before
    assert gpu_settings(TrainConfig(deterministic=True)).deterministic
    with used(torch.device("cpu"), TrainConfig(**{name: changed})):
        assert state() == before


def memory_of(monkeypatch, free, total):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 7_000_000_000)


def test_too_little_memory_is_one_line_with_figures(monkeypatch):
    memory_of(monkeypatch, 1_000_000_000, 8_000_000_000)
    with pytest.raises(DeviceError) as caught, used(GPU, TrainConfig()):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    message = str(caught.value)
    assert "1.0 of 8.0 GB free, 7.0 GB held by this job" in message
    assert "--gpu-memory" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("CUDA error: unspecified launch failure\nCompile with", "cuda failed (CUDA error: unspec"),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", "held by another process"),
    ],
)
def test_a_lost_or_busy_gpu_is_one_line(words, expected):
    with pytest.raises(DeviceError) as caught, used(GPU, TrainConfig()):
        raise RuntimeError(words)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_errors_are_not_the_gpus():
    for device in (GPU, torch.device("cpu")):
        with pytest.raises(RuntimeError, match="shapes"), used(device, TrainConfig()):
            raise RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="CUDA"), used(torch.device("cpu"), TrainConfig()):
        raise RuntimeError("CUDA error")


def test_a_gpu_lost_half_way_leaves_its_checkpoint(planted, tmp_path, monkeypatch):
    """The training goes on after it, and ends as an uninterrupted one."""
    import scale_toolkit as scale
    from scale_toolkit import keys
    from scale_toolkit.io.checkpoints import Checkpoints
    from scale_toolkit.stages import train as stage

    options = {"n_components": 3, "max_epochs": 4, "patience": 0, "n_threads": 1}
    whole = scale.train(planted.copy(), **options)

    def lost(message, epoch, total):
        if message.startswith("loss") and epoch == 2:
            raise RuntimeError("CUDA error: device lost")

    on_gpu = used
    monkeypatch.setattr(stage, "used", lambda device, settings: on_gpu(GPU, settings))
    with pytest.raises(DeviceError, match="goes on after the last checkpoint"):
        scale.train(planted.copy(), progress=lost, checkpoints=Checkpoints(tmp_path / "c", 0), **options)
    resumed = scale.train(planted.copy(), checkpoints=Checkpoints(tmp_path / "c", 0), **options)
    np.testing.assert_array_equal(keys.LATENT.get(resumed), keys.LATENT.get(whole))


def test_the_cpu_does_not_load_torchs_compiler():
    """`torch.use_deterministic_algorithms` imports it: seconds of every call of ``scale train``."""
    import subprocess
    import sys

    code = """
import sys, torch
from scale_toolkit.config import TrainConfig
from scale_toolkit.stages.gpu import used
for name in ("cpu", "cuda"):
    with used(torch.device(name), TrainConfig(deterministic=name == "cpu")):
        pass
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
