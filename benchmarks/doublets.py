"""Planted doublets found by score: ``python benchmarks/doublets.py [FOLDER/set.h5ad ...]``.

Simulated sets (8 % doublets of `scale simulate`) and, for each labelled set that is given, 8 % of
the cells replaced by sums of two cells of different types, which are themselves taken out.
Default training; AUROC of `scale doublets`, of Scrublet (scanpy's, on the same counts) and of
depth alone; the estimated rate, and the precision and recall of the calls. One line a set, the
mean of ``--seeds``.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import anndata
import numpy as np
import scanpy as sc
from scipy import sparse
from sklearn.metrics import roc_auc_score

import scale_toolkit as scale

SHARE = 0.08
SIMULATED = {
    "1,000 × 20,000, 8 types": {},
    "5,000 × 30,000, 8 types": {"n_cells": 5000, "n_peaks": 30_000},
    "3,000 × 50,000, 800 open, 12 types": {
        "n_cells": 3000,
        "n_peaks": 50_000,
        "open_peaks": 800,
        "n_clusters": 12,
    },
}


def with_doublets(cells: anndata.AnnData, seed: int) -> anndata.AnnData:
    """Replace pairs of cells of different types by their sums, so that `SHARE` are doublets."""
    rng = np.random.default_rng(seed)
    types = cells.obs["cell_type"].astype(str).to_numpy()
    n_doublets = round(SHARE * cells.n_obs / (1 + SHARE))
    is_free = np.ones(cells.n_obs, bool)
    pairs: list[tuple[int, int]] = []
    for first in rng.permutation(cells.n_obs):
        partners = np.flatnonzero(is_free & (types != types[first]))
        if len(pairs) < n_doublets and is_free[first] and len(partners):
            second = rng.choice(partners)
            is_free[[first, second]] = False
            pairs.append((first, second))
    counts = sparse.csr_matrix(cells.X)
    first_cells, second_cells = np.array(pairs).T
    sums = counts[first_cells] + counts[second_cells]
    if counts.max() == 1:
        sums.data[:] = 1
    mixed = anndata.AnnData(sparse.vstack([counts[is_free], sums]).tocsr().astype(np.float32))
    mixed.var_names = cells.var_names
    mixed.obs_names = [f"cell{number}" for number in range(mixed.n_obs)]
    mixed.obs["is_doublet"] = np.arange(mixed.n_obs) >= is_free.sum()
    return mixed


def figures(cells: anndata.AnnData, seed: int) -> dict[str, float]:
    """Train, score and compare with the truth."""
    scale.pp.prepare(cells, min_peaks=1, min_cells=1)
    truth = cells.obs["is_doublet"].to_numpy()
    scrublet = sc.pp.scrublet(cells, threshold=0.5, random_state=seed, copy=True)
    scale.tl.train(cells, seed=seed)
    scale.tl.doublets(cells, seed=seed)
    called = cells.obs["predicted_doublet"].to_numpy()
    return {
        "score": roc_auc_score(truth, cells.obs["doublet_score"]),
        "scrublet": roc_auc_score(truth, scrublet.obs["doublet_score"]),
        "depth": roc_auc_score(truth, cells.obs["n_peaks"]),
        "planted": truth.mean(),
        "rate": cells.uns["scale_doublets"]["rate"],
        "separation": cells.uns["scale_doublets"]["separation"],
        "precision": truth[called].mean() if called.any() else 0.0,
        "recall": called[truth].mean(),
    }


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="*", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    makers = {
        path.stem: (lambda seed, path=path: with_doublets(anndata.read_h5ad(path), seed))
        for path in arguments.sets
    }
    makers |= {
        name: (lambda seed, options=options: scale.simulate(doublets=SHARE, seed=seed, **options))
        for name, options in SIMULATED.items()
    }
    header: list[str] = []
    for name, make in makers.items():
        runs = [figures(make(seed), seed) for seed in range(arguments.seeds)]
        if not header:
            header = list(runs[0])
            print("| set | " + " | ".join(header) + " |")
            print("|---" * (len(header) + 1) + "|", flush=True)
        means = [np.mean([run[column] for run in runs]) for column in header]
        print(f"| {name} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |", flush=True)


if __name__ == "__main__":
    main()
