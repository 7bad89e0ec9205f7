"""The report and every figure over degenerate data sets: a page and a figure, never a traceback."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scale_toolkit import keys, plot, report
from scale_toolkit.stages.prepare import prepare


def dataset(is_open: np.ndarray, clusters=None) -> anndata.AnnData:
    """Return open peaks (cells × peaks) with every slot that the figures read; nothing is trained."""
    n_cells, n_peaks = is_open.shape
    cells = anndata.AnnData(
        sparse.csr_matrix(is_open.astype(np.float32)),
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(n_cells)]),
        var=pd.DataFrame(index=[f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(n_peaks)]),
    )
    cells = prepare(cells, min_peaks=0, min_cells=0)
    rng = np.random.default_rng(0)
    clusters = np.arange(n_cells) % 2 if clusters is None else clusters
    cells.obs["cell_type"] = pd.Categorical([f"type {code}" for code in clusters])
    keys.CLUSTER.set(cells, pd.Categorical(np.asarray(clusters).astype(str)))
    _, codes = np.unique(clusters, return_inverse=True)
    keys.LATENT.set(cells, (rng.normal(size=(n_cells, 3)) + codes[:, None]).astype(np.float32))
    keys.UMAP.set(cells, rng.normal(size=(n_cells, 2)).astype(np.float32))
    keys.POSTERIOR.set(cells, np.full((n_cells, 2), 0.5, np.float32))
    keys.HISTORY.set(cells, {"loss": np.array([2.0, 1.0]), "held_out": np.array([-2.0, -1.0])})
    return cells


def random_peaks(n_cells=60, n_peaks=40, seed=0) -> np.ndarray:
    is_open = np.random.default_rng(seed).random((n_cells, n_peaks)) < 0.3
    is_open[:, 0] = True  # no cell is empty
    return is_open


def open_in_21_to_48_cells() -> np.ndarray:
    rng, is_open = np.random.default_rng(0), np.zeros((100, 40), bool)
    for peak, n_open in enumerate(rng.integers(21, 49, 40)):
        is_open[rng.choice(100, n_open, replace=False), peak] = True
    return is_open


def equal_embedding(cells: anndata.AnnData) -> anndata.AnnData:
    keys.LATENT.set(cells, np.zeros((cells.n_obs, 3), np.float32))
    keys.UMAP.set(cells, np.zeros((cells.n_obs, 2), np.float32))
    return cells


DATASETS = {
    "two cells": lambda: dataset(random_peaks(2)),
    "three cells": lambda: dataset(random_peaks(3)),
    "one peak": lambda: dataset(random_peaks(60, 1)),
    "equal cells": lambda: equal_embedding(dataset(np.tile(random_peaks(1), (60, 1)))),
    "all open": lambda: dataset(np.ones((60, 40), bool)),
    "one label": lambda: dataset(random_peaks(), np.zeros(60, int)),
    "a label per cell": lambda: dataset(random_peaks(), np.arange(60)),
    "a cluster of two": lambda: dataset(random_peaks(), np.r_[0, 0, np.ones(58, int)]),
    "peaks open in 21 to 48 cells": lambda: dataset(open_in_21_to_48_cells()),
    "cells with 21 to 48 open peaks": lambda: dataset(open_in_21_to_48_cells().T),
}
FIGURES = {
    "embedding": {}, "heatmap": {}, "confusion": {"reference": "cell_type"}, "correlation": {}, "specificity": {},
    "loss": {}, "qc": {},
}  # fmt: skip


@pytest.mark.parametrize("name", DATASETS)
def test_the_report_and_every_figure(name, tmp_path):
    cells = DATASETS[name]()
    page = report.page(cells)
    assert "What was run" in page
    for figure, options in FIGURES.items():
        path = tmp_path / f"{figure}.svg"
        getattr(plot, figure)(cells.copy(), **options, save=path)
        assert path.read_bytes().startswith(b"<?xml"), figure
