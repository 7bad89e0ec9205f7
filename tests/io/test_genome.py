"""Sequences from FASTA."""

from __future__ import annotations

import gzip
import os
import sys

import numpy as np
import pandas as pd
import pytest

from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io.genome import read_sequences

GENOME = {"chr1": "ACGTacgtNN" * 30, "chr2": "TTTTTGGGGG" * 5}


def fasta(width=37):
    lines = []
    for name, text in GENOME.items():
        lines += [f">{name} some words", *(text[i : i + width] for i in range(0, len(text), width))]
    return "\n".join(lines) + "\n"


def peaks(*rows):
    return pd.DataFrame(rows, columns=["chrom", "start", "end"])


@pytest.fixture
def genome(tmp_path):
    (tmp_path / "genome").mkdir()
    path = tmp_path / "genome" / "g.fa"
    path.write_text(fasta())
    return path


def test_sequences_are_cut_half_open_from_0(genome):
    rng = np.random.default_rng(0)
    asked = [("chr1", int(s), int(s + w)) for s, w in zip(rng.integers(0, 250, 20), rng.integers(1, 50, 20))]
    asked += [("chr2", 0, 50), ("chr1", 299, 300)]
    assert read_sequences(genome, peaks(*asked)) == [GENOME[c][s:e] for c, s, e in asked]
    assert [path.name for path in genome.parent.iterdir()] == ["g.fa"]  # nothing beside the genome


def test_gzip_and_an_index_that_is_there(genome):
    expected = [GENOME["chr1"][3:70]]
    packed = genome.with_suffix(".fa.gz")
    packed.write_bytes(gzip.compress(fasta().encode()))
    assert read_sequences(packed, peaks(("chr1", 3, 70))) == expected
    index = genome.with_name("g.fa.fai")
    index.write_text("chr1\t300\t17\t37\t38\n")  # younger: used, and it knows one chromosome
    with pytest.raises(InputError, match="no chromosome of the peaks"):
        read_sequences(genome, peaks(("chr2", 0, 5)))
    index.write_text("")  # a full disk, or a copy that was cut short: not used
    assert read_sequences(genome, peaks(("chr2", 0, 5))) == ["TTTTT"]
    index.write_text("chr1\t300\t17\t37\t38\n")
    os.utime(index, (1, 1))  # older than the genome: not used
    assert read_sequences(genome, peaks(("chr2", 0, 5))) == ["TTTTT"]


def test_another_naming_is_an_error_that_names_both(genome):
    with pytest.raises(
        InputError, match=r"no chromosome of the peaks \(1\) is in the FASTA g.fa \(chr1, chr2\).*chr1 is not 1"
    ):
        read_sequences(genome, peaks(("1", 0, 5)))


def test_chromosomes_that_are_missing_are_told(genome):
    with pytest.warns(ScaleWarning, match=r"2 of 3 peaks are on 1 of 2 chromosomes that the FASTA g.fa lacks: chrUn"):
        assert read_sequences(genome, peaks(("chrUn", 0, 5), ("chr2", 0, 5), ("chrUn", 7, 8))) == ["", "TTTTT", ""]


def test_another_build_is_told(genome):
    with pytest.raises(
        InputError, match=r"1 of 2 peaks end beyond their chromosome: chr2 has 50 bases in .*, a peak ends at 51"
    ):
        read_sequences(genome, peaks(("chr1", 0, 5), ("chr2", 40, 51)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no header\nACGT\n", "holds no sequence|cannot be read as FASTA"),
        (b">a\nACGT\nAC\nACGT\n", "cannot be read as FASTA"),
        (b">a\nACGT\n>a\nACGT\n", "cannot be read as FASTA"),
        (gzip.compress(fasta().encode() * 50, mtime=0)[:60], "truncated or damaged gzip"),
        (b"", "is empty"),
    ],
)
def test_what_is_no_fasta_is_told(tmp_path, content, message):
    (tmp_path / "g.fa").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_sequences(tmp_path / "g.fa", peaks(("chr1", 0, 5)))


def test_without_the_library_the_error_names_the_extra(genome, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyfaidx", None)
    with pytest.raises(InputError, match=r"pyfaidx is not installed; expected the extra 'motifs'"):
        read_sequences(genome, peaks(("chr1", 0, 5)))
