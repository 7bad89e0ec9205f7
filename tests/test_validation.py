"""Options as Python callers set them: NumPy numbers become plain ones, and the wrong type is refused at once."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from scale_toolkit.config import ClusterConfig, ImputeConfig, PrepareConfig, TrainConfig
from scale_toolkit.errors import OptionError
from scale_toolkit.validation import Config, field_types, option


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (TrainConfig(n_components=np.int64(3)), "n_components", 3),
        (TrainConfig(n_components=np.array([0, 2]).max() + 1), "n_components", 3),
        (TrainConfig(encode_dim=np.array([64, 32])), "encode_dim", (64, 32)),
        (TrainConfig(encode_dim=np.int32(64)), "encode_dim", (64,)),
        (TrainConfig(encode_dim=64), "encode_dim", (64,)),
        (TrainConfig(lr=np.float32(0.5)), "lr", 0.5),
        (TrainConfig(log_transform=np.True_), "log_transform", True),
        (TrainConfig(preset=np.str_("paper")), "preset", "paper"),
        (ClusterConfig(n_clusters=4.0), "n_clusters", 4),
        (ClusterConfig(n_clusters=np.float64(4.0)), "n_clusters", 4),
        (ClusterConfig(n_clusters=np.array(4)), "n_clusters", 4),
        (ImputeConfig(binary=np.False_), "binary", False),
        (PrepareConfig(min_peaks=100), "min_peaks", 100),
        (PrepareConfig(drop_chromosomes="chrM"), "drop_chromosomes", ("chrM",)),
        (PrepareConfig(drop_chromosomes=["chrM", np.str_("chrX")]), "drop_chromosomes", ("chrM", "chrX")),
    ],
)
def test_numpy_values_become_plain_ones(config, field, value):
    stored = getattr(config, field)
    assert stored == value
    items = stored if isinstance(stored, tuple) else (stored,)
    assert all(type(item) in (bool, int, float, str) for item in items)
    json.dumps(config.as_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClusterConfig(n_clusters=4.5), "n_clusters is 4.5; expected an integer"),
        (lambda: ClusterConfig(n_clusters=True), "n_clusters is True; expected an integer"),
        (lambda: ClusterConfig(n_clusters="4"), "n_clusters is '4'; expected an integer"),
        (lambda: ClusterConfig(n_clusters=np.nan), "n_clusters is nan; expected an integer"),
        (lambda: ClusterConfig(n_clusters=np.int64(0)), "n_clusters is 0; expected 1 or more"),
        (lambda: ClusterConfig(n_clusters=[3]), r"n_clusters is \[3\]; expected an integer"),
        (lambda: ClusterConfig(resolution=np.inf), "resolution is inf; expected a number"),
        (lambda: TrainConfig(preset=None), "preset is None; expected a value"),
        (lambda: TrainConfig(preset="slow"), "preset is 'slow'; expected one of fast"),
        (lambda: TrainConfig(log_transform=1), "log_transform is 1; expected True or False"),
        (lambda: TrainConfig(encode_dim=(64, 0)), "encode_dim is 0; expected 1 or more"),
        (lambda: PrepareConfig(layer=3), "layer is 3; expected a string"),
    ],
)
def test_a_wrong_value_is_named(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_an_unsupported_field_type_is_an_error_of_the_programmer():
    @dataclass(frozen=True)
    class Strange(Config):
        value: dict = option(None, "A dict.")  # noqa: RUF009

    with pytest.raises(TypeError, match="a field cannot be"):
        field_types(Strange)
