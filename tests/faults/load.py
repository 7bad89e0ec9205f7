"""Many runs: python tests/faults/load.py [--at-once 20] [--in-a-row 1000]

At once: pipelines `scale prepare | scale train | scale cluster` on one machine; each must end with the result of one that ran
alone. In a row: prepare, train, cluster, write and read in one process; descriptors, files in TMPDIR and memory must not grow.
Prints two lines of JSON; ends with 1 where something was wrong.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from kills import SCALE, content

_EARLY = 100  # runs after which memory has settled


def at_once(number: int, folder: Path) -> dict[str, object]:
    """Run `number` pipelines of three stages together."""
    import scale_toolkit

    scale_toolkit.simulate(n_cells=200, n_peaks=600, n_clusters=3, open_peaks=80, seed=0).write_h5ad(folder / "cells.h5ad")
    program = shlex.join(SCALE)
    line = (
        f"set -o pipefail; {program} prepare --min-peaks 5 cells.h5ad | {program} train -k 3 --max-iter 40 --n-threads 1"
        f" | {program} cluster --method kmeans -k 3 --n-threads 1 -o {{}}.h5ad"
    )
    temporary = folder / "tmp"
    temporary.mkdir()
    variables = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}

    def start(name: str) -> subprocess.Popen:
        return subprocess.Popen(["bash", "-c", line.format(name)], cwd=folder, env=variables, stderr=subprocess.PIPE)

    alone = start("alone")
    said = alone.communicate()[1].decode()
    if alone.returncode:
        raise SystemExit(said)
    right, began = content(folder / "alone.h5ad"), time.monotonic()
    runs = [start(f"run{i}") for i in range(number)]
    failed = [run.communicate()[1].decode() for run in runs]
    codes = [run.returncode for run in runs]
    wrong = [i for i in range(number) if codes[i] or content(folder / f"run{i}.h5ad") != right]
    return {
        "at_once": number,
        "right": number - len(wrong),
        "seconds": round(time.monotonic() - began, 1),
        "left_in_tmpdir": len(list(temporary.iterdir())),
        "left_beside": len(list(folder.glob(".*.scale-*"))),
        "said": [failed[i] for i in wrong][:3],
    }


def in_a_row(number: int, folder: Path) -> dict[str, object]:
    """Run three stages and a file there and back `number` times in this process."""
    import scale_toolkit
    from scale_toolkit.io.h5ad import open_h5ad, write_h5ad

    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = None
    warnings.simplefilter("ignore")
    cells = scale_toolkit.simulate(n_cells=60, n_peaks=150, n_clusters=2, open_peaks=30, seed=0)
    latents, memory, descriptors = set(), [], []
    for _ in range(number):
        made = scale_toolkit.prepare(cells.copy(), min_peaks=1, min_cells=1)
        made = scale_toolkit.train(made, n_components=2, max_iter=3, n_threads=1)
        made = scale_toolkit.cluster(made, method="kmeans", n_clusters=2, n_threads=1)
        write_h5ad(made, folder / "out.h5ad")
        with open_h5ad(folder / "out.h5ad") as file:
            latents.add(file.read().obsm["X_scale"].tobytes())
        gc.collect()
        descriptors.append(len(list(Path("/proc/self/fd").iterdir())))
        memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6)
    early = min(_EARLY, number // 2)
    return {
        "in_a_row": number,
        "different_results": len(latents),
        "descriptors": [descriptors[early], descriptors[-1]],
        "memory_mb": [round(memory[early], 1), round(max(memory[-20:]), 1)],
        "files_left": len([path for path in folder.iterdir() if path.name != "out.h5ad"]),
    }


def main() -> int:
    """Read the words, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--in-a-row", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="load-") as one, tempfile.TemporaryDirectory(prefix="load-") as two:
        many = at_once(asked.at_once, Path(one)) if asked.at_once else None
        print(json.dumps(many), flush=True)
        row = in_a_row(asked.in_a_row, Path(two)) if asked.in_a_row else None
        print(json.dumps(row), flush=True)
    good = many is None or (many["right"] == asked.at_once and not many["left_in_tmpdir"] and not many["left_beside"])
    if row is not None:
        good &= row["different_results"] == 1 and row["descriptors"][0] == row["descriptors"][1] and not row["files_left"]
        good &= row["memory_mb"][1] < row["memory_mb"][0] + 20
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
