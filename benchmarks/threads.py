"""``train`` at 10,000 × 50,000, 3,000 open, on one thread and on more, and SnapATAC2's ``spectral``
beside it.

    python benchmarks/threads.py --out FOLDER [--peers PYTHON] [--threads 1,2] [--rounds 3]

Each run is a process of its own (`methods.py`), imports and reading apart, with OpenMP's threads
waiting passively as in the command `scale`; spinning, they take a third more processor time. What
the machine itself gives two threads is printed first: two independent loops at a time. The runs of
a round follow each other directly, and the quotients are those within a round, so that other work
on the machine counts on both sides; processor seconds show how much of a run's time it got.
``--peers`` names the Python of ``benchmarks/peers/install``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import anndata
import numba

import scale_toolkit as scale

HERE = Path(__file__).parent


def simulated(folder: Path, n_cells: int) -> Path:
    path = folder / f"{n_cells}_50000.h5ad"
    if not path.exists():
        cells = scale.simulate(n_cells=n_cells, n_peaks=50_000, open_peaks=3000, seed=0)
        anndata.AnnData(cells.X, obs=cells.obs[["cell_type"]], var=cells.var[[]]).write_h5ad(path)
    return path


@numba.njit(nogil=True)
def loop(n: int) -> float:
    total = 0.0
    for i in range(n):
        total += (i * 0.5) % 3.0
    return total


def machine_gain(n_threads: int) -> float:
    """How many times the work of one thread the machine does with this many, none waiting."""

    def together(n: int) -> float:
        threads = [threading.Thread(target=loop, args=(100_000_000,)) for _ in range(n)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began

    loop(1)
    return statistics.median(n_threads * together(1) / together(n_threads) for _ in range(3))


def seconds(python: str, method: str, path: Path, out: Path, n_threads: int) -> tuple[float, float]:
    """Wall seconds of the work, and processor seconds of the whole process."""
    usage_before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [python, HERE / "methods.py", method, path, out, "--n-threads", n_threads]
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True
    )
    usage_after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = (
        usage_after.ru_utime + usage_after.ru_stime - usage_before.ru_utime - usage_before.ru_stime
    )
    return json.loads(done.stdout.strip().splitlines()[-1])["seconds"], used


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", help="Python with SnapATAC2")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cells", type=int, default=10_000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    path = simulated(args.out, args.cells)
    numbers = [int(word) for word in args.threads.split(",")]
    runs = [(f"{n} threads", sys.executable, "scale", n) for n in numbers]
    if args.peers:
        runs.append(("SnapATAC2", args.peers, "snapatac2", max(numbers)))
    print(
        f"this machine: {numbers[-1]} threads do {machine_gain(numbers[-1]):.2f} times the work\n"
    )
    columns = " | ".join(f"{name}, s (processor s)" for name, *_ in runs)
    print(f"| round | {columns} | {numbers[0]} : {numbers[-1]} threads | train : SnapATAC2 |")
    print("|---" * (len(runs) + 3) + "|", flush=True)
    gains, shares = [], []
    for number in range(args.rounds):
        wall = {}
        cells = []
        for name, python, method, n_threads in runs:
            wall[name], used = seconds(python, method, path, args.out / "latent.npz", n_threads)
            cells.append(f"{wall[name]:.1f} ({used:.0f})")
        gains.append(wall[f"{numbers[0]} threads"] / wall[f"{numbers[-1]} threads"])
        share = "-"
        if args.peers:
            shares.append(wall[f"{numbers[-1]} threads"] / wall["SnapATAC2"])
            share = f"{shares[-1]:.2f}"
        print(f"| {number + 1} | {' | '.join(cells)} | {gains[-1]:.2f} | {share} |", flush=True)
    print(f"median gain {statistics.median(gains):.2f}")
    if shares:
        print(f"median share of SnapATAC2's time {statistics.median(shares):.2f}")


if __name__ == "__main__":
    main()
