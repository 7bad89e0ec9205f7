"""BED files: peaks to count over and regions to leave out."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd

from scale_toolkit.errors import InputError
from scale_toolkit.intervals import COLUMNS
from scale_toolkit.io import files

_NO_REGION = ("#", "track", "browser")


def read_bed(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read the first three columns of a BED file, plain or gzip.

    Comment, ``track`` and ``browser`` lines are passed over; further columns are ignored.

    Parameters
    ----------
    path
        The file; tab-separated (blanks are accepted).

    Returns
    -------
    DataFrame
        ``chrom`` (str), ``start``, ``end`` (int64): half-open, in the file's order.

    Raises
    ------
    InputError
        A line that is no interval (its number is told), or a file without one.
    """
    rows = []
    with files.open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or line.startswith(_NO_REGION):
                continue
            fields = line.split("\t") if "\t" in line else line.split()
            rows.append((fields[0].strip(), *_bounds(fields, path, number)))
    if not rows:
        raise InputError(f"{path} holds no interval", "a BED file: chrom, start, end", "check that this is the right file")
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"start": np.int64, "end": np.int64})


def _bounds(fields: list[str], path: str | os.PathLike[str], number: int) -> tuple[int, int]:
    expected = "chrom, start, end with 0 <= start < end"
    if len(fields) < 3:
        raise InputError(f"{path}, line {number}: {len(fields)} column{'s' * (len(fields) > 1)}", expected, "mend that line")
    try:
        start, end = int(fields[1]), int(fields[2])
    except ValueError:
        found = f"{path}, line {number}: start {fields[1].strip()!r}, end {fields[2].strip()!r}"
        raise InputError(found, expected, "mend that line") from None
    if not 0 <= start < end < 2**62:
        raise InputError(f"{path}, line {number}: start {start}, end {end}", expected, "mend that line")
    return start, end
