"""A chain of stages within a fixed memory, measured by a cgroup: seconds, memory and accuracy.

    python benchmarks/memory.py --out FOLDER [--cells 200000] [--peaks 100000] [--open 1500]
    [--clusters 12] [--memory 4G] [--stages prepare,train,cluster]

Cells are simulated once and kept in --out. Each stage is a process in a cgroup of its own with
`--memory` as its limit (root on Linux, cgroup version 1 or 2) and gets the same `--memory`. The
kernel kills a process that needs more; page cache counts, and is given back. Accuracy: ARI of
`cluster` without a number with the simulated types. Without the right to make a cgroup, nothing is
limited, and the peak is what `wait4` says of the process (page cache in it).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
from anndata.io import read_elem
from sklearn.metrics import adjusted_rand_score

from scale_toolkit.memory import as_bytes

OPTIONS = {"prepare": ["--min-peaks", "10", "--min-cells", "10"]}


class Group:
    """A memory cgroup below this process's own; `path` is None where none can be made."""

    def __init__(self, limit):
        self.path = None
        lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
        old = [path for _, controllers, path in lines if "memory" in controllers.split(",")]
        root = Path("/sys/fs/cgroup/memory" if old else "/sys/fs/cgroup")
        parent = root / (old or [lines[0][2]])[0].lstrip("/")
        self.limit_file = "memory.limit_in_bytes" if old else "memory.max"
        self.peak_file = "memory.max_usage_in_bytes" if old else "memory.peak"
        with contextlib.suppress(OSError):
            path = parent / f"scale-{os.getpid()}-{time.monotonic_ns()}"
            path.mkdir()
            (path / self.limit_file).write_text(str(limit))
            self.path = path

    def enter(self):
        """Put this process into the group."""
        if self.path is not None:
            (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        """Peak in bytes, page cache included; the group is removed."""
        if self.path is None:
            return None
        peak = int((self.path / self.peak_file).read_text())
        self.path.rmdir()
        return peak


def run(words, limit):
    """Exit code, seconds, core-seconds, and peak bytes of the cgroup and of the process."""
    group = Group(limit)
    started = time.perf_counter()
    process = subprocess.Popen(words, preexec_fn=group.enter)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    code = os.waitstatus_to_exitcode(status)
    return code, seconds, usage.ru_utime + usage.ru_stime, group.close(), usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--peaks", type=int, default=100_000)
    parser.add_argument("--open", type=int, default=1500)
    parser.add_argument("--clusters", type=int, default=12)
    parser.add_argument("--memory", default="4G")
    parser.add_argument("--stages", default="prepare,train,cluster")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    scale = [sys.executable, "-m", "scale_toolkit"]
    name = f"{args.cells}_{args.peaks}_{args.open}"
    source = args.out / f"{name}.h5ad"
    if not source.exists():
        sizes = {
            "--n-cells": args.cells,
            "--n-peaks": args.peaks,
            "--open-peaks": args.open,
            "--n-clusters": args.clusters,
        }
        words = [str(word) for option in sizes.items() for word in option]
        subprocess.run([*scale, "simulate", *words, "-o", source], check=True)
    limit = as_bytes(args.memory)
    print("| stage | seconds | core-seconds | peak of the cgroup, GB | of the process, GB | exit |")
    print("|---|---|---|---|---|---|", flush=True)
    for stage in args.stages.split(","):
        target = args.out / f"{name}_{stage}.h5ad"
        words = [*scale, stage, source, "--memory", args.memory, "-o", target]
        code, seconds, core_seconds, peak, process_peak = run(
            [str(word) for word in words + OPTIONS.get(stage, [])], limit
        )
        peak_text = "–" if peak is None else f"{peak / 1e9:.2f}"
        print(
            f"| {stage} | {seconds:.0f} | {core_seconds:.0f} | {peak_text} | "
            f"{process_peak / 1e9:.2f} | {code} |",
            flush=True,
        )
        if code:
            sys.exit(code)
        source = target
    with h5py.File(source) as file:
        obs = read_elem(file["obs"])
    if "scale_cluster" in obs:
        ari = adjusted_rand_score(obs["cell_type"], obs["scale_cluster"])
        print(f"\nclusters: {obs['scale_cluster'].nunique()}, ARI {ari:.3f}")


if __name__ == "__main__":
    main()
