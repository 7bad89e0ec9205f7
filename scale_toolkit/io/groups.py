"""Accessibility of groups of cells as files: one table, and one bigWig a group for genome browsers."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from scale_toolkit.core.intervals import require_intervals
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io import files


def write_groups(
    folder: Path, column: str, means: pd.DataFrame, *, chrom_sizes: str | os.PathLike[str] | None = None
) -> list[Path]:
    """Write ``COLUMN.tsv`` and ``COLUMN.GROUP.bw`` for each group into `folder`, which is made where it is missing.

    Where peaks overlap, the bigWig holds their mean; bases outside all peaks have no value.

    Parameters
    ----------
    folder
        Where the files go; each is written whole or not at all.
    column
        The column of obs that names the groups.
    means
        Peaks × groups, in [0, 1], indexed by peak names that are intervals; peaks without values (NaN) are left out.
    chrom_sizes
        A file of two columns, chromosome and length, as UCSC gives them. Without it a chromosome ends with its last peak.

    Returns
    -------
    The files written.

    Raises
    ------
    InputError
        A peak name that is no interval, or a chromosome that `chrom_sizes` lacks or ends too early.
    """
    import pybigtools

    means = means.dropna(how="all")
    places = require_intervals(means.index, "--group-dir")
    lengths = _lengths(places, chrom_sizes)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{plain(column)}.tsv"]
    with files.atomic(written[0]) as private:
        means.to_csv(private, sep="\t", index_label="peak", float_format="%.6g")
    if chrom_sizes is None:
        warnings.warn(
            "no --chrom-sizes: in the bigWig files each chromosome ends with its last peak; some browsers refuse such files",
            ScaleWarning,
            stacklevel=2,
        )
    segments = _Segments(places)
    names = file_names(column, list(means.columns), ".bw")
    for group, name in names.items():
        written.append(folder / name)
        with files.atomic(written[-1]) as private:
            writer = pybigtools.open(str(private), "w")
            writer.write(lengths, segments.of(means[group].to_numpy(np.float64)))
    return written


def _lengths(places: pd.DataFrame, chrom_sizes: str | os.PathLike[str] | None) -> dict[str, int]:
    """Length of each chromosome that has a peak."""
    last = places.groupby("chrom")["end"].max().to_dict()
    if chrom_sizes is None:
        return {str(chrom): int(end) for chrom, end in last.items()}
    known = read_chrom_sizes(chrom_sizes)
    for chrom, end in last.items():
        if chrom not in known:
            raise InputError(
                f"{chrom} has peaks and is not in {chrom_sizes}",
                "a file of the genome the peaks were called on",
                "look at how the chromosomes are named and at the genome build",
            )
        if known[chrom] < end:
            raise InputError(
                f"{chrom} ends at {known[chrom]:,} in {chrom_sizes}, a peak at {end:,}",
                "the genome the peaks were called on",
                "give the sizes of that build",
            )
    return {str(chrom): known[chrom] for chrom in last}


def read_chrom_sizes(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read a file of two columns: chromosome and its length in bases."""
    sizes = {}
    with files.open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or line.startswith("#"):
                continue
            fields = line.split()
            if len(fields) < 2 or not fields[1].isdecimal() or not 0 < int(fields[1]) < 2**32:
                raise InputError(
                    f"{path}, line {number}: {line.strip()[:60]!r}", "a chromosome and its length in bases", "mend that line"
                )
            sizes[fields[0]] = int(fields[1])
    if not sizes:
        raise InputError(f"{path} is empty", "chromosomes and their lengths", "check that this is the right file")
    return sizes


class _Segments:
    """Peaks cut where one begins or ends inside another, in the order of a bigWig."""

    def __init__(self, places: pd.DataFrame) -> None:
        self._parts = []
        for chrom, rows in sorted(pd.Series(np.arange(len(places))).groupby(places["chrom"].to_numpy()).indices.items()):
            start, end = (places[name].to_numpy(np.int64)[rows] for name in ("start", "end"))
            cuts = np.unique(np.concatenate([start, end]))
            self._parts.append((str(chrom), cuts, np.searchsorted(cuts, start), np.searchsorted(cuts, end), rows))

    def of(self, values: np.ndarray) -> Iterator[tuple[str, int, int, float]]:
        """Yield (chromosome, start, end, mean of the peaks there)."""
        for chrom, cuts, first, last, rows in self._parts:
            total, covered = np.zeros((2, len(cuts)))
            for place, sign in ((first, 1), (last, -1)):
                np.add.at(total, place, sign * values[rows])
                np.add.at(covered, place, sign)
            covered = np.cumsum(covered)
            mean = np.cumsum(total) / np.maximum(covered, 1)
            for i in np.flatnonzero(covered > 0):
                yield chrom, int(cuts[i]), int(cuts[i + 1]), float(mean[i])


def file_names(column: str, groups: list[str], suffix: str) -> Mapping[str, str]:
    """A file name a group: letters, digits and ``._+-``; a number is added where two become the same."""
    names, used = {}, set()
    for group in groups:
        bare = name = f"{plain(column)}.{plain(group)}"
        number = 1
        while name.lower() in used:
            number += 1
            name = f"{bare}.{number}"
        used.add(name.lower())
        names[group] = f"{name}{suffix}"
    return names


def plain(text: str) -> str:
    """A text as a part of a file name: no separators, no leading dot, 80 characters at most."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text).lstrip(".")[:80] or "_"
