"""Fragments of cells with two copies of each chromosome, among them doublets with four.

Each copy of an accessible peak is open with probability 0.7. Tn5 cuts an open copy at a Poisson
number (mean 4) of positions; what lies between two neighbouring cuts is a fragment, which is
captured with a probability that sets the depth. So no base of one copy is covered twice. One
fragment in five lies anywhere. Some short repeats, collapsed in the assembly, are covered by many
fragments of any cell; one captured fragment in 500 occurs again, shifted by a few bases, as an
error in the removal of duplicates leaves it.

    python benchmarks/diploid.py [--capture P ...] [--seeds N]

prints, for each depth, how well `scale doublets --fragments` finds the doublets.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import roc_auc_score

import scale_toolkit as scale
from scale_toolkit.core.intervals import parse_names
from scale_toolkit.io.fragments import read_fragments

OPEN, CUTS, BACKGROUND, N_REPEATS, COPIED = 0.7, 4.0, 0.2, 20, 0.002


def diploid(
    *, share: float = 0.08, alike: float = 0.25, capture: float = 0.5, seed: int = 0, **options
) -> tuple[pd.DataFrame, pd.Index, pd.DataFrame]:
    """Return the truth about cells, the names of peaks, and the sorted fragments.

    Parameters
    ----------
    share
        Share of doublets.
    alike
        Share of the doublets whose two cells are of one type.
    capture
        Probability that a fragment is captured.
    seed
        Of every draw.
    **options
        Of `scale.simulate`.

    Returns
    -------
    ``is_doublet`` and ``is_alike`` of each barcode; peaks; ``chrom``, ``start``, ``end``,
    ``barcode``.
    """
    rng = np.random.default_rng(seed)
    single = scale.simulate(seed=seed, **options)
    n_doublets = round(share * single.n_obs / (1 + share))
    first, second = _pairs(single.obs["cell_type"].astype(str).to_numpy(), n_doublets, alike, rng)
    singlets = np.setdiff1d(np.arange(single.n_obs), np.concatenate([first, second]))
    owner = np.full(single.n_obs, -1)
    owner[singlets] = np.arange(len(singlets))
    owner[first] = owner[second] = len(singlets) + np.arange(n_doublets)
    peaks = parse_names(single.var_names)
    fragments = _fragments(sparse.csr_matrix(single.X), peaks, owner, capture, rng)
    n_cells = len(singlets) + n_doublets
    names = np.array([f"cell{number}" for number in range(n_cells)], dtype=object)
    fragments["barcode"] = names[fragments.pop("cell")]
    obs = pd.DataFrame(index=names)
    obs["is_doublet"] = np.arange(n_cells) >= len(singlets)
    types = single.obs["cell_type"].astype(str).to_numpy()
    obs["is_alike"] = False
    obs.loc[names[len(singlets) :], "is_alike"] = types[first] == types[second]
    return obs, single.var_names, fragments.sort_values(["chrom", "start"], kind="stable")


def _pairs(types, n_pairs, alike, rng):
    """Draw disjoint pairs of cells, a share of them of one type."""
    n_alike = round(alike * n_pairs)
    is_free = np.ones(len(types), bool)
    pairs = []
    for cell in rng.permutation(len(types)):
        is_same = types == types[cell]
        partners = np.flatnonzero(is_free & (is_same if len(pairs) < n_alike else ~is_same))
        partners = partners[partners != cell]
        if is_free[cell] and len(partners) and len(pairs) < n_pairs:
            partner = rng.choice(partners)
            is_free[[cell, partner]] = False
            pairs.append((cell, partner))
    return np.array(pairs).T


def _fragments(opened, peaks, owner, capture, rng):
    """Cut two copies of each cell's peaks, and add background, repeats and copies."""
    coo = opened.tocoo()
    tables = []
    for _ in range(2):
        is_open = rng.random(coo.nnz) < OPEN
        cell, peak = owner[coo.row[is_open]], coo.col[is_open]
        n_cuts = rng.poisson(CUTS, len(cell))
        row = np.repeat(np.arange(len(cell)), n_cuts)
        width = (peaks["end"] - peaks["start"]).to_numpy()[peak[row]]
        cut = peaks["start"].to_numpy()[peak[row]] + np.floor(rng.random(len(row)) * width)
        order = np.lexsort([cut, row])
        row, cut = row[order], cut[order].astype(np.int64)
        is_pair = (row[1:] == row[:-1]) & (cut[1:] > cut[:-1])
        is_pair &= rng.random(len(is_pair)) < capture
        captured = row[:-1][is_pair]
        tables.append(
            pd.DataFrame(
                {
                    "chrom": peaks["chrom"].to_numpy()[peak[captured]],
                    "start": cut[:-1][is_pair],
                    "end": cut[1:][is_pair],
                    "cell": cell[captured],
                }
            )
        )
    table = pd.concat(tables, ignore_index=True)
    last = peaks.groupby("chrom")["end"].max()
    extra = table.iloc[rng.integers(0, len(table), round(BACKGROUND * len(table)))].copy()
    extra["start"] = (rng.random(len(extra)) * extra["chrom"].map(last)).astype(np.int64)
    extra["end"] = extra["start"] + rng.integers(40, 400, len(extra))
    copies = table.iloc[rng.integers(0, len(table), round(COPIED * len(table)))].copy()
    copies[["start", "end"]] += rng.integers(1, 4, (len(copies), 1))
    depth = np.bincount(table["cell"])
    tables = [table, extra, copies]
    for _ in range(N_REPEATS):
        chrom = rng.choice(last.index)
        start = rng.integers(0, last[chrom])
        cell = np.repeat(np.arange(len(depth)), rng.poisson(4 * depth / depth.mean()))
        begin = start + rng.integers(0, 200, len(cell))
        tables.append(
            pd.DataFrame({"chrom": chrom, "start": begin, "end": begin + 150, "cell": cell})
        )
    return pd.concat(tables, ignore_index=True)


def figures(capture, seed, options):
    """Return AUROC, precision and recall of the score, of fragments and of both, with counts."""
    truth, peaks, fragments = diploid(capture=capture, seed=seed, **options)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/fragments.tsv"
        columns = ["chrom", "start", "end", "barcode"]
        fragments[columns].assign(copies=1).to_csv(path, sep="\t", header=False, index=False)
        cells = read_fragments(path, parse_names(peaks), barcodes=list(truth.index))
        cells.obs = cells.obs.join(truth)
        scale.pp.prepare(cells, min_peaks=1, min_cells=1)
        scale.tl.train(cells, seed=seed)
        scale.tl.doublets(cells, fragments=path, seed=seed)
    truth, alike = (cells.obs[name].to_numpy() for name in ("is_doublet", "is_alike"))
    score, sites = (cells.obs[name].to_numpy() for name in ("doublet_score", "doublet_sites"))
    by_score = score > cells.uns["scale_doublets"]["threshold"]
    by_sites = cells.obs["doublet_sites_pval_adj"].to_numpy() <= 0.01
    row = {"fragments": float(np.median(cells.obs["n_fragments"]))}
    for name, values in (("score", score), ("sites", sites)):
        row[f"AUROC {name}"] = roc_auc_score(truth, values)
        row[f"one type, {name}"] = roc_auc_score(alike[~truth | alike], values[~truth | alike])
    for name, called in (("score", by_score), ("sites", by_sites), ("either", by_score | by_sites)):
        row[f"precision {name}"] = truth[called].mean() if called.any() else np.nan
        row[f"recall {name}"] = called[truth].mean()
        row[f"recall one type, {name}"] = called[alike].mean()
    return row


def main():
    """Print a table in Markdown, a row for each probability of capture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--capture", nargs="*", type=float, default=[0.05, 0.15, 0.3, 0.8])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cells", type=int, default=800)
    parser.add_argument("--peaks", type=int, default=10_000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    options = {"n_cells": arguments.cells, "n_peaks": arguments.peaks, "n_clusters": 6}
    for number, capture in enumerate(arguments.capture):
        rows = pd.DataFrame(figures(capture, seed, options) for seed in range(arguments.seeds))
        if number == 0:
            print("| capture | " + " | ".join(rows) + " |\n" + "|---" * (rows.shape[1] + 1) + "|")
        means = " | ".join(f"{mean:.3g}" for mean in rows.mean())
        print(f"| {capture:g} | {means} |", flush=True)


if __name__ == "__main__":
    main()
