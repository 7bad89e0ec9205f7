"""Clusters without a number: `cluster`'s default beside Leiden at resolution 1.

For each labelled set and each simulated one with uneven types: train once, cluster with three
seeds, and print the number of clusters, ARI, the lowest ARI between two seeds, and the result for
other values of `core.boundaries.MAX_RATIO`. The last lines choose that value leave-one-set-out.

    python benchmarks/clusters_without_k.py --data FOLDER [--sets leukemia forebrain] [--simulated]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
from sklearn.metrics import adjusted_rand_score

from scale_toolkit import keys
from scale_toolkit.core.boundaries import MAX_RATIO, find_splits
from scale_toolkit.core.leiden import LeidenGraph
from scale_toolkit.stages._latent import latent_of, neighbor_graph
from scale_toolkit.stages.prepare import prepare
from scale_toolkit.stages.simulate import simulate
from scale_toolkit.stages.train import train

SETS = (
    "tiny_two_lines",
    "tiny_blood",
    "leukemia",
    "aml_patients",
    "bone_marrow",
    "cerebellum",
    "forebrain",
    "pbmc_two_clusters",
)
RATIOS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.5)
#: Types, cells, open peaks, share of the rarest type.
SIMULATED = (
    (4, 1_000, 600, 0.01),
    (5, 600, 600, 0.05),
    (6, 1_200, 600, 0.02),
    (8, 1_500, 600, 0.01),
    (10, 1_500, 400, 0.02),
    (12, 2_500, 600, 0.01),
    (16, 2_500, 800, 0.01),
    (20, 3_000, 800, 0.01),
)
SEEDS = (1, 2, 3)


def uneven_types(
    n_types: int, n_cells: int, open_peaks: int, rarest: float, seed: int
) -> anndata.AnnData:
    """Simulate more cells than needed and thin the types to geometric sizes."""
    rng = np.random.default_rng(seed)
    shares = np.geomspace(rarest, rarest * (20 if rarest <= 0.01 else 8), n_types)
    for _ in range(50):
        shares = np.maximum(shares / shares.sum(), rarest)
    sizes = np.maximum(np.round(shares / shares.sum() * n_cells), 1).astype(int)
    cells = simulate(
        n_clusters=n_types,
        n_cells=int(sizes.max() * n_types * 1.4),
        n_peaks=8_000,
        open_peaks=open_peaks,
        seed=seed,
    )
    types = cells.obs["cell_type"].astype(str).to_numpy()
    chosen = []
    for name, size in zip(rng.permutation(np.unique(types)), sizes, strict=True):
        members = np.flatnonzero(types == name)
        chosen.append(rng.choice(members, min(size, len(members)), replace=False))
    return cells[np.sort(np.concatenate(chosen))].copy()


def data_sets(arguments: argparse.Namespace) -> Iterator[tuple[str, anndata.AnnData]]:
    """Yield each set's name and its prepared cells."""
    for name in arguments.sets:
        yield (
            name,
            prepare(anndata.read_h5ad(arguments.data / f"{name}.h5ad"), min_peaks=1, min_cells=3),
        )
    if arguments.simulated:
        for position, sizes in enumerate(SIMULATED):
            cells = uneven_types(*sizes, seed=100 + position)
            yield f"{sizes[0]} simulated types", prepare(cells, min_peaks=1, min_cells=3)


def main() -> None:
    """Print one line a set, then the leave-one-set-out choice."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--simulated", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    scores: dict[str, list[float]] = {}
    for name, cells in data_sets(arguments):
        cells = train(cells, seed=1)
        truth, latent = cells.obs["cell_type"].astype(str).to_numpy(), latent_of(cells)
        weights = keys.CONNECTIVITIES.get(neighbor_graph(latent, 30, seed=1))
        started = time.perf_counter()
        graphs = [LeidenGraph(weights, seed) for seed in SEEDS]
        splits = [
            find_splits(latent, weights, graph, seed)
            for graph, seed in zip(graphs, SEEDS, strict=True)
        ]
        seconds = (time.perf_counter() - started) / len(SEEDS)
        at_resolution_1 = graphs[0].partition(1.0)
        scores[name] = []
        for ratio in RATIOS:
            partitions = [split.partition(split.recommend(ratio)) for split in splits]
            scores[name].append(
                float(np.mean([adjusted_rand_score(truth, labels) for labels in partitions]))
            )
        labels = [split.partition(split.recommend()) for split in splits]
        between = min(
            adjusted_rand_score(labels[i], labels[j]) for i, j in ((0, 1), (0, 2), (1, 2))
        )
        print(
            f"{name}: {len(np.unique(truth))} types; resolution 1: {at_resolution_1.max() + 1} "
            "clusters, ARI "
            f"{adjusted_rand_score(truth, at_resolution_1):.2f}; default: "
            f"{[int(partition.max()) + 1 for partition in labels]}, ARI "
            f"{scores[name][RATIOS.index(MAX_RATIO)]:.2f}, between seeds {between:.2f}; "
            f"{seconds:.1f} s; "
            + ", ".join(
                f"{ratio}: {score:.2f}" for ratio, score in zip(RATIOS, scores[name], strict=True)
            ),
            flush=True,
        )
    for name in scores if len(scores) > 1 else ():
        other_scores = np.mean(
            [values for rival, values in scores.items() if rival != name], axis=0
        )
        chosen = int(np.argmax(other_scores))
        print(f"without {name}: {RATIOS[chosen]}, ARI {scores[name][chosen]:.2f} on it")


if __name__ == "__main__":
    main()
