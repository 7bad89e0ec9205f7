"""The main job as a user runs it: ``scale run -d FILE -k K``, wall seconds and ARI / NMI over
seeds.

    python benchmarks/main_job.py FOLDER/leukemia.h5ad 6 FOLDER/forebrain.h5ad 8 [--seeds 5]
    [--min-peaks 50]

Each run is a whole process: start, read, prepare, train, cluster, embed, draw, write. Read
afterwards from its adata.h5ad: k-means (10 restarts) on the latent space at K, and the clusters it
wrote itself.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata
import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scale_toolkit import keys
from scale_toolkit.stages.cluster import kmeans_at_k


def one_run(data, k, seed, folder, min_peaks):
    """Seconds, then ARI and NMI of k-means and of the run's own clusters."""
    words = [
        "run",
        "-d",
        data,
        "-k",
        str(k),
        "--min_peaks",
        str(min_peaks),
        "--seed",
        str(seed),
        "-o",
        folder,
        "--quiet",
    ]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "scale_toolkit", *words], check=True)
    seconds = time.perf_counter() - started
    cells = anndata.read_h5ad(Path(folder) / "adata.h5ad")
    truth = cells.obs["cell_type"].astype(str)
    partitions = kmeans_at_k(keys.LATENT.get(cells), k, 10, seed), keys.CLUSTER.get(cells)
    scores = [
        score(truth, partition)
        for partition in partitions
        for score in (adjusted_rand_score, normalized_mutual_info_score)
    ]
    return cells.shape, [seconds, *scores]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", help="FILE K, one pair or more")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--min-peaks", type=float, default=50)
    args = parser.parse_args()
    print(
        "| data | seconds (slowest) | k-means ARI | k-means NMI | clusters' ARI | clusters' NMI "
        "|\n|---|---|---|---|---|---|"
    )
    for data, k in zip(args.data[::2], map(int, args.data[1::2]), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            runs = [one_run(data, k, seed, folder, args.min_peaks) for seed in range(args.seeds)]
        (n_cells, n_peaks), table = runs[0][0], np.array([figures for _, figures in runs])
        spread = table.std(0, ddof=1) if len(table) > 1 else np.zeros(5)
        figures = " | ".join(
            f"{m:.3f} ± {s:.3f}" for m, s in zip(table.mean(0)[1:], spread[1:], strict=True)
        )
        name = f"{Path(data).stem} {n_cells:,} × {n_peaks:,}"
        print(
            f"| {name} | {table[:, 0].mean():.0f} ({table[:, 0].max():.0f}) | {figures} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
