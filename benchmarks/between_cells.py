"""How well imputed values separate known kinds of cells, beside raw counts and neighbour averages.

    python benchmarks/between_cells.py --data FOLDER --out FOLDER [--seeds 3] [--sets NAME,NAME]

Every set whole (min_peaks 1, min_cells 1) with default options. For each label of
``obs['cell_type']``, twenty marker peaks are picked on half of the cells, and read on the other
half (`core.separation`): the figure is the mean area under the ROC curve over markers and labels.
A seed is that of the training and of the halves. Each figure is kept in --out and made only once.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anndata
import numpy as np

import scale_toolkit as scale
from scale_toolkit.config import ImputeConfig
from scale_toolkit.stages.validate import read_between_cells

SETS = (
    "leukemia,forebrain,bone_marrow,aml_patients,cerebellum,tiny_two_lines,tiny_blood,"
    "pbmc_two_clusters,forebrain_all_peaks,snareseq"
)
READINGS = ("raw", "neighbours", "own", "equal")


def areas(name: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Return the mean area under the curve of each reading, for one set and seed."""
    path = args.out / f"{name}_{seed}.json"
    if not path.exists():
        cells = anndata.read_h5ad(args.data / f"{name}.h5ad")
        cells = scale.prepare(cells, min_peaks=1, min_cells=1)
        cells = scale.train(cells, seed=seed, n_threads=args.n_threads)
        options = ImputeConfig(validate_by="cell_type", seed=seed, n_threads=args.n_threads)
        path.write_text(json.dumps(read_between_cells(cells, options)))
    return json.loads(path.read_text())["auc"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--n-threads", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"| data | {' | '.join(READINGS)} |")
    print("|---" * (len(READINGS) + 1) + "|")
    for name in args.sets.split(","):
        figures = [areas(name, seed, args) for seed in range(args.seeds)]
        columns = [[figure[reading] for figure in figures] for reading in READINGS]
        cells = [f"{np.mean(column):.3f} ± {np.std(column):.3f}" for column in columns]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
