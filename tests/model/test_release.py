"""``--preset release`` against losses that SCALE 1.1.2 itself gave, from the same weights, batches and noise."""

import importlib.util
import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def test_a_hundred_losses_are_the_releases_own():
    spec = importlib.util.spec_from_file_location("release_equality", HERE.parents[1] / "benchmarks" / "release_equality.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    recorded = json.loads((HERE / "release_losses.json").read_text())
    losses, _ = benchmark.ours(benchmark.cells_of(recorded["cells"], recorded["peaks"]), steps=100)
    assert len(recorded["losses"]) == 100
    np.testing.assert_allclose(losses, recorded["losses"], rtol=1e-4)
