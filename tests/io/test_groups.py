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


def spread_peaks(n_peaks, n_chromosomes, length, seed=0):
    """Peaks of 100 to 600 bases that do not overlap, and the lengths of their chromosomes."""
    rng = np.random.default_rng(seed)
    chrom = np.sort(rng.integers(0, n_chromosomes, n_peaks))
    start = np.concatenate(
        [np.sort(rng.choice(length // 1000 - 1, n, replace=False)) * 1000 for n in np.bincount(chrom, minlength=n_chromosomes)]
    )
    end = start + rng.integers(100, 600, n_peaks)
    names = [f"chr{c}:{a}-{b}" for c, a, b in zip(chrom, start, end)]
    return names, {f"chr{c}": length for c in range(n_chromosomes)}


@pytest.mark.parametrize(("n_peaks", "n_chromosomes"), [(20_000, 3), (3_000, 2_000), (1, 1)])
def test_a_large_bigwig_is_read_as_it_was_written(tmp_path, n_peaks, n_chromosomes):
    names, lengths = spread_peaks(n_peaks, n_chromosomes, 50_000_000)
    (tmp_path / "sizes").write_text("".join(f"{chrom}\t{size}\n" for chrom, size in lengths.items()))
    means = pd.DataFrame({"a": np.random.default_rng(1).random(n_peaks)}, index=names)
    _, written = write_groups(tmp_path / "out", "type", means, chrom_sizes=tmp_path / "sizes")
    places = means.index.str.extract(r"(.*):(\d+)-(\d+)")
    with pybigtools.open(str(written)) as file:
        for chrom in list(lengths)[:3]:
            rows = (places[0] == chrom).to_numpy()
            if not rows.any():
                continue
            records = list(file.records(chrom))
            assert [record[:2] for record in records] == [(int(a), int(b)) for a, b in places.loc[rows, [1, 2]].to_numpy()]
            np.testing.assert_allclose([record[2] for record in records], means["a"][rows], rtol=1e-6)
        info = file.info()["summary"]
        size = (places[2].astype(int) - places[1].astype(int)).to_numpy()
        assert info["basesCovered"] == size.sum()
        assert info["sum"] == pytest.approx((size * means["a"]).sum(), rel=1e-6)
        assert info["min"] == pytest.approx(means["a"].min()) and info["max"] == pytest.approx(means["a"].max())


def test_zoom_levels_summarise_the_bases_under_them(tmp_path):
    names, lengths = spread_peaks(20_000, 2, 40_000_000)
    (tmp_path / "sizes").write_text("".join(f"{chrom}\t{size}\n" for chrom, size in lengths.items()))
    means = pd.DataFrame({"a": np.random.default_rng(1).random(len(names))}, index=names)
    _, written = write_groups(tmp_path / "out", "type", means, chrom_sizes=tmp_path / "sizes")
    exact = by_base(names, means["a"], "chr1", 40_000_000)
    with pybigtools.open(str(written)) as file:
        levels = file.zooms()
        assert len(levels) >= 4 and levels == [levels[0] * 4**i for i in range(len(levels))]
        for level in levels[:4]:
            records = list(file.zoom_records(level, "chr1"))
            assert sum(record[2]["bases_covered"] for record in records) == np.isfinite(exact).sum()
            for start, end, summary in records[:: max(len(records) // 20, 1)]:
                bases = exact[start:end][np.isfinite(exact[start:end])]
                assert start // level == (end - 1) // level  # within a bin
                assert summary["bases_covered"] == len(bases)
                assert summary["sum"] == pytest.approx(bases.sum(), rel=1e-5)
                assert summary["sum_squares"] == pytest.approx((bases**2).sum(), rel=1e-5)
                assert (summary["min_val"], summary["max_val"]) == pytest.approx((bases.min(), bases.max()))


def test_work_follows_the_peaks_and_not_the_length_of_the_genome(means, tmp_path, monkeypatch):
    """What is compressed is the same for a chromosome a thousand times as long."""
    from scale_toolkit.io import bigwig

    compress, sizes_of = bigwig.zlib.compress, []
    monkeypatch.setattr(bigwig.zlib, "compress", lambda data: (sizes_of[-1].append(len(data)), compress(data))[1])
    for length in (10**6, 10**9):
        sizes_of.append([])
        (tmp_path / "sizes").write_text(f"chr1\t{length}\nchr2\t{length}\n")
        write_groups(tmp_path / "out", "type", means, chrom_sizes=tmp_path / "sizes")
    assert sizes_of[0] == sizes_of[1]


def test_progress_counts_the_files(means, sizes, tmp_path):
    seen = []
    write_groups(tmp_path, "type", means, chrom_sizes=sizes, progress=lambda *words: seen.append(words))
    assert seen == [("writing bigWig files", 1, 2), ("writing bigWig files", 2, 2)]


def test_an_interrupt_leaves_no_half_written_file(means, sizes, tmp_path, monkeypatch):
    from scale_toolkit.io import groups

    def interrupted(file, *_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(groups, "write_bigwig", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_groups(tmp_path / "out", "type", means, chrom_sizes=sizes)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["type.tsv"]


def test_without_sizes_a_chromosome_ends_with_its_last_peak(means, tmp_path):
    with pytest.warns(ScaleWarning, match="without --chrom-sizes"):
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
    with pytest.raises(InputError, match="1 of 6 peak names are not intervals, first 'peak1'"):
        write_groups(tmp_path, "type", means, chrom_sizes=sizes)


def test_sizes_are_read_with_comments_and_further_columns(tmp_path):
    (tmp_path / "s.fai").write_text("# made by hand\nchr1 100 6 60 61\n\nchrM\t16569\n")
    assert read_chrom_sizes(tmp_path / "s.fai") == {"chr1": 100, "chrM": 16569}
