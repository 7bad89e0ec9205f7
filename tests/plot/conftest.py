from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scale_toolkit import keys


@pytest.fixture
def cells(planted):
    """The planted cells with an embedding, a latent space, clusters and learning curves."""
    rng = np.random.default_rng(0)
    code = planted.obs["cell_type"].cat.codes.to_numpy()
    keys.UMAP.set(planted, (rng.normal(size=(120, 2)) + 5 * np.c_[code, code % 2]).astype(np.float32))
    keys.LATENT.set(planted, (rng.normal(size=(120, 4)) + np.eye(4)[code] * 3).astype(np.float32))
    clusters = np.where(rng.random(120) < 0.1, 0, code)
    keys.CLUSTER.set(planted, pd.Categorical(clusters.astype(str)))
    keys.N_PEAKS.set(planted, np.diff(planted.X.indptr))
    curves = {"loss": np.linspace(9, 1, 10), "held_out": np.linspace(-9, -1, 11), "best_epoch": 7, "steps": 40}
    keys.HISTORY.set(planted, curves)
    return planted
