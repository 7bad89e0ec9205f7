"""Simulated cells unlike those of `scale simulate`: readings of a latent space in seven regimes, as
a Markdown table.

    python benchmarks/regimes.py --methods start,tfidf-svd --out regimes.jsonl
    python benchmarks/regimes.py --regimes families --methods snapatac2:unit,signac-lsi

Each set has what data sets have and `scale simulate` leaves out: log-normal frequencies of the
peaks (standard deviation 1.3 of the log), depth of standard deviation 0.5 of the log, types of
unequal size in families that differ in more peaks than their types do, a technical gradient that
favours frequent peaks in some cells, and a tenth of every cell from the mean of all. A peak is open
if one of its Poisson reads is there. The strengths below were chosen by what TF-IDF + SVD reads,
between nothing and everything. The readings are those of `compare.py`; a peer that is not installed
is named and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
from compare import READINGS, read
from methods import latent_space
from scipy import sparse

AMBIENT = 0.1  # share of every cell that is the mean of all
_BLOCK = 256  # cells whose dense rates are held at once


@dataclass(frozen=True)
class Regime:
    """The sizes of a set, and how far its types differ.

    Attributes
    ----------
    family, subtype
        Share of the peaks that a family or a type changes, and the standard deviation of the change
        in log rate.
    gradient
        Standard deviation over cells of the exponent of the peaks' frequency.
    """

    n_cells: int
    n_peaks: int
    open_peaks: int
    n_types: int
    n_families: int
    family: tuple[float, float]
    subtype: tuple[float, float]
    gradient: float = 0.1


REGIMES = {
    "few_peaks": Regime(5_000, 4_000, 400, 10, 4, (0.2, 0.6), (0.1, 0.5)),
    "small_deep": Regime(400, 60_000, 8_000, 6, 3, (0.1, 0.6), (0.05, 0.5)),
    "saturated": Regime(1_000, 20_000, 9_000, 6, 3, (0.1, 0.6), (0.1, 0.5)),
    "sparse": Regime(3_000, 20_000, 80, 5, 3, (0.3, 1.2), (0.2, 1.0)),
    "many_shallow": Regime(8_000, 120_000, 850, 20, 6, (0.15, 0.9), (0.08, 0.9)),
    "many_types": Regime(12_000, 100_000, 2_700, 50, 8, (0.1, 0.6), (0.06, 0.8)),
    "families": Regime(6_000, 80_000, 5_700, 14, 5, (0.1, 0.7), (0.04, 0.6)),
}


def simulate(regime: Regime, seed: int = 0) -> anndata.AnnData:
    """Cells of a regime, with their types in ``obs['cell_type']``."""
    rng = np.random.default_rng(seed)

    def changes(n: int, share: float, strength: float) -> np.ndarray:
        """Changes in the log rate of `share` of the peaks, (n, peaks)."""
        shape = (n, regime.n_peaks)
        return np.where(rng.random(shape) < share, rng.normal(0, strength, shape), 0)

    frequency = rng.normal(0, 1.3, regime.n_peaks)
    families = changes(regime.n_families, *regime.family)
    types = changes(regime.n_types, *regime.subtype)
    types += families[np.arange(regime.n_types) % regime.n_families]
    shares = rng.lognormal(0, 0.6, regime.n_types)
    labels = rng.choice(regime.n_types, regime.n_cells, p=shares / shares.sum())
    exponents = 1 + rng.normal(0, regime.gradient, regime.n_cells)
    profiles = np.exp(frequency + types)
    mean = np.average(profiles, axis=0, weights=shares)
    depths = rng.lognormal(0, 0.5, regime.n_cells)

    def rates(cells: np.ndarray) -> np.ndarray:
        """Expected reads by peak of cells of mean depth 1, (cells, peaks)."""
        profile = np.exp(exponents[cells, None] * frequency + types[labels[cells]])
        profile /= profile.sum(1, keepdims=True)
        mixed = (1 - AMBIENT) * profile + AMBIENT * mean / mean.sum()
        return depths[cells, None] * mixed

    drawn = rates(rng.choice(regime.n_cells, min(regime.n_cells, 200), replace=False))
    low, high = 0.0, 1e8  # reads of a cell of mean depth that open this many peaks
    for _ in range(60):
        middle = (low + high) / 2
        is_low = -np.expm1(-middle * drawn).sum(1).mean() < regime.open_peaks
        low, high = (middle, high) if is_low else (low, middle)
    blocks = []
    for first in range(0, regime.n_cells, _BLOCK):
        chosen = rates(np.arange(first, min(first + _BLOCK, regime.n_cells)))
        is_open = rng.random(chosen.shape) < -np.expm1(-low * chosen)
        blocks.append(sparse.csr_matrix(is_open.astype(np.float32)))
    counts = sparse.vstack(blocks, format="csr")
    cells = anndata.AnnData(counts[:, np.flatnonzero(counts.getnnz(axis=0))].tocsr())
    cells.obs["cell_type"] = [f"type{label}" for label in labels]
    return cells


def main() -> None:
    """Simulate, run and report."""
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--regimes", default=",".join(REGIMES))
    parser.add_argument("--methods", default="start,tfidf-svd")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--n-threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON lines, added to")
    args = parser.parse_args()
    methods = args.methods.split(",")
    print("| k-means / Leiden / purity | open | " + " | ".join(methods) + " |")
    print("|---|---" + "|---" * len(methods) + "|")
    for name in args.regimes.split(","):
        cells = simulate(REGIMES[name], args.seed)
        labels, row = cells.obs["cell_type"].to_numpy(), []
        for method in methods:
            try:
                latent, facts = latent_space(method, cells.copy(), args.seed, args.n_threads)
            except ImportError as error:
                print(f"{method} could not run: {error}", file=sys.stderr)
                row.append("–")
                continue
            readings = read(latent, labels, args.seed)
            row.append(" / ".join(f"{readings[reading]:.3f}" for reading in READINGS))
            if args.out:
                line = {"regime": name, "method": method, "seed": args.seed} | readings | facts
                with args.out.open("a") as out:
                    out.write(json.dumps(line) + "\n")
        n_open = cells.X.nnz / cells.n_obs
        size = f"{cells.n_obs:,} × {cells.n_vars:,}"
        print(f"| {name}, {size} | {n_open:,.0f} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
