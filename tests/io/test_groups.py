"""Means of groups as a table and as bigWig."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pybigtools
import pytest

from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io.groups import read_chrom_sizes, write_groups

PEAKS = ["chr2:100-200", "chr1:10-20", "chr1:15-40", "chr1:40-50", "chr1:45-48", "chr1:90-100", "chr3:5-6"]


@pytest.fixture
def means():
    values = np.random.default_rng(0).random((len(PEAKS), 2)).astype(np.float32)
    values[-1] = np.nan  # not modelled
    return pd.DataFrame(values, index=PEAKS, columns=["T cell", "B/mem"])


@pytest.fixture
def sizes(tmp_path):
    (tmp_path / "sizes").write_text("chr1\t1000\nchr2\t500\nchrX\t9\n")
    return tmp_path / "sizes"


def by_base(names, values, chrom, length):
    """The definition: each base has the mean of the peaks on it."""
    total, covered = np.zeros((2, length))
    for name, value in zip(names, values):
        where, _, span = name.partition(":")
        if where == chrom and not np.isnan(value):
            start, end = map(int, span.split("-"))
            total[start:end] += value
            covered[start:end] += 1
    return np.where(covered > 0, total / np.maximum(covered, 1), np.nan)


def test_a_bigwig_holds_the_mean_of_the_peaks_on_each_base(means, sizes, tmp_path):
    written = write_groups(tmp_path / "out", "type", means, chrom_sizes=sizes)
    assert [path.name for path in written] == ["type.tsv", "type.T_cell.bw", "type.B_mem.bw"]
    for path, group in zip(written[1:], means):
        with pybigtools.open(str(path)) as file:
            assert file.chroms() == {"chr1": 1000, "chr2": 500}
            for chrom, length in file.chroms().items():
                expected = by_base(PEAKS, means[group], chrom, length)
                made = file.values(chrom, 0, length, fillna=None)
                np.testing.assert_allclose(made, expected, rtol=1e-6)
    table = pd.read_csv(written[0], sep="\t", index_col="peak")
    np.testing.assert_allclose(table.to_numpy(), means.to_numpy()[:-1], rtol=1e-5)
    assert list(table.index) == PEAKS[:-1] and list(table.columns) == list(means.columns)


def test_without_sizes_a_chromosome_ends_with_its_last_peak(means, tmp_path):
    with pytest.warns(ScaleWarning, match="no --chrom-sizes"):
        written = write_groups(tmp_path, "type", means)
    with pybigtools.open(str(written[1])) as file:
        assert file.chroms() == {"chr1": 100, "chr2": 200}


def test_groups_whose_names_become_the_same_keep_files_of_their_own(means, sizes, tmp_path):
    means.columns = ["a/b", "A b"]
    written = write_groups(tmp_path / "out", "../x", means, chrom_sizes=sizes)
    assert [path.name for path in written] == ["_x.tsv", "_x.a_b.bw", "_x.A_b.2.bw"]
    assert {path.parent for path in written} == {tmp_path / "out"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("chr1\t1000\n", "chr2 has peaks and is not in"),
        ("chr1\t99\nchr2\t500\n", "chr1 ends at 99 in .*a peak at 100"),
        ("chr1 ten\n", "line 1: 'chr1 ten'; expected a chromosome and its length"),
        ("# nothing\n", "is empty"),
    ],
)
def test_sizes_of_another_genome_are_told(means, tmp_path, text, words):
    (tmp_path / "sizes").write_text(text)
    with pytest.raises(InputError, match=words):
        write_groups(tmp_path / "out", "type", means, chrom_sizes=tmp_path / "sizes")
    assert not (tmp_path / "out").exists()


def test_peaks_that_are_no_intervals_are_told(means, sizes, tmp_path):
    means.index = ["peak1", *means.index[1:]]
    with pytest.raises(InputError, match="1 of 6 peak names are no interval, first 'peak1'"):
        write_groups(tmp_path, "type", means, chrom_sizes=sizes)


def test_sizes_are_read_with_comments_and_further_columns(tmp_path):
    (tmp_path / "s.fai").write_text("# made by hand\nchr1 100 6 60 61\n\nchrM\t16569\n")
    assert read_chrom_sizes(tmp_path / "s.fai") == {"chr1": 100, "chrM": 16569}
