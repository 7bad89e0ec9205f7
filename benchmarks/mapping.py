"""Half of each labelled set mapped to the other: ``python benchmarks/mapping.py SET.h5ad ...``.

The reference is a random half of each type, trained by default. The query is the other half on
other peaks: a third dropped; of the others 20 % merged with the next one, 20 % split in two (each
read goes to a random half) and 40 % shifted by up to 0.4 of their width. Each type with 20 or more
cells in the query is left out of the reference once, if two types remain.

Columns: mean AUROC of novelty for the type left out; share of the cells of known types with p at
most 0.05, and called; share of the cells of the type left out that are called; accuracy of the
labels of known types, and their mean confidence; the same accuracy after training on both halves
on the original peaks, and on the query's peaks (nearest neighbours in the latent space); the share
of the decoder's weight that was covered.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import anndata
import numpy as np
from scipy import sparse
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.core.carried import carry_cells, overlap_shares
from scale_toolkit.core.intervals import parse_names

LABEL = "cell_type"
FEWEST = 20


def read(path: Path, most: int) -> anndata.AnnData:
    """Read a set; peaks without an interval in their name get one."""
    cells = anndata.read_h5ad(path)
    cells.X = sparse.csr_matrix(cells.X)
    if most and cells.n_obs > most:
        cells = cells[np.random.default_rng(0).permutation(cells.n_obs)[:most]].copy()
    if parse_names(cells.var_names)["chrom"].isna().any():
        cells.var_names = [f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(cells.n_vars)]
    cells.obs[LABEL] = cells.obs[LABEL].astype(str)
    return cells


def first_half(types: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a random half of the cells of each type, as a mask."""
    chosen = np.zeros(len(types), bool)
    for name in np.unique(types):
        members = rng.permutation(np.flatnonzero(types == name))
        chosen[members[: len(members) // 2]] = True
    return chosen


def on_other_peaks(cells: anndata.AnnData, rng: np.random.Generator) -> anndata.AnnData:
    """Drop, merge, split and shift peaks."""
    table = parse_names(cells.var_names)
    order = np.lexsort((table["start"], table["chrom"]))
    counts = sparse.csc_matrix(cells.X)
    is_binary = counts.max() == 1
    columns: dict[str, sparse.csc_matrix] = {}
    skipped = -1
    for position, peak in enumerate(order):
        if position == skipped or rng.random() < 1 / 3:
            continue
        chrom, start, end = table.iloc[peak]
        column, width, kind = counts[:, [peak]], end - start, rng.random()
        following = order[position + 1] if position + 1 < len(order) else peak
        gap = table["start"][following] - end
        if kind < 0.2 and following != peak and table["chrom"][following] == chrom and gap < 5000:
            column, end = column + counts[:, [following]], max(end, table["end"][following])
            columns[f"{chrom}:{start}-{end}"] = column.sign() if is_binary else column
            skipped = position + 1
        elif 0.2 <= kind < 0.4 and width > 20:
            middle = (start + end) // 2
            reads = column.toarray().astype(int)
            first = rng.binomial(reads, 0.5)
            columns[f"{chrom}:{start}-{middle}"] = sparse.csc_matrix(first)
            columns[f"{chrom}:{middle}-{end}"] = sparse.csc_matrix(reads - first)
        else:
            shift = int(rng.uniform(-0.4, 0.4) * width) if kind < 0.8 else 0
            columns[f"{chrom}:{max(start + shift, 0)}-{end + shift}"] = column
    counts = sparse.hstack(list(columns.values())).tocsr().astype(np.float32)
    result = anndata.AnnData(counts, obs=cells.obs[[LABEL]].copy())
    result.var_names = list(columns)
    return result


def trained(cells: anndata.AnnData, seed: int) -> anndata.AnnData:
    """Train by default on all cells."""
    cells = cells.copy()
    scale.pp.prepare(cells, min_peaks=1, min_cells=1)
    scale.tl.train(cells, seed=seed, n_threads=1)
    return cells


def neighbour_labels(latent: np.ndarray, labels: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return the labels of the 15 nearest neighbours."""
    return KNeighborsClassifier(15).fit(latent, labels).predict(new)


def figures(cells: anndata.AnnData, seed: int) -> dict[str, float]:
    """Map once for each type left out and once with all types, and compare with the truth."""
    rng = np.random.default_rng(seed)
    types = cells.obs[LABEL].to_numpy()
    is_first = first_half(types, rng)
    query = on_other_peaks(cells[~is_first].copy(), rng)
    truth = query.obs[LABEL].to_numpy()
    joint_cells = trained(cells, seed)
    latent = keys.LATENT.get(joint_cells)
    names, counts = np.unique(truth, return_counts=True)
    omitted = [name for name, count in zip(names, counts, strict=True) if count >= FEWEST]
    rows = []
    shared = np.empty(0)
    for name in [None, *(omitted if len(names) > 2 else [])]:
        in_reference = is_first & (types != name)
        reference = trained(cells[in_reference].copy(), seed)
        if name is None:
            shares, _ = overlap_shares(reference.var_names, query.var_names)
            opened = sparse.csr_matrix(reference.X).sign()
            joined = sparse.vstack([carry_cells(opened, shares, rng), query.X]).tocsr()
            joined = anndata.AnnData(joined, var=query.var[[]])
            scale.tl.train(joined, seed=seed, n_threads=1)
            shared = keys.LATENT.get(joined)
        mapped = scale.map(
            query.copy(), reference=reference, labels=(LABEL,), seed=seed, n_threads=1
        )
        known = truth != name
        label, confidence = (slot.get(mapped).to_numpy() for slot in keys.label_slots(LABEL))
        called = keys.NOT_IN_REFERENCE.get(mapped).to_numpy()
        in_types = types[is_first] != name
        joint = neighbour_labels(latent[in_reference], types[in_reference], latent[~is_first])
        on_shared = neighbour_labels(
            shared[: is_first.sum()][in_types], types[is_first][in_types], shared[is_first.sum() :]
        )
        novel = (
            {}
            if name is None
            else {
                "AUROC": roc_auc_score(~known, keys.NOVELTY.get(mapped)),
                "new called": called[~known].mean(),
            }
        )
        rows.append(
            novel
            | {
                "known p ≤ 0.05": (keys.NOVELTY_P.get(mapped)[known] <= 0.05).mean(),
                "known called": called[known].mean(),
                "accuracy": (label == truth)[known].mean(),
                "confidence": confidence[known].mean(),
                "both": (joint == truth)[known].mean(),
                "both, shared peaks": (on_shared == truth)[known].mean(),
                "weight": keys.MAPPING.get(mapped)["weight"],
            }
        )
    columns = list(dict.fromkeys(column for row in rows[::-1] for column in row))
    return {
        column: float(np.mean([row[column] for row in rows if column in row])) for column in columns
    }


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most-cells", type=int, default=0, help="random cells of each set")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    header: list[str] = []
    for path in arguments.sets:
        row = figures(read(path, arguments.most_cells), arguments.seed)
        if not header:
            header = list(row)
            print("| set | " + " | ".join(header) + " |")
            print("|---" * (len(header) + 1) + "|", flush=True)
        values = [f"{row[column]:.3f}" if column in row else "" for column in header]
        print(f"| {path.stem} | " + " | ".join(values) + " |", flush=True)


if __name__ == "__main__":
    main()
