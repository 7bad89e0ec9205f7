"""Genes of another genome build: peaks are not at their starts."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from scale_toolkit.core.genome_builds import REACH, check_build, count_near
from scale_toolkit.errors import ScaleWarning


@pytest.fixture
def genome():
    """Genes, and peaks of which a fifth lie at their starts."""
    rng = np.random.default_rng(0)
    chrom = np.repeat(["chr1", "chr2"], 1000).astype(object)
    tss = rng.integers(10**6, 3 * 10**7, 2000)
    start = np.concatenate([tss[::2] - 200, rng.integers(10**6, 3 * 10**7, 4000)])
    where = np.concatenate([chrom[::2], rng.choice(["chr1", "chr2"], 4000)])
    return pd.DataFrame({"chrom": where, "start": start, "end": start + 400}), chrom, tss


def test_peaks_near_starts_are_counted_as_pair_by_pair():
    rng = np.random.default_rng(1)
    chrom = rng.choice(["chr1", "chr2"], 30).astype(object)
    tss = rng.integers(0, 50_000, 30)
    start = rng.integers(0, 50_000, 60)
    peaks = pd.DataFrame({"chrom": rng.choice(["chr1", "chr2", "chr3"], 60), "start": start, "end": start + 100})
    expected = sum(
        any(
            name == other and row.start - REACH <= at < row.end + REACH
            for other, at in zip(chrom, tss)
        )
        for row, name in zip(peaks.itertuples(), peaks["chrom"])
    )
    assert 0 < expected < 60
    assert count_near(peaks, chrom, tss) == expected


def test_genes_of_another_build_are_warned_about(genome):
    peaks, chrom, tss = genome
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_build(peaks, chrom, tss)
    with pytest.warns(ScaleWarning, match=r"of 5,000 peaks lie within 500 bases .* is the GTF of the peaks' genome build"):
        check_build(peaks, chrom, tss + 70_000)


def test_few_genes_and_left_out_promoters_are_not_judged(genome):
    peaks, chrom, tss = genome
    middle = ((peaks["start"] + peaks["end"]) // 2).to_numpy()
    at_start = [np.abs(tss[chrom == name] - base).min() < 1000 for name, base in zip(peaks["chrom"], middle)]
    distal = peaks[~np.array(at_start)].reset_index(drop=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_build(peaks, chrom[::50], tss[::50] + 70_000)
        check_build(distal, chrom, tss)
