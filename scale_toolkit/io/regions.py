"""BED files and lists of names: peaks to count over, regions to exclude, requested peaks and
cells.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scale_toolkit.core.intervals import COLUMNS, format_names
from scale_toolkit.errors import InputError
from scale_toolkit.io.h5ad import open_h5ad
from scale_toolkit.io.names import whole_number
from scale_toolkit.io.source import Source, is_readable_file, open_source, open_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_NO_REGION = ("#", "track", "browser")
_NUMBER = r"(?:\d+(?:\.0*)?|\d(?:\.\d+)?[eE]\+?\d+)"
_BED_LINE = re.compile(rf"\S+\s+{_NUMBER}\s+{_NUMBER}(\s|$)")


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
        A line that is not an interval (with its number), or a file without one.
    """
    with open_text(path) as file:
        return _intervals(enumerate(file, 1), path)


def _intervals(lines: Iterable[tuple[int, str]], path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read numbered lines of a BED file."""
    rows = []
    for number, line in lines:
        if not line.strip() or line.startswith(_NO_REGION):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        rows.append((fields[0].strip(), *_bounds(fields, path, number)))
    if not rows:
        raise InputError(
            f"{path} holds no interval",
            "a BED file: chrom, start, end",
            "check that this is the right file",
        )
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"start": np.int64, "end": np.int64})


def _bounds(fields: list[str], path: str | os.PathLike[str], number: int) -> tuple[int, int]:
    expected = "chrom, start, end with 0 <= start < end"
    if len(fields) < 3:
        raise InputError(
            f"{path}, line {number}: {len(fields)} column{'s' * (len(fields) > 1)}",
            expected,
            "fix that line",
        )
    try:
        start, end = whole_number(fields[1]), whole_number(fields[2])
    except ValueError:
        names = f"{path}, line {number}: start {fields[1].strip()!r}, end {fields[2].strip()!r}"
        raise InputError(names, expected, "fix that line") from None
    if not 0 <= start < end < 2**62:
        raise InputError(
            f"{path}, line {number}: start {start}, end {end}", expected, "fix that line"
        )
    return start, end


def read_wanted(text: str) -> list[str]:
    """Read the peaks that a user requests: a file, or names and intervals separated by commas.

    Parameters
    ----------
    text
        A BED file; a file with one name or interval ``chrom:start-end`` a line (further columns are
        ignored); or the names and intervals themselves. ``chr1:1,000-2,000``, as a genome browser
        writes it, is one interval.

    Returns
    -------
    Names and intervals, in the order given, repeats left out.
    """
    if is_readable_file(text):
        names = _names_or_intervals(text)
    else:
        plain_text = re.sub(
            r"(?<=[:\-])\d{1,3}(?:,\d{3})+(?=-|,|$)",
            lambda number: number[0].replace(",", ""),
            text,
        )
        names = [word.strip() for word in plain_text.split(",") if word.strip()]
    if not names:
        raise InputError(
            f"{text!r} names nothing", "a BED file, names or intervals", "check what was given"
        )
    return list(dict.fromkeys(names))


def read_barcodes(text: str) -> str | list[str]:
    """Return the cells that a user requests: the barcodes of a file, one a line, or the text
    itself, a query.
    """
    if not is_readable_file(text):
        return text
    names = [line.split("\t")[0].strip() for line in _lines(text)]
    if not names:
        raise InputError(
            f"{text} holds no barcode", "one a line", "check that this is the right file"
        )
    return list(dict.fromkeys(names))


def _names_or_intervals(source: str | os.PathLike[str] | Source) -> list[str]:
    """Read the peaks of a BED file as names, or the names that a file has, one a line."""
    with open_text(source) as file:
        lines = [(number, line.rstrip("\r\n")) for number, line in enumerate(file, 1)]
    lines = [
        (number, line) for number, line in lines if line.strip() and not line.startswith(_NO_REGION)
    ]
    if lines and all(_BED_LINE.match(line) for _, line in lines):
        name = source.name if isinstance(source, Source) else source
        return list(format_names(_intervals(lines, name)))
    return [line.split("\t")[0].strip() for _, line in lines]


def _lines(path: str | os.PathLike[str]) -> list[str]:
    with open_text(path) as file:
        return [line.rstrip("\r\n") for line in file if line.strip()]


def model_peaks(model: Path, given: Path | None) -> Callable[[], list[str] | None]:
    """Return a function that finds the names of the peaks of a model which has none: SCALE 1.1.2's
    ``model.pt``.

    Parameters
    ----------
    model
        The model file; the ``adata.h5ad`` that its run left beside it has the names.
    given
        An h5ad whose peaks they are, or a text file with one a line, instead of that.
    """

    def find() -> list[str] | None:
        beside = model.with_name("adata.h5ad")
        source = given or (beside if beside.is_file() else None)
        if source is None:
            return None
        with open_source(source) as opened:
            if opened.is_hdf5:
                with open_h5ad(opened) as file:
                    return file.peaks()
            return _names_or_intervals(opened)

    return find
