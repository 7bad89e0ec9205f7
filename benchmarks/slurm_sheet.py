"""A samplesheet of many samples under Slurm: how much of the node's cores their tasks take.

    python benchmarks/slurm_sheet.py --out FOLDER [--samples 64] [--cells 2000] [--stop-after
    cluster] [--cores 2]

Simulated samples, from `prepare` to --stop-after (k-means), one thread a task. Prints the tasks,
their time × cpus added up (Nextflow's `realtime`), the time of the whole run with Nextflow's own
start and end, and how much of the cores that is.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import time
from pathlib import Path

import anndata

import scale_toolkit as scale

ROOT = Path(__file__).resolve().parents[1]
SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def made(folder: Path, samples: int, n_cells: int) -> Path:
    """Samples of the same peaks, and the sheet that names them."""
    sheet = folder / "sheet.csv"
    cells = scale.simulate(
        n_cells=n_cells * samples, n_peaks=10_000, n_clusters=4, open_peaks=1_000, seed=0
    )
    cells = anndata.AnnData(cells.X, obs=cells.obs[["cell_type"]], var=cells.var[[]])
    for number in range(samples):
        cells[number::samples].copy().write_h5ad(folder / f"s{number}.h5ad", compression="gzip")
    sheet.write_text(
        "sample,path,batch,k\n"
        + "".join(f"s{number},s{number}.h5ad,,4\n" for number in range(samples))
    )
    return sheet


def seconds(text: str) -> float:
    """Nextflow's ``1m 3s``, ``840ms``."""
    return sum(
        float(number) * SECONDS[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m|h)", text)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--cells", type=int, default=2_000)
    parser.add_argument("--nextflow", default=str(ROOT / "tests/engines/nextflow"))
    parser.add_argument("--stop-after", default="cluster")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sheet = made(args.out, args.samples, args.cells)
    words = [
        "-profile",
        "slurm",
        "--input",
        sheet.name,
        "--stop_after",
        args.stop_after,
        "--cluster_method",
        "kmeans",
        "--threads",
        "1",
    ]
    began = time.monotonic()
    subprocess.run(
        [args.nextflow, "run", ROOT / "main.nf", *words, "--skip_multiqc", "--skip_report"],
        cwd=args.out, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    wall = time.monotonic() - began
    trace = max(
        (args.out / "results/pipeline_info").glob("trace_*.txt"),
        key=lambda path: path.stat().st_mtime_ns,
    )
    with trace.open() as file:
        tasks = list(csv.DictReader(file, delimiter="\t"))
    work = sum(seconds(task["realtime"]) * int(task["cpus"]) for task in tasks)
    print(
        json.dumps(
            {
                "samples": args.samples,
                "tasks": len(tasks),
                "completed": sum(task["status"] == "COMPLETED" for task in tasks),
                "task_seconds": round(work),
                "wall_seconds": round(wall),
                "share_of_cores": round(work / args.cores / wall, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
