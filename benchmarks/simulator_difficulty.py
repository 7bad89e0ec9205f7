"""How hard the simulated cells are: ARI of TF-IDF + SVD + k-means on `scale simulate`, as a
Markdown table.

    python benchmarks/simulator_difficulty.py                     # the default size, five seeds
    python benchmarks/simulator_difficulty.py --size large        # 10,000 cells × 50,000 peaks, two
    seeds python benchmarks/simulator_difficulty.py --size leukemia     # any data set of --like

The method to beat is written here on its own: log1p(10⁴ · count / row sum · log(1 + cells / peak
count)), a truncated SVD of 31, the first component dropped, rows to unit length, k-means with the
true k and 10 restarts.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.extmath import randomized_svd

import scale_toolkit as scale

SIZES = {
    "default": {},
    "large": {"n_cells": 10_000, "n_peaks": 50_000, "n_clusters": 8, "open_peaks": 3_000},
    "small": {"n_cells": 500, "n_peaks": 5_000, "n_clusters": 5, "open_peaks": 300},
}


def tfidf_svd(counts: sparse.csr_matrix) -> np.ndarray:
    """Cells × 30, rows of unit length."""
    row_sum = np.asarray(counts.sum(axis=1)).ravel()
    peak_count = np.bincount(counts.indices, minlength=counts.shape[1])
    with np.errstate(divide="ignore"):
        idf = np.where(peak_count > 0, np.log1p(counts.shape[0] / peak_count), 0)
    weighted = sparse.csr_matrix(
        sparse.diags_array(1e4 / np.maximum(row_sum, 1)) @ counts @ sparse.diags_array(idf)
    )
    weighted.data = np.log1p(weighted.data)
    cell_factors, values, _ = randomized_svd(
        weighted.astype(np.float32), 31, n_iter=4, random_state=0
    )
    embedded = (cell_factors * values)[:, 1:]
    return embedded / np.maximum(np.linalg.norm(embedded, axis=1, keepdims=True), 1e-12)


def ari(cells: object, seed: int = 0) -> float:
    """ARI of k-means on `tfidf_svd` with the planted clusters."""
    truth = cells.obs["cell_type"]
    clusters = KMeans(truth.nunique(), n_init=10, random_state=seed).fit_predict(tfidf_svd(cells.X))
    return adjusted_rand_score(truth, clusters)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size",
        default="default",
        help="default, large, small, or a name of `scale simulate --like`",
    )
    parser.add_argument("--seeds", type=int, help="number of seeds, from 0 (default: 5; large: 2)")
    arguments = parser.parse_args()
    options = SIZES.get(arguments.size, {"like": arguments.size})
    n_seeds = arguments.seeds or (2 if arguments.size == "large" else 5)
    scores = []
    print(
        "| size | seed | cells × peaks, clusters | median open peaks | effect | simulated in | "
        "ARI |"
    )
    print("|---|---|---|---|---|---|---|")
    for seed in range(n_seeds):
        started = time.perf_counter()
        cells = scale.simulate(seed=seed, **options)
        seconds = time.perf_counter() - started
        scores.append(ari(cells))
        print(
            f"| {arguments.size} | {seed} | {cells.n_obs:,} × {cells.n_vars:,}, "
            f"{cells.obs['cell_type'].nunique()} "
            f"| {np.median(np.diff(cells.X.indptr)):.0f} | "
            f"{scale.receipts(cells)[-1]['notes']['effect']:.3f} "
            f"| {seconds:.1f} s | {scores[-1]:.3f} |",
            flush=True,
        )
    spread = f" ± {statistics.stdev(scores):.3f}" if n_seeds > 1 else ""
    print(f"| {arguments.size} | mean | | | | | **{statistics.mean(scores):.3f}**{spread} |")


if __name__ == "__main__":
    main()
