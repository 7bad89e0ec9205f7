"""How fast, and in how much memory, `scale impute` writes a trained file; beside the dense way of
SCALE 1.1.2.

    python benchmarks/impute_speed.py [--cells 100000] [--peaks 50000] [--only csr packed ...]

The input is made here: the arrays that `train` leaves (10 latent dimensions, 8 planted clusters,
rates of some 7 % open), no counts. Every run of `scale impute` is a process of its own, timed
whole, from start to the renamed file, with its peak resident memory; "kernel" makes the CSR blocks
and drops them. The dense way makes sigmoid of a NumPy product, compares it with both means and
converts to a SciPy CSR, in float32, on as many cells as take 2 GiB dense; its time is of the
computation alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# numpy and anndata are imported where they are used: a process starts with the peak memory of the
# one that started it

WAYS = {
    "csr": ["--binary"],
    "csr, uncompressed (a pipe)": ["--binary"],
    "packed": ["--binary", "--binary-format", "packed"],
    "uint8": ["--numeric", "--numeric-format", "uint8"],
    "float16": ["--numeric", "--numeric-format", "float16"],
    "float32": ["--numeric"],
}


def trained_like(path: Path, n_cells: int, n_peaks: int, seed: int = 0) -> dict[str, float]:
    """Write what `train` leaves; the rates are the model's own expectations."""
    import anndata
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(seed)
    z = rng.normal(size=(8, 10))[rng.integers(0, 8, n_cells)] + 0.3 * rng.normal(size=(n_cells, 10))
    w, b, s = (
        rng.normal(size=(n_peaks, 10)) * 0.3,
        rng.normal(-3.4, 1, n_peaks),
        rng.normal(0, 0.4, n_cells),
    )
    sample = 1 / (1 + np.exp(-(z[:500] @ w.T + b + s[:500, None])))
    rate = sample.mean() * np.exp(s) * np.exp(rng.normal(0, 0.05, n_cells))
    anndata.AnnData(
        obs=pd.DataFrame(
            {"scale_offset": s.astype(np.float32), "scale_open_rate": np.clip(rate, 0, 1)},
            index=[f"cell{i}" for i in range(n_cells)],
        ),
        var=pd.DataFrame(
            {"scale_bias": b.astype(np.float32), "scale_open_rate": sample.mean(axis=0)},
            index=[f"chr1:{1000 * j}-{1000 * j + 500}" for j in range(n_peaks)],
        ),
        obsm={"X_scale": z.astype(np.float32)},
        varm={"scale_decoder": w.astype(np.float32)},
    ).write_h5ad(path)
    return {"latent": 10}


def process(words: list[str], output: Path, *, pipe: bool) -> dict[str, float]:
    """Wall time, time of all its threads, peak resident memory and bytes of one `scale impute`."""
    started = time.perf_counter()
    if pipe:
        worker = subprocess.Popen([*words, "-o", "-"], stdout=subprocess.PIPE)
        size = 0
        while chunk := os.read(worker.stdout.fileno(), 1 << 20):
            size += len(chunk)
    else:
        worker = subprocess.Popen([*words, "-o", str(output)])
    _, status, usage = os.wait4(worker.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(words)} failed")
    return {
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
        "bytes": size if pipe else output.stat().st_size,
    }


def kernel(path: Path) -> dict[str, float]:
    """The CSR blocks, made and dropped."""
    import anndata

    from scale_toolkit.stages.impute import streamed

    _, results = streamed(anndata.read_h5ad(path), binary=True)
    (blocks,) = results.values()
    next(iter(blocks.blocks()))  # compiled, or read from the cache
    started, cpu, n_ones = time.perf_counter(), time.process_time(), 0
    for block in blocks.blocks():
        n_ones += block.nnz
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "ones": n_ones,
    }


def dense_way(path: Path) -> dict[str, float]:
    """The release's way: everything dense, then compared, then made sparse."""
    import anndata
    import numpy as np
    from scipy import sparse

    cells = anndata.read_h5ad(path)[
        : 2**31 // 4 // anndata.read_h5ad(path, backed="r").n_vars
    ].copy()
    z, w = cells.obsm["X_scale"], cells.varm["scale_decoder"]
    b, s = cells.var["scale_bias"].to_numpy(), cells.obs["scale_offset"].to_numpy()
    cell, peak = (table["scale_open_rate"].to_numpy(np.float32) for table in (cells.obs, cells.var))
    started, cpu = time.perf_counter(), time.process_time()
    p = 1 / (1 + np.exp(-(z @ w.T + b + s[:, None])))
    thresholded = sparse.csr_matrix(((p > cell[:, None]) & (p > peak)).astype(np.uint8))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "cells": cells.n_obs,
        "ones": thresholded.nnz,
    }


def apart(function: str, path: Path, *numbers: int) -> dict[str, float]:
    """Call a function of this file in a process of its own."""
    benchmarks = str(Path(__file__).parent)
    code = (
        f"import json, sys; from pathlib import Path; sys.path.insert(0, {benchmarks!r}); import "
        "impute_speed\n"
    )
    code += f"print(json.dumps(impute_speed.{function}(Path({str(path)!r}), *{numbers})))"
    return json.loads(
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--peaks", type=int, default=50_000)
    parser.add_argument("--only", nargs="*", default=["kernel", "dense", *WAYS])
    parser.add_argument("--folder", type=Path, help="where the files go for a while (TMPDIR)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path, output = Path(folder) / "trained.h5ad", Path(folder) / "out.h5ad"
        apart("trained_like", path, options.cells, options.peaks)
        for name in options.only:
            if name in ("kernel", "dense"):
                facts = apart("kernel" if name == "kernel" else "dense_way", path)
            else:
                words = [
                    sys.executable,
                    "-m",
                    "scale_toolkit",
                    "impute",
                    "--quiet",
                    *WAYS[name],
                    str(path),
                ]
                facts = process(words, output, pipe="pipe" in name)
                output.unlink(missing_ok=True)
            facts["M values/s"] = (
                facts.get("cells", options.cells) * options.peaks / facts["seconds"] / 1e6
            )
            print(
                f"{name:28s}",
                "  ".join(f"{key} {value:,.1f}" for key, value in facts.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
