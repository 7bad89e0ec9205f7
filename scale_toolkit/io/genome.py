"""Sequences of peaks from a genome in FASTA."""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from scale_toolkit.core.intervals import check_chromosomes
from scale_toolkit.errors import InputError
from scale_toolkit.extras import library
from scale_toolkit.io.source import Source, open_source, whole_gzip

_BLOCK = 1 << 20


def read_sequences(path: str | os.PathLike[str], peaks: pd.DataFrame) -> list[str]:
    """Read the sequence of each peak (by pyfaidx).

    An index beside the file (``genome.fa.fai``) is used if it is not older; else one is made in
    TMPDIR and removed, and so is the plain copy of a gzipped genome. Nothing is written beside the
    genome.

    Parameters
    ----------
    path
        FASTA, plain or gzip.
    peaks
        ``chrom``, ``start``, ``end``: half-open, 0-based.

    Returns
    -------
    Sequences as they are in the file, in the order of the peaks; empty for a peak on a chromosome
    that the file lacks.

    Raises
    ------
    InputError
        pyfaidx is not installed, the file is not FASTA, shares no chromosome with the peaks, or a
        peak ends beyond the end of its chromosome.

    Warns
    -----
    ScaleWarning
        The file lacks some of the peaks' chromosomes.
    """
    pyfaidx = library("pyfaidx")
    with (
        open_source(path) as source,
        tempfile.TemporaryDirectory(prefix="scale-") as folder,
    ):
        file = source.path
        index = Path(f"{file}.fai")
        # pyfaidx needs a file with a name, and not gzip
        if file is None or source.is_gzip:
            plain, index = Path(folder) / "genome.fa", Path(folder) / "genome.fa.fai"
            _unpack(source, plain)
        else:
            plain = file
            has_index = index.exists() and index.stat().st_size > 0
            if not has_index or index.stat().st_mtime < file.stat().st_mtime:
                index = Path(folder) / "genome.fa.fai"
        try:
            genome = pyfaidx.Fasta(str(plain), indexname=str(index), as_raw=True)
        except (
            pyfaidx.FastaIndexingError,
            pyfaidx.IndexNotFoundError,
            ValueError,
            UnicodeDecodeError,
        ) as error:
            reason = " ".join(str(error).split()).replace(str(plain), str(path))
            raise InputError(
                f"{path} cannot be read as FASTA: {reason}",
                "a genome in FASTA, plain or gzip",
                "repair or replace it",
            ) from None
        with genome:
            return _cut(genome, peaks, Path(source.name))


def _cut(genome: Any, peaks: pd.DataFrame, path: Path) -> list[str]:
    lengths = {name: len(genome[name]) for name in genome.keys()}  # noqa: SIM118 (no plain dict)
    check_chromosomes(peaks["chrom"], list(lengths), f"the FASTA {path.name}")
    beyond = [
        (chrom, end)
        for chrom, end in zip(peaks["chrom"], peaks["end"])
        if end > lengths.get(chrom, end)
    ]
    if beyond:
        chrom, end = beyond[0]
        raise InputError(
            f"{len(beyond):,} of {len(peaks):,} peaks end beyond their chromosome: {chrom} has "
            f"{lengths[chrom]:,} bases "
            f"in {path}, a peak ends at {end:,}",
            "the genome the peaks were called on",
            "give the FASTA of that build",
        )
    return [
        str(genome[chrom][int(start) : int(end)]) if chrom in lengths else ""
        for chrom, start, end in zip(peaks["chrom"], peaks["start"], peaks["end"])
    ]


def _unpack(source: Source, plain: Path) -> None:
    binary = gzip.open(source.binary()) if source.is_gzip else source.binary()  # noqa: SIM115
    with whole_gzip(source.name), plain.open("wb") as file:
        shutil.copyfileobj(binary, file, _BLOCK)
