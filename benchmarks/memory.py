"""A chain of stages within a fixed memory, measured by a cgroup: seconds, memory and accuracy.

    python benchmarks/memory.py --out FOLDER [--cells 200000] [--peaks 100000] [--open 1500]
    [--clusters 12] [--memory 4G] [--stages prepare,train,cluster] [--input h5ad]
    [--copies 1]

Cells are simulated once and kept in --out. Each stage is a process in a cgroup of its own with
`--memory` as its limit (root on Linux, cgroup version 1 or 2) and gets the same `--memory`. The
kernel kills a process that needs more; page cache counts, and is given back. Accuracy: ARI of
`cluster` without a number with the simulated types. Without the right to make a cgroup, nothing is
limited, and the peak is what `wait4` says of the process (page cache in it). `--input` writes the
cells in another format first: csc (an h5ad by columns), mtx (a folder as Cell Ranger's, in order of
cells), mtx-by-peak, loom, or fragments (a fragment of 100 bases in each open peak, in order of the
genome, and the peaks). `--copies N` has every cell N times, each with a name of its own, as uint8
without compression: 40,000 cells with 6,000 open peaks and nine copies are 2.3·10⁹ stored counts,
more than int32 can number, and take a ninth of the time to simulate.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem, write_elem
from sklearn.metrics import adjusted_rand_score

from scale_toolkit.core.rows import row_chunks
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


def repeated(source, n_copies):
    """An h5ad with every cell of `source` several times, written once beside it."""
    target = source.with_name(f"{source.stem}_x{n_copies}.h5ad")
    if target.exists():
        return target
    private = target.with_suffix(".new")
    with h5py.File(source) as old, h5py.File(private, "w") as new:
        new.attrs["encoding-type"], new.attrs["encoding-version"] = "anndata", "0.1.0"
        obs, pointers = read_elem(old["obs"]), old["X/indptr"][:].astype(np.int64)
        n_stored = int(pointers[-1])
        group = new.create_group("X")
        group.attrs["encoding-type"], group.attrs["encoding-version"] = "csr_matrix", "0.1.0"
        group.attrs["shape"] = [n_copies * len(obs), old["X"].attrs["shape"][1]]
        for name, dtype in (("data", np.uint8), ("indices", np.int32)):
            values = old[f"X/{name}"][:].astype(dtype)
            size = (n_copies * n_stored,)
            stored = group.create_dataset(name, size, dtype, chunks=(min(1 << 20, n_stored),))
            for copy in range(n_copies):
                stored[copy * n_stored : (copy + 1) * n_stored] = values
        ends = [pointers[1:] + copy * n_stored for copy in range(n_copies)]
        group["indptr"] = np.concatenate([pointers[:1], *ends])
        copies = [obs.set_axis(obs.index + f"-{copy}", axis=0) for copy in range(n_copies)]
        write_elem(new, "obs", pd.concat(copies))
        write_elem(new, "var", read_elem(old["var"]))
    private.rename(target)
    return target


def converted(source, kind):
    """Arguments of `prepare` for the cells in another format, written once beside the h5ad."""
    target = source.with_name(f"{source.stem}_{kind}")
    if not target.exists():
        private = target.with_name(f"{target.name}.new")
        private.mkdir(exist_ok=True)
        write_as(anndata.read_h5ad(source), private, kind)
        private.rename(target)
    if kind == "fragments":
        return ["--fragments", target / "fragments.tsv", "--peaks", target / "peaks.bed"]
    return [{"csc": target / "csc.h5ad", "loom": target / "cells.loom"}.get(kind, target)]


def write_as(adata, folder, kind):
    """Write cells into a folder as `kind`."""
    intervals = adata.var_names.str.extract(r"(.+):(\d+)-(\d+)")
    if kind == "csc":
        adata.X = adata.X.tocsc()
        adata.write_h5ad(folder / "csc.h5ad", compression="gzip")
    elif kind == "loom":
        columns = adata.X.tocsc()
        with h5py.File(folder / "cells.loom", "w") as file:
            matrix = file.create_dataset(
                "matrix", adata.shape[::-1], np.uint8, chunks=(64, 256), compression="gzip"
            )
            for first in range(0, adata.n_vars, 1024):
                dense = columns[:, first : first + 1024].toarray()
                matrix[first : first + 1024] = dense.T.astype(np.uint8)
            file["row_attrs/Peak"] = adata.var_names.to_numpy(object)
            file["col_attrs/CellID"] = adata.obs_names.to_numpy(object)
    else:
        by_peak = kind != "mtx"
        matrix = adata.X.tocsc() if by_peak else adata.X
        path = folder / ("fragments.tsv" if kind == "fragments" else "matrix.mtx")
        with path.open("w") as file:
            if kind != "fragments":
                print("%%MatrixMarket matrix coordinate integer general", file=file)
                print(adata.n_vars, adata.n_obs, matrix.nnz, file=file)
            for first, stop in row_chunks(matrix.indptr):
                entries = slice(matrix.indptr[first], matrix.indptr[stop])
                major = np.repeat(np.arange(first, stop), np.diff(matrix.indptr[first : stop + 1]))
                minor, counts = matrix.indices[entries], matrix.data[entries].astype(int)
                cell, peak = (minor, major) if by_peak else (major, minor)
                columns = {"peak": peak + 1, "cell": cell + 1, "count": counts}
                if kind == "fragments":
                    start = intervals[1].to_numpy(int)[peak] + 100
                    columns = {"chrom": intervals[0].to_numpy()[peak], "start": start}
                    columns |= {"end": start + 100, "barcode": adata.obs_names.to_numpy()[cell]}
                separator = "\t" if kind == "fragments" else " "
                table = pd.DataFrame(columns)
                table.to_csv(file, sep=separator, header=False, index=False)
        if kind == "fragments":
            intervals.to_csv(folder / "peaks.bed", sep="\t", header=False, index=False)
        else:
            (folder / "peaks.txt").write_text("\n".join(adata.var_names) + "\n")
            (folder / "barcodes.tsv").write_text("\n".join(adata.obs_names) + "\n")


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
    kinds = ("h5ad", "csc", "mtx", "mtx-by-peak", "loom", "fragments")
    parser.add_argument("--input", default="h5ad", choices=kinds)
    parser.add_argument("--copies", type=int, default=1)
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
    if args.copies > 1:
        source = repeated(source, args.copies)
        name = source.stem
    inputs = [source] if args.input == "h5ad" else converted(source, args.input)
    name = name if args.input == "h5ad" else f"{name}_{args.input}"
    limit = as_bytes(args.memory)
    print("| stage | seconds | core-seconds | peak of the cgroup, GB | of the process, GB | exit |")
    print("|---|---|---|---|---|---|", flush=True)
    for stage in args.stages.split(","):
        target = args.out / f"{name}_{stage}.h5ad"
        words = [*scale, stage, *inputs, "--memory", args.memory, "-o", target]
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
        inputs = [target]
    with h5py.File(inputs[0]) as file:
        obs = read_elem(file["obs"])
    if "scale_cluster" in obs and "cell_type" in obs:
        ari = adjusted_rand_score(obs["cell_type"], obs["scale_cluster"])
        print(f"\nclusters: {obs['scale_cluster'].nunique()}, ARI {ari:.3f}")


if __name__ == "__main__":
    main()
