"""A training that was cut short goes on from its checkpoint, and ends as if nothing had happened."""

from __future__ import annotations

import json

import numpy as np
import pytest

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io.checkpoints import Checkpoints

OPTIONS = {
    "fast": {"n_components": 3, "max_iter": 400, "n_threads": 1},
    "paper": {"n_components": 3, "preset": "paper", "encode_dim": (16,), "max_iter": 40, "n_threads": 1},
    "release": {"n_components": 3, "preset": "release", "encode_dim": (16,), "max_iter": 40, "n_threads": 1},
}


class Killed(BaseException):
    """The process is gone."""


class Mortal(Checkpoints):
    """Checkpoints of a process that dies as soon as it has written so many."""

    left = 3

    def save(self, *what):
        super().save(*what)
        self.left -= 1
        if self.left == 0:
            raise Killed


def epochs_into(done):
    """A progress that notes the epochs and nothing else."""
    return lambda message, epoch, _: done.append(epoch) if message.startswith("loss") else None


def everything(cells):
    """All that `train` has written, but what differs between equal runs."""
    slots = (keys.LATENT, keys.DECODER, keys.BIAS, keys.OFFSET, keys.POSTERIOR)
    arrays = {slot.path: np.asarray(slot.get(cells)).tobytes() for slot in slots}
    history = {name: np.asarray(curve).tobytes() for name, curve in keys.HISTORY.get(cells).items()}
    mixture = {name: np.asarray(value).tobytes() for name, value in keys.MIXTURE.get(cells).items()}
    return arrays, history, mixture, scale.receipts(cells)


@pytest.mark.parametrize("preset", OPTIONS)
@pytest.mark.parametrize("epochs", [1, 3, 17])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(planted, tmp_path, preset, epochs):
    whole = scale.train(planted.copy(), **OPTIONS[preset])
    epochs = min(epochs, len(keys.HISTORY.get(whole)["loss"]))
    mortal = Mortal(tmp_path / "c", 0)
    mortal.left = epochs
    with pytest.raises(Killed):
        scale.train(planted.copy(), checkpoints=mortal, **OPTIONS[preset])
    done = []
    resumed = scale.train(
        planted.copy(),
        checkpoints=Checkpoints(tmp_path / "c", 0),
        progress=epochs_into(done),
        **OPTIONS[preset],
    )
    assert done == list(range(epochs + 1, len(keys.HISTORY.get(whole)["loss"]) + 1))  # no epoch is made twice
    assert everything(resumed) == everything(whole)


def interrupted(cells, folder, after=3):
    mortal = Mortal(folder, 0)
    mortal.left = after
    with pytest.raises(Killed):
        scale.train(cells.copy(), checkpoints=mortal, **OPTIONS["fast"])


def test_two_checkpoints_are_kept_and_none_is_a_pickle(planted, tmp_path):
    interrupted(planted, tmp_path, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "epoch-000003.json", "epoch-000003.safetensors", "epoch-000004.json", "epoch-000004.safetensors",
    ]  # fmt: skip
    from safetensors import safe_open

    with safe_open(tmp_path / "epoch-000004.safetensors", "numpy") as file:
        assert "good/decoder.weight" in file.keys()  # noqa: SIM118  (no mapping)


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_used(planted, tmp_path, suffix, harm):
    whole = scale.train(planted.copy(), **OPTIONS["fast"])
    interrupted(planted, tmp_path)
    file = tmp_path / f"epoch-000003.{suffix}"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes({"flip": bytes(data), "cut": bytes(data[:-9]), "empty": b""}[harm])
    done = []
    with pytest.warns(ScaleWarning, match="the checkpoint epoch-000003 in .* is damaged: passed over"):
        resumed = scale.train(
            planted.copy(),
            checkpoints=Checkpoints(tmp_path, 1e9),
            progress=epochs_into(done),
            **OPTIONS["fast"],
        )
    assert done[0] == 3
    assert everything(resumed) == everything(whole)


def test_only_damaged_checkpoints_mean_a_new_start(planted, tmp_path):
    interrupted(planted, tmp_path, 1)
    (tmp_path / "epoch-000001.json").write_text("{}")
    done = []
    with pytest.warns(ScaleWarning, match="damaged"):
        scale.train(
            planted.copy(),
            checkpoints=Checkpoints(tmp_path, 1e9),
            progress=epochs_into(done),
            **OPTIONS["fast"],
        )
    assert done[0] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 0.5}, "of another training \\(lr None, here 0.5\\)"),
        ({"seed": 5}, "of another training \\(seed 18, here 5\\)"),
        ({"latent": 4}, "of another training \\(latent None, here 4\\)"),
    ],
)
def test_a_checkpoint_of_other_options_is_refused(planted, tmp_path, change, words):
    interrupted(planted, tmp_path)
    with pytest.raises(InputError, match=words):
        scale.train(planted.copy(), checkpoints=Checkpoints(tmp_path, 0), **OPTIONS["fast"] | change)


def test_a_checkpoint_of_other_cells_is_refused(planted, plant, tmp_path):
    interrupted(planted, tmp_path)
    with pytest.raises(InputError, match=r"of another training \(other cells or peaks\)"):
        scale.train(plant(seed=1), checkpoints=Checkpoints(tmp_path, 0), **OPTIONS["fast"])


def test_a_checkpoint_of_another_version_is_refused(planted, tmp_path, monkeypatch):
    interrupted(planted, tmp_path)
    monkeypatch.setattr("scale_toolkit.stages.train_checkpoints.__version__", "99")
    with pytest.raises(InputError, match=r"version .*, here 99"):
        scale.train(planted.copy(), checkpoints=Checkpoints(tmp_path, 0), **OPTIONS["fast"])


def test_the_next_one_is_due_after_so_many_minutes(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("scale_toolkit.io.checkpoints.time.monotonic", lambda: now[0])
    at = Checkpoints(tmp_path, 10)
    assert not at.due
    now[0] = 600
    assert at.due
    at.save(1, {"a": np.zeros(2)}, {"b": 1})
    assert not at.due
    arrays, facts = at.load()
    assert arrays["a"].tolist() == [0, 0] and facts == {"b": 1}
    assert json.loads((tmp_path / "epoch-000001.json").read_text())["digest"]
    assert Checkpoints(tmp_path / "none", 0).load() is None
