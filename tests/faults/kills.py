"""Kill `scale` at random moments, and look at what is left: python tests/faults/kills.py --kills 200 [--jobs 2] [--only train]

Each job (every stage, `scale run`, a zarr store as output) is first run to its end for its time and its result. Then it is
started again and again over an older result and ended with SIGKILL at a moment drawn evenly from that time. After each kill the
output must be the old one, byte for byte, or the complete new one; the next run must end well with the right result; then no
temporary file may be left in the folder or in TMPDIR. Ends with 1 where any of this failed; prints one line of JSON a job.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from hashlib import blake2b
from pathlib import Path

import h5py
import numpy as np

SCALE = [sys.executable, "-m", "scale_toolkit"]
SMALL = ["--max-iter", "40", "--n-threads", "1"]

#: job -> (words after `scale`, its outputs); {0} is the chain's folder, with the input of each stage.
JOBS = {
    "prepare": (["prepare", "{0}/cells.h5ad"], ["out.h5ad"]),
    "select-peaks": (["select-peaks", "{0}/prepare.h5ad", "--n-peaks", "200"], ["out.h5ad"]),
    "train": (["train", "{0}/prepare.h5ad", "-k", "3", *SMALL, "--model", "model.pt"], ["out.h5ad", "model.pt"]),
    "cluster": (["cluster", "{0}/train.h5ad", "--method", "kmeans", "-k", "3", "--n-threads", "1"], ["out.h5ad"]),
    "embed": (
        ["embed", "{0}/train.h5ad", "--method", "tsne", "--n-threads", "1", "--figure", "out.png"],
        ["out.h5ad", "out.png"],
    ),
    "impute": (["impute", "{0}/train.h5ad", "--binary", "--numeric", "--n-threads", "1"], ["out.h5ad"]),
    "zarr": (["impute", "{0}/train.h5ad", "--binary", "--n-threads", "1"], ["out.zarr"]),
    "run": (
        ["run", "-d", "{0}/cells.h5ad", "-k", "3", "--min-peaks", "5", *SMALL, "--cluster-method", "kmeans", "-o", "out"],
        ["out/adata.h5ad", "out/model.pt"],
    ),
}


def prepare_chain(folder: Path) -> None:
    """Small planted cells and the input of each stage, in `folder`."""
    import scale_toolkit

    cells = scale_toolkit.simulate(n_cells=200, n_peaks=600, n_clusters=3, open_peaks=80, seed=0)
    cells.write_h5ad(folder / "cells.h5ad")
    scale_toolkit.prepare(cells, min_peaks=5).write_h5ad(folder / "prepare.h5ad")
    scale_toolkit.train(scale_toolkit.prepare(cells, min_peaks=5), n_components=3, max_iter=40, n_threads=1).write_h5ad(
        folder / "train.h5ad"
    )


def command(job: str, chain: Path) -> list[str]:
    """The words of a job, its output in the folder where it runs."""
    words, outputs = JOBS[job]
    words = [word.format(chain) for word in words]
    return [*SCALE, *words, *([] if job == "run" else ["-o", outputs[0]])]


def content(path: Path) -> str:
    """A digest of what equal runs share: all of an h5ad or store but its run times; other files as they are."""
    state = blake2b()
    if path.suffix == ".h5ad":

        def visit(name: str, item: h5py.HLObject) -> None:
            if name != "uns/scale_runtime":
                state.update(f"{name} {sorted((key, str(value)) for key, value in item.attrs.items())}".encode())
                if isinstance(item, h5py.Dataset):
                    value = np.asarray(item[()])
                    state.update(str(value.tolist()).encode() if value.dtype.kind == "O" else value.tobytes())

        with h5py.File(path) as file:
            file.visititems(visit)
    elif path.is_dir():
        for one in sorted(path.rglob("*")):
            # the store's own index repeats the run times' encoded length
            if one.is_file() and "scale_runtime" not in one.as_posix() and one.name not in ("zarr.json", ".zmetadata"):
                state.update(one.relative_to(path).as_posix().encode() + one.read_bytes())
    elif path.suffix == ".pt":
        import torch

        for name, value in sorted(_flat(torch.load(path, weights_only=True, map_location="cpu"))):
            state.update(name.encode() + (value.numpy().tobytes() if torch.is_tensor(value) else repr(value).encode()))
    else:
        return "whole" if path.read_bytes()[-12:-8] == b"\0\0\0\0" and b"IEND" in path.read_bytes()[-12:] else "broken"
    return state.hexdigest()


def _flat(value: object, name: str = "") -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [pair for key, one in value.items() for pair in _flat(one, f"{name}/{key}")]
    return [(name, value)]


def raw(path: Path) -> str | None:
    """A digest of the bytes of a file or of a folder's files."""
    if not path.exists():
        return None
    state = blake2b()
    for one in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if one.is_file():
            state.update(one.name.encode() + one.read_bytes())
    return state.hexdigest()


def strays(folder: Path, temporary: Path) -> list[str]:
    """What a write left beside its place, and anything in TMPDIR that is ours."""
    own = [path.as_posix() for path in folder.rglob(".*.scale-*")]
    return own + [path.as_posix() for path in temporary.iterdir() if "scale" in path.name]


def torture(job: str, kills: int, chain: Path, seed: int) -> dict[str, object]:
    """Kill one job `kills` times; returns the counts."""
    dice = random.Random(f"{job} {seed}")
    faults: list[str] = []
    kept = new = late = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder, temporary = Path(name, "here"), Path(name, "tmp")
        folder.mkdir()
        temporary.mkdir()
        variables = {
            **os.environ,
            "TMPDIR": str(temporary),
            "OMP_NUM_THREADS": "1",
            "NUMBA_CACHE_DIR": str(Path(name, "numba")),
        }
        outputs = [folder / output for output in JOBS[job][1]]

        def start() -> subprocess.Popen:
            words = command(job, chain)
            return subprocess.Popen(words, cwd=folder, env=variables, stderr=subprocess.PIPE, start_new_session=True)

        def finish() -> float:
            started = time.monotonic()
            with start() as process:
                said = process.communicate()[1].decode()
            if process.returncode:
                raise SystemExit(f"{job} failed: {said}")
            return time.monotonic() - started

        finish()  # compiles and caches what there is to compile
        seconds = finish()
        right = [content(output) for output in outputs]
        for number in range(kills):
            if number % 4 == 3:  # also where nothing was there before
                for output in outputs:
                    shutil.rmtree(output, ignore_errors=True)
                    output.unlink(missing_ok=True) if not output.is_dir() else None
            before = [raw(output) for output in outputs]
            moment = dice.uniform(0, 1.05 * seconds)
            process = start()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment)
            late += process.poll() is not None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            for output, old, expected in zip(outputs, before, right):
                if raw(output) == old:
                    kept += 1
                elif output.exists() and content(output) == expected:
                    new += 1
                else:
                    faults.append(f"kill {number} at {moment:.2f} s: {output.name} is neither old nor new")
            if number % 4 == 0 or number == kills - 1:
                finish()
                if [content(output) for output in outputs] != right:
                    faults.append(f"kill {number}: the run after it gave another result")
                faults += [f"kill {number}: {stray} is left" for stray in strays(folder, temporary)]
    return {
        "job": job,
        "kills": kills,
        "old_kept": kept,
        "new_whole": new,
        "ended_before": late,
        "seconds": round(seconds, 1),
        "faults": faults,
    }


def main() -> int:
    """Read the words, kill, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="in all, shared among the jobs")
    parser.add_argument("--only", choices=sorted(JOBS), action="append")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    jobs = asked.only or list(JOBS)
    failed = False
    with tempfile.TemporaryDirectory(prefix="kills-") as chain:
        prepare_chain(Path(chain))
        for place, job in enumerate(jobs):
            share = asked.kills // len(jobs) + (place < asked.kills % len(jobs))
            counts = torture(job, share, Path(chain), asked.seed)
            print(json.dumps(counts), flush=True)
            failed = failed or bool(counts["faults"])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
