"""Marker peaks: time, number, and calibration under labels drawn by chance.

    python benchmarks/markers.py forebrain.h5ad --labels cell_type
    python benchmarks/markers.py --simulate 20000 50000 --open 1000 --clusters 10

The null: labels permuted over the cells, so that no peak differs; the share of p-values below a
level should be the level.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
import warnings

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

import scale_toolkit as scale
from scale_toolkit.core import differential
from scale_toolkit.errors import ScaleWarning

LEVELS = (0.05, 0.01, 1e-3, 1e-4)


def simulated(
    n_cells: int, n_peaks: int, n_open: int, n_clusters: int, seed: int
) -> anndata.AnnData:
    """Cells of very different depth; in each cluster a hundredth of the peaks is open four times
    as often.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_clusters, n_cells)
    rate = rng.gamma(1, 1, n_peaks)
    figures = [
        np.where(np.arange(n_peaks) % 100 == k, 4 * rate, rate).cumsum() for k in range(n_clusters)
    ]
    depth = np.maximum(20, n_open * rng.lognormal(-0.125, 0.5, n_cells)).astype(int)
    rows = [
        np.unique(np.searchsorted(figures[k], rng.random(d) * figures[k][-1]))
        for k, d in zip(labels, depth)
    ]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.concatenate(rows).astype(np.int32)
    X = sparse.csr_matrix(
        (np.ones(len(indices), np.float32), indices, indptr), shape=(n_cells, n_peaks)
    )
    names = pd.Index([f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(n_peaks)], dtype=object)
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(labels.astype(str))}, index=[f"c{i}" for i in range(n_cells)]
    )
    return anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=names))


def null_shares(
    cells: anndata.AnnData, labels: str, repeats: int, min_cells: int
) -> dict[str, float]:
    """Share of p-values below each level over permutations of the labels, all peaks and clusters
    together.
    """
    is_open = sparse.csr_matrix(cells.X) > 0
    is_open = is_open[np.diff(is_open.indptr) > 0]
    tested = np.flatnonzero(np.asarray(is_open.sum(axis=0)).ravel() >= min_cells)
    codes = cells.obs[labels].astype("category").cat.codes.to_numpy()[: is_open.shape[0]]
    bins = differential.depth_bins(np.diff(is_open.indptr))
    table = []
    for seed in range(repeats):
        groups = np.random.default_rng(seed).permutation(codes)
        counts = differential.count(is_open, groups, int(codes.max()) + 1, bins)
        of_tested = differential.Counts(counts.open_cells[tested], counts.weighted[tested])
        table.append(differential.compare(of_tested, groups, bins).p_value.ravel())
    p_value = np.concatenate(table)
    return {"tests": len(p_value)} | {
        f"p < {level:g}": float((p_value < level).mean()) for level in LEVELS
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", nargs="?")
    parser.add_argument("--labels", default="cell_type")
    parser.add_argument("--method", default="logistic")
    parser.add_argument("--simulate", nargs=2, type=int, metavar=("CELLS", "PEAKS"))
    parser.add_argument("--open", type=int, default=1000)
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--permutations", type=int, default=10)
    parser.add_argument("--n-threads", type=int, default=0)
    words = parser.parse_args()
    warnings.simplefilter("ignore", ScaleWarning)
    cells = (
        simulated(*words.simulate, words.open, words.clusters, 0)
        if words.simulate
        else anndata.read_h5ad(words.file)
    )
    started, worked = time.perf_counter(), time.process_time()
    scale.markers(cells, cluster_by=words.labels, method=words.method, n_threads=words.n_threads)
    seconds, core_seconds = time.perf_counter() - started, time.process_time() - worked
    table = cells.uns["scale_markers"]
    result = {
        "cells": cells.n_obs,
        "peaks": cells.n_vars,
        "open": int(cells.X.nnz),
        "method": words.method,
        "seconds": round(seconds, 2),
        "core_seconds": round(core_seconds, 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "markers": {
            str(name): int(n) for name, n in table["cluster"].value_counts(sort=False).items()
        },
    }
    if words.simulate:
        peaks = cells.var_names.get_indexer(table["peak"])
        right = peaks % 100 == table["cluster"].astype(int).to_numpy()
        result |= {
            "planted_found": int(right.sum()),
            "planted": words.clusters * cells.n_vars // 100,
            "wrong": int((~right).sum()),
        }
    if words.permutations:
        result["null"] = null_shares(cells, words.labels, words.permutations, 10)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
