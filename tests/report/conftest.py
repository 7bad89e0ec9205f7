from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scale_toolkit import keys
from scale_toolkit.stages.cluster import cluster
from scale_toolkit.stages.prepare import prepare
from scale_toolkit.stages.select_peaks import select_peaks
from scale_toolkit.stages.train import train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def _analysed(plant):
    made = plant(n_cells=150)
    made.obs["batch"] = pd.Categorical(np.where(np.arange(150) % 2, "one", "two"))
    made = select_peaks(prepare(made, min_peaks=20, min_cells=10), n_peaks=150, mark_only=True)
    made = cluster(train(made, n_components=3, max_iter=20, n_threads=1), method="kmeans", n_clusters=3, reference="cell_type")
    keys.UMAP.set(made, np.asarray(keys.LATENT.get(made))[:, :2].copy())
    return made


@pytest.fixture
def analysed(_analysed):
    """150 planted cells through every stage but `embed`, whose coordinates are two latent dimensions."""
    return _analysed.copy()


@pytest.fixture
def plots():
    """Names of the plots of the page for `analysed`, without the cells."""
    return {"knee", "histogram", "peaks", "curve_loss", "curve_held_out", "sizes", "confusion", "posterior", "markers"}


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program; where it is not here it is installed if that is asked for, or the test is skipped."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None and os.environ.get("SCALE_TEST_ENGINES") == "start":
        done = subprocess.run(
            [ROOT / "tests/engines/start", "chromium"], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        found = shutil.which("chromium")
        if found is None:
            pytest.skip(f"Chromium cannot be had here: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")
    if found is None:
        pytest.skip("Chromium is not here (SCALE_TEST_ENGINES=start installs it, as root on Debian)")
    return found
