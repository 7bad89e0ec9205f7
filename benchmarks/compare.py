"""Accuracy of every method on the same cells, judged on random subsamples: tables and a figure.

    python benchmarks/compare.py --data FOLDER --out results.jsonl [--repeats 8] [--figure FILE]
    python benchmarks/compare.py --data FOLDER --out results.jsonl --repeats 0    # only the tables

FOLDER holds labelled h5ad files (``obs['cell_type']``). Each repeat draws 80 % of a set's cells (30
% of more than 5,000), keeps every peak that is open in any of them, and gives that matrix to every
method with the repeat's number as seed; so differences between methods are paired. Each result is a
line of JSON, written as soon as it is there: a stopped run goes on, a method added later runs
alone.

Three readings of a latent space: ARI of k-means at the true number of types (10 restarts), ARI of
Leiden at the resolution that gives that number (15 neighbours, 30 above 1,000 cells), and the share
of a cell's 15 nearest neighbours that are of its type (purity). Labels only read, never train.
Peers (`methods.py`) that are not installed are reported and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import anndata
import numpy as np
from methods import latent_space
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from scale_toolkit.stages.cluster import kmeans_at_k, leiden_at_k

SETS = (
    "leukemia,forebrain,bone_marrow,aml_patients,tiny_two_lines,tiny_blood,"
    "pbmc_two_clusters,cerebellum,forebrain_all_peaks,snareseq"
)
METHODS = "scale,start,tfidf-svd,snapatac2,snapatac2:unit,signac-lsi,scopen,cistopic"
READINGS = ("kmeans", "leiden", "purity")
OURS = ("scale", "start")


def subsample(path: Path, repeat: int) -> tuple[anndata.AnnData, np.ndarray]:
    """Random cells of a set with all their open peaks, and their labels."""
    cells = anndata.read_h5ad(path)
    labels = cells.obs["cell_type"].astype(str).to_numpy()
    counts = cells.X.tocsr().astype(np.float32)
    counts.eliminate_zeros()
    usable = np.flatnonzero((labels != "nan") & (np.diff(counts.indptr) > 0))
    share = 0.8 if len(usable) <= 5000 else 0.3
    rng = np.random.default_rng(1000 + repeat)
    drawn = np.sort(rng.choice(usable, int(share * len(usable)), replace=False))
    counts = counts[drawn]
    peaks = np.flatnonzero(np.bincount(counts.indices, minlength=counts.shape[1]))
    return anndata.AnnData(counts[:, peaks].tocsr()), labels[drawn]


def purity(latent: np.ndarray, labels: np.ndarray, n: int = 15) -> float:
    """Mean share of the `n` nearest other cells that are of a cell's own type."""
    search = NearestNeighbors(n_neighbors=n, algorithm="brute").fit(latent)
    neighbours = search.kneighbors(return_distance=False)
    return float((labels[neighbours] == labels[:, None]).mean())


def read(latent: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
    """The three readings of a latent space."""
    k = len(set(labels))
    latent = latent.astype(np.float64)
    leiden = leiden_at_k(latent, k, 15 if len(labels) <= 1000 else 30, seed)
    return {
        "kmeans": float(adjusted_rand_score(labels, kmeans_at_k(latent, k, 10, seed))),
        "leiden": float(adjusted_rand_score(labels, leiden)),
        "purity": purity(latent, labels),
    }


def run(args: argparse.Namespace, results: dict[tuple[str, str, int], dict]) -> None:
    """Make what is missing, one line of JSON for each method, set and repeat."""
    missing: set[str] = set()
    for repeat in range(args.repeats):
        for name in args.sets.split(","):
            todo = [m for m in args.methods.split(",") if (name, m, repeat) not in results]
            if not set(todo) - missing:
                continue
            cells, labels = subsample(args.data / f"{name}.h5ad", repeat)
            for method in todo:
                if method in missing:
                    continue
                try:
                    latent, facts = latent_space(method, cells.copy(), repeat, args.n_threads)
                except ImportError as error:
                    print(f"{method} could not run: {error}", file=sys.stderr)
                    missing.add(method)
                    continue
                line = {"set": name, "method": method, "repeat": repeat}
                results[name, method, repeat] = line | read(latent, labels, repeat) | facts
                with args.out.open("a") as out:
                    out.write(json.dumps(results[name, method, repeat]) + "\n")


def scores(results: dict, name: str, method: str) -> dict[int, np.ndarray]:
    """The readings of one method on one set, by repeat."""
    return {
        repeat: np.array([line[reading] for reading in READINGS])
        for (a_set, a_method, repeat), line in results.items()
        if (a_set, a_method) == (name, method)
    }


def tables(results: dict, sets: list[str], methods: list[str]) -> None:
    """Print the readings by set, their means, paired differences and the leave-one-set-out
    table.
    """
    by_set = {(n, m): scores(results, n, m) for n in sets for m in methods}
    sets = [n for n in sets if by_set[n, methods[0]]]
    methods = [m for m in methods if all(by_set[n, m] for n in sets)]
    mean = {(n, m): np.mean(list(by_set[n, m].values()), 0) for n in sets for m in methods}

    def words(values: np.ndarray, sign: str = "") -> str:
        return " / ".join(f"{value:{sign}.3f}" for value in values)

    print(
        "| k-means / Leiden / purity | "
        + " | ".join(methods)
        + " |\n|---"
        + "|---" * len(methods)
        + "|"
    )
    for n in sets:
        spread = {m: np.std(list(by_set[n, m].values()), 0) for m in methods}
        cells = [f"{words(mean[n, m])} (± {words(spread[m])})" for m in methods]
        print(f"| {n} ({len(by_set[n, methods[0]])}) | " + " | ".join(cells) + " |")
    overall = {m: np.mean([mean[n, m] for n in sets], 0) for m in methods}
    print("| mean over sets | " + " | ".join(words(overall[m]) for m in methods) + " |")

    print(
        f"\n| {methods[0]} less … | mean difference | worst set: k-means, Leiden, purity "
        "|\n|---|---|---|"
    )
    for m in methods[1:]:
        paired = {}
        for n in sets:
            ours, theirs = by_set[n, methods[0]], by_set[n, m]
            paired[n] = np.mean([ours[r] - theirs[r] for r in ours.keys() & theirs.keys()], 0)
        worst = [min(sets, key=lambda n, i=i: paired[n][i]) for i in range(3)]
        named = ", ".join(f"{w} {paired[w][i]:+.3f}" for i, w in enumerate(worst))
        print(f"| {m} | {words(np.mean(list(paired.values()), 0), '+')} | {named} |")

    peers = [m for m in methods if m not in OURS]
    variants = [m for m in methods if m in OURS]
    if not peers or not variants:
        return
    print(
        "\n| left out | chosen on the others | it reads there | best peer on the others | it "
        "reads there |"
    )
    print("|---|---|---|---|---|")
    for n in sets:
        other_sets = [other_set for other_set in sets if other_set != n]
        best = [
            max(kind, key=lambda m: np.mean([mean[other_set, m] for other_set in other_sets]))
            for kind in (variants, peers)
        ]
        print(f"| {n} | " + " | ".join(f"{m} | {words(mean[n, m])}" for m in best) + " |")


def draw(results: dict, sets: list[str], methods: list[str], path: Path) -> None:
    """Draw mean and 95 % interval over repeats of each reading: a row of panels, a line a set."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    sets = [n for n in sets if scores(results, n, methods[0])]
    colours = (
        "#0072b2",
        "#56b4e9",
        "#e69f00",
        "#009e73",
        "#cc79a7",
        "#d55e00",
        "#999999",
        "#f0e442",
    )
    size = (10, 0.5 * len(sets) + 1.6)
    figure, axes = plt.subplots(1, 3, figsize=size, sharey=True, layout="constrained")
    titles = ("ARI, k-means", "ARI, Leiden", "purity of 15 neighbours")
    for i, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for j, method in enumerate(methods):
            values = {n: [v[i] for v in scores(results, n, method).values()] for n in sets}
            rows = [k for k, n in enumerate(sets) if values[n]]
            centre = [np.mean(values[sets[k]]) for k in rows]
            half = [1.96 * np.std(values[sets[k]]) / np.sqrt(len(values[sets[k]])) for k in rows]
            height = np.array(rows) + (j - (len(methods) - 1) / 2) * 0.1
            axis.errorbar(
                centre, height, xerr=half, fmt="o", ms=3.5, lw=1, color=colours[j], label=method
            )
        axis.set(xlabel=title, xlim=(0, 1))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", lw=0.3)
    axes[0].set_yticks(range(len(sets)), [n.replace("_", " ") for n in sets])
    axes[0].invert_yaxis()
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, ncols=4, frameon=False, loc="outside upper center")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run and report."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--n-threads", type=int, default=1)
    parser.add_argument("--figure", type=Path, help="write the figure here")
    args = parser.parse_args()
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    results = {(r["set"], r["method"], r["repeat"]): r for r in map(json.loads, lines)}
    run(args, results)
    tables(results, args.sets.split(","), args.methods.split(","))
    if args.figure:
        draw(results, args.sets.split(","), args.methods.split(","), args.figure)


if __name__ == "__main__":
    main()
