"""Accessibility of groups of cells as files: a table, and a bigWig for each group."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scale_toolkit.core.intervals import require_intervals
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io import files
from scale_toolkit.io.bigwig import Track, write_bigwig
from scale_toolkit.io.source import open_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt


def write_groups(
    folder: Path,
    column: str,
    means: pd.DataFrame,
    *,
    chrom_sizes: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Write ``COLUMN.tsv`` and ``COLUMN.GROUP.bw`` for each group into a folder.

    If peaks overlap, the bigWig holds their mean; bases outside all peaks have no value.

    Parameters
    ----------
    folder
        Destination, made if it is missing; each file is written completely or not at all.
    column
        The column of obs that names the groups.
    means
        Peaks × groups, in [0, 1], indexed by peak names that are intervals; peaks without values
        (NaN) are left out.
    chrom_sizes
        A file of two columns, chromosome and length, as UCSC gives them. Without it a chromosome
        ends with its last peak.
    progress
        Called after each file with a message, the files done and all files.

    Returns
    -------
    The files written.

    Raises
    ------
    InputError
        A peak name that is not an interval, or a chromosome that `chrom_sizes` lacks or ends too
        early.
    """
    means = means.dropna(how="all")
    intervals = require_intervals(means.index, "--group-dir")
    lengths = _lengths(intervals, chrom_sizes)
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / f"{plain(column)}.tsv"
    with files.atomic(table) as private:
        means.to_csv(private, sep="\t", index_label="peak", float_format="%.6g")
    if chrom_sizes is None:
        warnings.warn(
            "without --chrom-sizes each chromosome of the bigWig files ends with its last peak; "
            "some browsers refuse such files",
            ScaleWarning,
            stacklevel=2,
        )
    written = [table]
    segments = Segments(intervals)
    names = file_names(column, list(means.columns), ".bw")
    for number, (group, name) in enumerate(names.items(), 1):
        written.append(folder / name)
        track = segments.track(means[group].to_numpy(np.float64))
        with files.atomic(written[-1]) as private, private.open("wb") as file:
            write_bigwig(file, lengths, track)
        if progress is not None:
            progress("writing bigWig files", number, len(names))
    return written


def _lengths(intervals: pd.DataFrame, chrom_sizes: str | os.PathLike[str] | None) -> dict[str, int]:
    """Return the length of each chromosome that has a peak."""
    last = intervals.groupby("chrom")["end"].max().to_dict()
    if chrom_sizes is None:
        return {str(chrom): int(end) for chrom, end in last.items()}
    known = read_chrom_sizes(chrom_sizes)
    for chrom, end in last.items():
        if chrom not in known:
            raise InputError(
                f"{chrom} has peaks and is not in {chrom_sizes}",
                "a file of the genome the peaks were called on",
                "check how the chromosomes are named, and the genome build",
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
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or line.startswith("#"):
                continue
            fields = line.split()
            if len(fields) < 2 or not fields[1].isdecimal() or not 0 < int(fields[1]) < 2**32:
                raise InputError(
                    f"{path}, line {number}: {line.strip()[:60]!r}",
                    "a chromosome and its length in bases",
                    "fix that line",
                )
            sizes[fields[0]] = int(fields[1])
    if not sizes:
        raise InputError(
            f"{path} is empty", "chromosomes and their lengths", "check that this is the right file"
        )
    return sizes


class Segments:
    """Peaks cut at every start and end of a peak: disjoint intervals in the order of a bigWig."""

    def __init__(self, intervals: pd.DataFrame) -> None:
        _, chrom = np.unique(intervals["chrom"].to_numpy(str), return_inverse=True)
        start, end = (intervals[name].to_numpy(np.int64) for name in ("start", "end"))
        # one axis for all chromosomes: a chromosome begins beyond the last end of any
        stride = int(end.max()) + 1
        cuts = np.unique(np.concatenate([chrom * stride + start, chrom * stride + end]))
        self._first = np.searchsorted(cuts, chrom * stride + start)
        self._stop = np.searchsorted(cuts, chrom * stride + end)
        self._n_peaks = np.cumsum(
            np.bincount(self._first, minlength=len(cuts))
            - np.bincount(self._stop, minlength=len(cuts))
        )
        self._covered = np.flatnonzero(self._n_peaks)
        self._chrom = cuts[self._covered] // stride
        self._start, self._end = cuts[self._covered] % stride, cuts[self._covered + 1] % stride

    def track(self, values: npt.NDArray[np.float64]) -> Track:
        """Return the mean of the peaks on each segment."""
        n_cuts = len(self._n_peaks)
        sums = np.cumsum(
            np.bincount(self._first, values, n_cuts) - np.bincount(self._stop, values, n_cuts)
        )
        means = sums[self._covered] / self._n_peaks[self._covered]
        return Track(self._chrom, self._start, self._end, means)


def file_names(column: str, groups: list[str], suffix: str) -> Mapping[str, str]:
    """Return a file name for each group: letters, digits and ``._+-``; equal names get a number."""
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
    """Return a text that is safe in a file name: no separators, no leading dot, 80 characters."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", text).lstrip(".")[:80] or "_"
