"""Accuracy of every method on the same matrices: run them, read their latent spaces with one code, write table and figure.

    python benchmarks/compare.py --data FOLDER --out FOLDER [--peers PYTHON] [--seeds 5] [--jobs 2]

FOLDER of --data holds labelled h5ad files (``obs['cell_type']``); PYTHON is the one of ``benchmarks/peers/install``; without it
only this project's own methods run. Each latent space is kept in --out and made only once, so a stopped run goes on.

Two readings: k-means at the true number of classes (10 restarts), and Leiden at the resolution that gives that number, on 15
neighbours (30 above 1,000 cells). The seed of a reading is that of the run. Labels are used to read, never to train. The
difference to each peer is bootstrapped over cells and seeds together (1,000 draws; ARI of the drawn cells).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata
import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import scale_toolkit as scale
from scale_toolkit.stages.cluster import kmeans_at_k, leiden_at_k

SETS = "leukemia,forebrain,bone_marrow,aml_patients,tiny_two_lines"
METHODS = "scale,tfidf-svd,snapatac2,peakvi"
HERE = Path(__file__).parent
READINGS = ("k-means", "Leiden")


def matrix(name, args):
    """The cells and peaks every method gets, written once: all that are open anywhere."""
    path = args.out / f"{name}.h5ad"
    if not path.exists():
        cells = scale.prepare(anndata.read_h5ad(args.data / f"{name}.h5ad"), min_peaks=1, min_cells=1)
        anndata.AnnData(cells.X, obs=cells.obs[["cell_type"]], var=cells.var[[]]).write_h5ad(path)
    return path


def run(method, name, seed, args):
    """Make one latent space, unless it is there."""
    out = args.out / f"{method.replace(':', '-')}_{name}_{seed}.npz"
    if out.exists():
        return
    ours = method.startswith("scale") or (method == "tfidf-svd" and not args.peers)
    python = sys.executable if ours else args.peers
    extra = ["--lr", "1e-3"] if method == "peakvi" else []  # fits small sets as well as 1e-4 does, in a twentieth of the time
    command = [python, HERE / "methods.py", method, matrix(name, args), out, "--seed", seed, "--n-threads", args.n_threads]
    done = subprocess.run([str(word) for word in [*command, *extra]], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{method} {name} {seed} failed: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)


def read(method, name, seed, labels, args):
    """Clusters of one latent space by both readings, and what the method said of itself; None where there is none."""
    out = args.out / f"{method.replace(':', '-')}_{name}_{seed}.npz"
    if not out.exists():
        return None
    kept = np.load(out)
    latent, k = kept["latent"], len(set(labels))
    found = kmeans_at_k(latent, k, 10, seed), leiden_at_k(latent, k, 15 if len(labels) <= 1000 else 30, seed)
    return found, json.loads(str(kept["facts"]))


def bootstrap(labels, ours, theirs, draws=1000):
    """95 % interval of the mean difference in ARI over seeds, cells and seeds drawn anew: (low, high)."""
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(draws):
        cells = rng.integers(0, len(labels), len(labels))
        a, b = (one[rng.integers(len(one))][cells] for one in (ours, theirs))
        differences.append(adjusted_rand_score(labels[cells], a) - adjusted_rand_score(labels[cells], b))
    return np.quantile(differences, [0.025, 0.975])


def draw(table, sets, methods, path):
    """Mean and spread of both readings, a group of bars a set."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    colours = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
    width = 0.8 / len(methods)
    for axis, reading in zip(axes, (0, 1), strict=True):
        for i, method in enumerate(methods):
            scores = [table[name, method][:, 2 * reading] for name in sets if (name, method) in table]
            places = [j for j, name in enumerate(sets) if (name, method) in table]
            means, spread = [s.mean() for s in scores], [s.std() for s in scores]
            where = np.array(places) + (i - (len(methods) - 1) / 2) * width
            axis.bar(where, means, width * 0.92, yerr=spread, color=colours[i % len(colours)], label=method, capsize=2)
        axis.set(ylabel=f"ARI, {READINGS[reading]}", ylim=(0, 1))
        axis.spines[["top", "right"]].set_visible(False)
    axes[1].set_xticks(range(len(sets)), [name.replace("_", " ") for name in sets])
    axes[0].legend(ncols=len(methods), frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(path, dpi=130)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", help="Python of the peers' environment")
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side; seconds are fair only with 1")
    parser.add_argument("--n-threads", type=int, default=1)
    parser.add_argument("--figure", type=Path, help="write the figure here")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sets, methods = args.sets.split(","), args.methods.split(",")
    for name in sets:
        matrix(name, args)
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda work: run(*work, args), [(m, n, s) for s in range(args.seeds) for n in sets for m in methods]))

    table, clusters = {}, {}
    print("| data | method | seeds | k-means ARI | NMI | Leiden ARI | NMI | seconds | held-out gain, nats a peak |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in sets:
        cells = anndata.read_h5ad(args.out / f"{name}.h5ad")
        labels = cells.obs["cell_type"].astype(str).to_numpy()
        for method in methods:
            runs = [one for seed in range(args.seeds) if (one := read(method, name, seed, labels, args))]
            if not runs:
                continue
            clusters[name, method] = [found for found, _ in runs]
            scores = [
                [score(labels, one) for one in found for score in (adjusted_rand_score, normalized_mutual_info_score)]
                for found, _ in runs
            ]
            table[name, method] = np.array(scores)
            mean, spread = np.mean(scores, 0), np.std(scores, 0, ddof=1) if len(scores) > 1 else np.zeros(4)
            figures = " | ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True))
            gains = [fact["held_out_end"] - fact["held_out_start"] for _, fact in runs if "held_out_end" in fact]
            gain = f"{np.mean(gains):+.3f} (least {min(gains):+.3f})" if gains else ""
            seconds = np.mean([fact["seconds"] for _, fact in runs])
            print(
                f"| {name} {cells.n_obs:,} × {cells.n_vars:,} | {method} | {len(runs)} | {figures} | {seconds:.1f} | {gain} |"
            )
    for method in methods:
        if all((name, method) in table for name in sets):
            mean = np.mean([table[name, method].mean(0) for name in sets], 0)
            print(f"| mean over sets | {method} | | " + " | ".join(f"{value:.3f}" for value in mean) + " | | |")

    print("\n| data | against | k-means ARI difference, 95 % interval | Leiden |\n|---|---|---|---|")
    for name in sets:
        labels = anndata.read_h5ad(args.out / f"{name}.h5ad").obs["cell_type"].astype(str).to_numpy()
        for method in methods[1:]:
            if (name, method) not in table or (name, methods[0]) not in table:
                continue
            words = []
            for reading in (0, 1):
                ours, theirs = ([found[reading] for found in clusters[name, m]] for m in (methods[0], method))
                low, high = bootstrap(labels, ours, theirs)
                difference = (table[name, methods[0]] - table[name, method].mean(0)).mean(0)[2 * reading]
                words.append(f"{difference:+.3f} ({low:+.3f} to {high:+.3f})")
            print(f"| {name} | {method} | {words[0]} | {words[1]} |")
    if args.figure:
        draw(table, sets, methods, args.figure)


if __name__ == "__main__":
    main()
