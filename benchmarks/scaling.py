"""Time and memory against cells and peaks: ``train`` with its defaults beside the peers, on the
same simulated cells in turn.

    python benchmarks/scaling.py --out FOLDER [--peers PYTHON] [--figure FILE.png]

Every run is a process of its own (`methods.py`), all cores; imports and reading are not counted.
Sizes: 5,000, 10,000 and 20,000 cells × 50,000 peaks, and 10,000 × 100,000, all with 3,000 open
peaks a cell; peers up to 10,000 × 50,000. PeakVI is timed over two epochs, the release over 24
steps, at 10,000 × 50,000 alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
from sklearn.metrics import adjusted_rand_score

import scale_toolkit as scale
from scale_toolkit.stages.cluster import kmeans_at_k, leiden_at_k

HERE = Path(__file__).parent
SIZES = ((5_000, 50_000), (10_000, 50_000), (20_000, 50_000), (10_000, 100_000))
MIDDLE = (10_000, 50_000)


def simulated(n_cells, n_peaks, folder):
    path = folder / f"{n_cells}_{n_peaks}.h5ad"
    if not path.exists():
        cells = scale.simulate(n_cells=n_cells, n_peaks=n_peaks, open_peaks=3000, seed=0)
        anndata.AnnData(cells.X, obs=cells.obs[["cell_type"]], var=cells.var[[]]).write_h5ad(path)
    return path


def measure(method, path, args, *extra):
    out = args.out / f"{method}_{path.stem}.npz"
    python = sys.executable if method == "scale" else args.peers
    command = [python, HERE / "methods.py", method, path, out, *extra]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.strip().splitlines()[-1]), np.load(out)["latent"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    print(
        "| cells × peaks | method | seconds | MB above imports | CSR MB | k-means ARI | Leiden "
        "ARI | |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for size in SIZES:
        path = simulated(*size, args.out)
        cells = anndata.read_h5ad(path)
        labels = cells.obs["cell_type"].astype(str).to_numpy()
        csr = (cells.X.data.nbytes + cells.X.indices.nbytes + cells.X.indptr.nbytes) / 2**20
        del cells
        work = [("scale",)]
        if args.peers and size[0] <= MIDDLE[0] and size[1] == MIDDLE[1]:
            work += [("snapatac2",)]
        if args.peers and size == MIDDLE:
            work += [("peakvi", "--epochs", "2"), ("release", "--iterations", "24")]
        for method, *extra in work:
            facts, latent = measure(method, path, args, *extra)
            read = ["", ""]
            if not extra:
                k = len(set(labels))
                partitions = kmeans_at_k(latent, k, 10, 0), leiden_at_k(latent, k, 30, 0)
                read = [f"{adjusted_rand_score(labels, partition):.3f}" for partition in partitions]
            note = {
                name: facts[name] for name in ("steps", "epochs", "seconds_a_step") if name in facts
            }
            above = facts["peak_mb"] - facts["imports_mb"]
            rows.append((size, method, facts["seconds"], above))
            figures = (
                f"{facts['seconds']:.1f} | {above:.0f} | {csr:.0f} | {read[0]} | {read[1]} | {note}"
            )
            print(f"| {size[0]:,} × {size[1]:,} | {method} | {figures} |", flush=True)
    if args.figure:
        draw(rows, args.figure)


def draw(rows, path):
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for method, colour in (("scale", "#0072b2"), ("snapatac2", "#e69f00")):
        points = [
            (size[0], *figures)
            for size, name, *figures in rows
            if name == method and size[1] == 50_000
        ]
        for axis, column, unit in zip(axes, (1, 2), ("seconds", "MB above imports"), strict=True):
            if points:
                axis.plot(
                    [p[0] for p in points],
                    [p[column] for p in points],
                    "o-",
                    color=colour,
                    label=method,
                )
            axis.set(xlabel="cells × 50,000 peaks, 3,000 open a cell", ylabel=unit)
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
