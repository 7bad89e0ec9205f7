"""Whether genes are of the genome build of the peaks: promoters are open, shifted ones are not."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from scale_toolkit.errors import ScaleWarning

#: Bases around the start of a gene.
REACH = 500
#: Bases by which starts are moved to see how many peaks lie near one by chance: genes stay in
#: their clusters, and the moved starts lie outside promoters.
SHIFTS = (-300_000, -100_000, -30_000, 30_000, 100_000, 300_000)
#: Peaks near starts, over those near moved starts, that suggest another build. In five real sets it
#: was 3 to 17 with genes of the right build, and 0.8 to 1.5 with those of another build or species;
#: in a sixth, with few peaks at promoters, 0.5 with the right one and 0.9 with others
#: (benchmarks/RESULTS.md).
SUSPICIOUS = (0.65, 2.0)
#: Peaks near moved starts below which nothing is said: the ratio is uncertain.
FEWEST_BY_CHANCE = 50


def check_build(peaks: pd.DataFrame, chrom: np.ndarray, tss: np.ndarray) -> None:
    """Warn if peaks are about as often at starts of genes as at random places near them.

    Parameters
    ----------
    peaks
        ``chrom``, ``start``, ``end``.
    chrom, tss
        Chromosome and first base of each gene.

    Warns
    -----
    ScaleWarning
        The genes are probably of another build.
    """
    n_near = count_near(peaks, chrom, tss)
    by_chance = float(np.mean([count_near(peaks, chrom, tss + shift) for shift in SHIFTS]))
    if by_chance < FEWEST_BY_CHANCE:
        return
    low, high = SUSPICIOUS
    if low <= n_near / by_chance < high:
        warnings.warn(
            f"{n_near:,} of {len(peaks):,} peaks lie within {REACH} bases of the start of a gene, "
            f"and {by_chance:,.0f} would by chance: is the GTF of the peaks' genome build?",
            ScaleWarning,
            stacklevel=2,
        )


def count_near(peaks: pd.DataFrame, chrom: np.ndarray, tss: np.ndarray) -> int:
    """Return the number of peaks with the start of a gene within `REACH` bases."""
    starts_by_chrom = pd.Series(tss).groupby(np.asarray(chrom)).unique()
    n_near = 0
    for name, rows in peaks.groupby("chrom").indices.items():
        if name in starts_by_chrom:
            starts = np.sort(starts_by_chrom[name])
            low = peaks["start"].to_numpy()[rows] - REACH
            high = peaks["end"].to_numpy()[rows] + REACH
            is_near = np.searchsorted(starts, low) < np.searchsorted(starts, high)
            n_near += int(is_near.sum())
    return n_near
