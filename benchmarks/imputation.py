"""How well imputation recovers hidden open peaks, and how well its probabilities are calibrated.

    python benchmarks/imputation.py --data FOLDER --out FOLDER [--seeds 5] [--sets
    leukemia,forebrain,bone_marrow,aml_patients]

Every set whole (min_peaks 1, min_cells 1), default options: train, then `impute --validate`, which
hides a tenth of the open peaks and trains again without them. Each report is kept in --out and made
only once. Mean ± standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anndata
import numpy as np

import scale_toolkit as scale

SETS = "leukemia,forebrain,bone_marrow,aml_patients"
METHODS = ("model", "frequency", "neighbours", "tfidf_svd")


def report(name, seed, args):
    """The validation of one set and seed, and its size."""
    path = args.out / f"{name}_{seed}.json"
    if not path.exists():
        cells = scale.prepare(
            anndata.read_h5ad(args.data / f"{name}.h5ad"), min_peaks=1, min_cells=1
        )
        cells = scale.train(cells, seed=seed, n_threads=args.n_threads)
        cells = scale.impute(cells, validate=True, seed=seed, n_threads=args.n_threads)
        path.write_text(cells.uns["scale_validation"])
    return json.loads(path.read_text())


def figures(values, digits=3):
    """Mean ± standard deviation."""
    values = np.asarray(values, float)
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1) if len(values) > 1 else 0:.{digits}f}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--n-threads", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sets = args.sets.split(",")
    runs = {name: [report(name, seed, args) for seed in range(args.seeds)] for name in sets}

    print(
        "| data | hidden | method | matched AUPRC | AUROC | unmatched AUPRC | AUROC | pooled "
        "matched AUPRC |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in sets:
        hidden = f"{np.mean([run['hidden'] for run in runs[name]]):,.0f}"
        for method in METHODS:
            cells = [
                figures([run[kind][method][metric] for run in runs[name]])
                for kind in ("matched", "unmatched")
                for metric in ("auprc", "auroc")
            ]
            pooled = figures([run["pooled"]["matched"][method]["auprc"] for run in runs[name]])
            print(f"| {name} | {hidden} | {method} | {' | '.join(cells)} | {pooled} |")

    print(
        "\n| data | slope | seen / predicted in ten bins | farthest from 1 | in one seed | its "
        "error | metacell | trusted |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in sets:
        calibrations = [run["calibration"] for run in runs[name]]
        ratios = np.array([calibration["ratio"] for calibration in calibrations])
        mean = ratios.mean(0)
        meta = [run["metacell"] for run in runs[name]]
        print(
            f"| {name} | {figures([calibration['slope'] for calibration in calibrations])} | "
            f"{' '.join(f'{r:.2f}' for r in mean)} | "
            f"{np.abs(mean - 1).max():.2f} | {np.abs(ratios - 1).max():.2f} | "
            f"{np.mean([calibration['error'] for calibration in calibrations]):.2f} | "
            f"{np.mean([m['measured'] for m in meta]):.2f} → "
            f"{np.mean([m['imputed'] for m in meta]):.2f} | "
            f"{figures([run['peaks']['trusted'] / run['peaks']['all'] for run in runs[name]], 2)} "
            "|"
        )


if __name__ == "__main__":
    main()
