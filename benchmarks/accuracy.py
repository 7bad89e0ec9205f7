"""How well the latent space separates known cell types: ARI and NMI over seeds, mean and spread.

    python benchmarks/accuracy.py --data FOLDER [--sets leukemia,forebrain] [--seeds 5] [--min-peaks 1] [--preset fast]

FOLDER holds labelled h5ad files (``obs['cell_type']``). Two readings of one latent space: k-means at the true number of
classes (10 restarts), and Leiden at the resolution that gives that number, on 15 neighbours (30 above 1,000 cells). A plain
TF-IDF + SVD space of the identical matrix is read the same way. Labels are used to read, never to train.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
from scipy.sparse.linalg import svds
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.errors import ScaleWarning
from scale_toolkit.stages.cluster import kmeans_at_k, leiden_at_k

SETS = "leukemia,forebrain,bone_marrow,aml_patients,tiny_two_lines"


def tfidf_svd(counts, n=30, seed=0):
    """log1p(10⁴ · count / row sum · log(1 + cells / peak count)), SVD of n + 1, the first dropped, rows to unit length."""
    x = counts.astype(np.float64).tocsr()
    row, column = np.asarray(x.sum(1)).ravel(), np.asarray(x.sum(0)).ravel()
    x.data = np.log1p(1e4 * x.data / np.repeat(row, np.diff(x.indptr)) * np.log(1 + x.shape[0] / column)[x.indices])
    u, s, _ = svds(x, k=n + 1, v0=np.random.default_rng(seed).uniform(-1, 1, min(x.shape)))
    z = (u * s)[:, np.argsort(-s)[1:]]
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def readings(latent, labels, seed):
    """ARI and NMI of k-means and of Leiden at the true number of classes: four figures."""
    k = len(set(labels))
    found = kmeans_at_k(latent, k, 10, seed), leiden_at_k(latent, k, 15 if len(labels) <= 1000 else 30, seed)
    return [score(labels, one) for one in found for score in (adjusted_rand_score, normalized_mutual_info_score)]


def measure(name, cells, args):
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    ours, plain, seconds, gains = [], [], [], []
    for seed in range(args.seeds):
        started = time.perf_counter()
        trained = scale.train(cells.copy(), seed=seed, preset=args.preset, n_threads=args.n_threads)
        seconds.append(time.perf_counter() - started)
        history = keys.HISTORY.get(trained)
        if "held_out" in history:
            best = scale.receipts(trained)[-1]["notes"]["best_epoch"]
            gains.append(history["held_out"][best] - history["held_out"][0])
        ours.append(readings(keys.LATENT.get(trained), labels, seed))
        plain.append(readings(tfidf_svd(cells.X, min(30, min(cells.shape) - 2), seed), labels, seed))
    for method, table in ((f"scale --preset {args.preset}", ours), ("TF-IDF + SVD", plain)):
        mean, spread = np.mean(table, 0), np.std(table, 0, ddof=1) if len(table) > 1 else np.zeros(4)
        figures = " | ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True))
        extra = f"{np.mean(seconds):.1f} | {np.mean(gains):+.3f}" if method.startswith("scale") and gains else " | "
        print(f"| {name} {cells.n_obs:,} × {cells.n_vars:,} | {method} | {figures} | {extra} |", flush=True)
    return np.mean(ours, 0), np.mean(plain, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--min-peaks", type=float, default=1)
    parser.add_argument("--min-cells", type=float, default=1)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--n-threads", type=int, default=0)
    args = parser.parse_args()
    warnings.simplefilter("ignore", ScaleWarning)
    print("| data | method | k-means ARI | k-means NMI | Leiden ARI | Leiden NMI | train s | held-out gain, nats a peak |")
    print("|---|---|---|---|---|---|---|---|")
    means = []
    for name in args.sets.split(","):
        cells = anndata.read_h5ad(args.data / f"{name}.h5ad")
        cells = scale.prepare(cells, min_peaks=args.min_peaks, min_cells=args.min_cells)
        means.append(measure(name, cells, args))
    for method, mean in zip((f"scale --preset {args.preset}", "TF-IDF + SVD"), np.mean(means, 0), strict=True):
        print(f"| mean over sets | {method} | " + " | ".join(f"{value:.3f}" for value in mean) + " | | |")


if __name__ == "__main__":
    main()
