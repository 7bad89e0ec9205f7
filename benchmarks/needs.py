"""What every stage takes, beside what `scale plan` says: memory, seconds and bytes written, one
thread, simulated cells.

    python benchmarks/needs.py --out FOLDER [--up-to MILLION_OPEN_PEAKS] [--paper-up-to MILLION]
    [--n-threads 1]

Each stage is a process of its own, `scale STAGE IN -o OUT`; memory is its largest resident set,
imports and all. Figures as ``measured / planned``. `paper` is `train --preset paper` for 100 steps.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import anndata

import scale_toolkit as scale
from scale_toolkit.config import ClusterConfig, ImputeConfig, TrainConfig
from scale_toolkit.io.size import size_of
from scale_toolkit.needs import needs

SIZES = (
    (500, 8_000, 1_500),
    (2_000, 20_000, 2_000),
    (10_000, 50_000, 3_000),
    (20_000, 100_000, 5_000),
    (100_000, 100_000, 1_500),
)
COMMANDS = {
    "prepare": ["prepare", "--min-cells", "1"],
    "select_peaks": ["select-peaks"],
    "train": ["train"],
    "paper": ["train", "--preset", "paper", "--max-iter", "100"],
    "cluster": ["cluster"],
    "embed": ["embed"],
    "markers": ["markers"],
    "impute": ["impute", "--binary"],
    "report": ["report"],
}


def run(words: list[str], out: Path) -> tuple[float, float, float]:
    """Run a command; MB (10⁶ bytes) of its largest resident set, seconds, MB of what it wrote."""
    out.unlink(missing_ok=True)
    began = time.monotonic()
    child = os.spawnv(
        os.P_NOWAIT, sys.executable, [sys.executable, "-m", "scale_toolkit", *words, "--quiet"]
    )
    _, status, usage = os.wait4(child, 0)
    if status:
        raise SystemExit(f"{words} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss * 1024 / 1e6, time.monotonic() - began, out.stat().st_size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--up-to", type=float, default=120, help="million open peaks")
    parser.add_argument("--n-threads", default="1")
    parser.add_argument(
        "--paper-up-to",
        type=float,
        default=35,
        help="million open peaks; the steps of the published model are slow",
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = args.n_threads
    print(
        "| cells × peaks, million open | stage | MB | seconds | MB written |\n|---|---|---|---|---|"
    )
    for n_cells, n_peaks, n_open in SIZES:
        if n_cells * n_open > args.up_to * 1e6:
            continue
        raw = args.out / f"{n_cells}_{n_peaks}.h5ad"
        if not raw.exists():
            simulated = scale.simulate(n_cells=n_cells, n_peaks=n_peaks, open_peaks=n_open, seed=0)
            anndata.AnnData(
                simulated.X, obs=simulated.obs[["cell_type"]], var=simulated.var[[]]
            ).write_h5ad(raw, compression="gzip")
            del simulated
        inputs = {"prepare": raw, "paper": args.out / "select_peaks.h5ad"}
        size = size_of(raw)
        for stage, words in COMMANDS.items():
            if stage == "paper" and n_cells * n_open > args.paper_up_to * 1e6:
                continue
            source = inputs.get(stage, args.out / f"{previous(stage)}.h5ad")
            out = args.out / (f"{stage}.html" if stage == "report" else f"{stage}.h5ad")
            threads = (
                []
                if stage in ("prepare", "select_peaks", "report")
                else ["--n-threads", args.n_threads]
            )
            measured = run([*words, *threads, str(source), "-o", str(out)], out)
            train = TrainConfig(preset="paper", max_iter=100) if stage == "paper" else TrainConfig()
            estimate = needs(
                "train" if stage == "paper" else stage,
                size,
                train=train,
                impute=ImputeConfig(binary=True),
                cluster=ClusterConfig(),
            )
            planned = estimate.memory_mb, estimate.seconds, estimate.disk_mb
            cells = " | ".join(
                f"{value:,.0f} / {plan:,.0f}" for value, plan in zip(measured, planned)
            )
            print(
                f"| {n_cells:,} × {n_peaks:,}, {size.n_open / 1e6:.1f} | {stage} | {cells} |",
                flush=True,
            )


def previous(stage: str) -> str:
    """The stage whose file a stage reads here."""
    order = ["prepare", "select_peaks", "train", "cluster", "embed"]
    return (
        order[order.index(stage) - 1]
        if stage in order
        else "cluster"
        if stage == "markers"
        else "embed"
    )


if __name__ == "__main__":
    main()
