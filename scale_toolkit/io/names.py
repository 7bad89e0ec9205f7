"""Files of names: barcodes and peaks, recognised by the content of columns, not their position."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scale_toolkit.core.features import FEATURE_TYPES, PEAKS
from scale_toolkit.core.intervals import parse_names
from scale_toolkit.errors import InputError
from scale_toolkit.io.source import Source, open_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: A sequence of bases with what programs put before and after it: sample#ACGT-1, ACGT_2, BC-ACGT.
_BARCODE = re.compile(r"(?:.*[^A-Za-z])?[ACGTN]{6,}(?:[^A-Za-z].*)?")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|nan|NaN|NA|", re.ASCII)
_WHOLE = re.compile(r"\d{1,15}(?:\.0*)?|\d(?:\.\d+)?[eE]\+?\d{1,2}", re.ASCII)
_CHROM = ("chr", "chrom", "chromosome", "seqnames", "seqname", "seqid", "contig")
_END = ("end", "stop", "chromend", "chrend")
_START = ("start", "chromstart", "chrstart")
#: Words over a column of barcodes; pandas and R write none over the names of rows.
_CELL = ("barcode", "barcodes", "cell", "cells", "cell_id", "cellid", "cell_barcode", "")
#: Words of a header of names, beside those of an interval.
_HEADER = {
    *(*_CELL[:-1], "index", "name"),
    *("x", "v1", "peak", "peaks", "peak_id", "feature", "features", "region", "id", "gene_id"),
    *(*_CHROM, *_START, *_END),
}
# Comments, and lines for genome browsers.
_NO_ROW = ("#", "track ", "browser ")
# Share of the values of a column that must have its form: real files have some odd ones.
_MOST = 0.9


@dataclass(frozen=True)
class Names:
    """Names of cells or peaks, and the other columns of their file.

    Attributes
    ----------
    index
        The names, in the file's order.
    columns
        The other columns, indexed by the names.
    kinds
        The type of each feature, as 10x writes it; None if the file has no such column.
    """

    index: list[str]
    columns: pd.DataFrame
    kinds: np.ndarray | None = None


def read_barcodes(place: str | os.PathLike[str] | Source, n_cells: Sequence[int] = ()) -> Names:
    """Read barcodes: a name a line, or a table with a column of barcodes.

    Parameters
    ----------
    place
        Text, plain or gzip, separated by tabs or commas. A header is recognised.
    n_cells
        How many there may be; with one line more, the first is a header.

    Returns
    -------
    Names
        The column of barcodes, by its content, and the others as they are.
    """
    rows, width = _rows(place)
    number = _barcode_column(_body(rows), width)
    header = _header(
        rows, n_cells, lambda row: number is not None and _BARCODE.fullmatch(row[number])
    )
    body = rows if header is None else rows[1:]
    if number is None:
        number = _column_by_word(header, width)
    if number is None:
        number = _distinct_column(_body(rows), width)
    return _names(body, [row[number] for row in body], header, {number}, width)


def read_features(place: str | os.PathLike[str] | Source, n_peaks: Sequence[int] = ()) -> Names:
    """Read peaks: names, the columns of a BED, 10x's ``features.tsv``, or a data frame of GRanges.

    Parameters
    ----------
    place
        Text, plain or gzip, separated by tabs, commas or blanks. A header is recognised.
    n_peaks
        How many there may be; with one line more, the first is a header.

    Returns
    -------
    Names
        Names that are intervals if a column has them or three columns make them, else the names
        that SCALE reads; ``kinds`` if a column has 10x's types of features.
    """
    rows, width = _rows(place)
    header = _header(rows, n_peaks, _is_peak)
    body = rows if header is None else rows[1:]
    kinds = _kinds(body, width)
    is_peak = np.ones(len(body), bool) if kinds is None else kinds == PEAKS
    peaks = [row for row, keep in zip(body, is_peak, strict=True) if keep] or body
    column = _interval_column(peaks, width)
    first = None if column is not None else interval_columns(peaks, width, header)
    if column is not None:
        names, used = [row[column] for row in body], {column}
    elif first is not None:
        names = [name_of(row[first : first + 3]) for row in body]
        used = {first, first + 1, first + 2}
        if kinds is not None:
            # a gene keeps its name
            names = [
                name if peak else row[0]
                for name, row, peak in zip(names, body, is_peak, strict=True)
            ]
    else:
        number = 0 if width >= 3 else _distinct_column(body, width)
        names, used = [row[number] for row in body], {number}
    return _names(body, names, header, used, width, kinds)


def name_of(interval: Sequence[str]) -> str:
    """Return ``chrom:start-end`` of three fields; 1e+05 becomes 100000, other text stays."""
    start, end = (
        str(whole_number(text) if _WHOLE.fullmatch(text) else text) for text in interval[1:3]
    )
    return f"{interval[0]}:{start}-{end}"


def whole_number(text: str) -> int:
    """Read an integer, also as R and Excel write it: ``1e+05``, ``100000.0``.

    Raises
    ------
    ValueError
        Not an integer.
    """
    if not _WHOLE.fullmatch(text.strip()):
        return int(text)
    value = float(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


def interval_columns(
    rows: Sequence[Sequence[str]], width: int, header: Sequence[str] | None = None
) -> int | None:
    """Find three columns side by side that are chromosome, start and end; returns the first, or
    None.

    With a header its words decide. Else start and end must be integers with start < end in every
    row; of several such places the one with the fewest chromosomes is taken, since row numbers
    before the interval (as R writes them) would otherwise pass for chromosomes.
    """
    if header is not None and (by_words := interval_of_header(header[:width])) is not None:
        return by_words
    candidates = []
    for number in range(width - 2):
        if all(_is_interval(row[number : number + 3]) for row in rows):
            candidates.append((len({row[number] for row in rows}), number))
    return min(candidates)[1] if candidates else None


def interval_of_header(header: Sequence[str]) -> int | None:
    """Find the words for chromosome, start and end side by side; return the position of the first,
    or None.
    """
    words = [word.lower().lstrip("#") for word in header]
    for number in range(len(words) - 2):
        if words[number] in _CHROM and words[number + 1] in _START and words[number + 2] in _END:
            return number
    return None


def _is_interval(fields: Sequence[str]) -> bool:
    if not (fields[0] and _WHOLE.fullmatch(fields[1]) and _WHOLE.fullmatch(fields[2])):
        return False
    return float(fields[1]) < float(fields[2])


def _rows(place: str | os.PathLike[str] | Source) -> tuple[list[list[str]], int]:
    """Read the fields of each line, and the number of columns that every line has."""
    name = place.name if isinstance(place, Source) else place
    with open_text(place) as file:
        lines = [
            line.rstrip("\r\n") for line in file if line.strip() and not line.startswith(_NO_ROW)
        ]
    if not lines:
        raise InputError(
            f"{name} contains no name", "one a line", "check the command that wrote it"
        )
    separator = _separator(lines)
    if separator is None:
        rows = [line.split() for line in lines]
    else:
        rows = list(csv.reader(lines, delimiter=separator)) if separator == "," else []
        rows = rows or [line.split(separator) for line in lines]
    rows = [[field.strip().strip('"') for field in row] for row in rows]
    if len(rows) > 1 and len(rows[0]) + 1 == min(map(len, rows[1:])):
        # R writes no word over the row names
        rows[0] = ["", *rows[0]]
    return rows, min(map(len, rows))


def _separator(lines: list[str]) -> str | None:
    """Return tab or comma if every line has it; None for blanks, and for names alone."""
    for separator in ("\t", ","):
        if all(separator in line for line in lines):
            return separator
    return "\t" if any("\t" in line for line in lines) else None


def _is_peak(row: list[str]) -> bool:
    """Whether a row has an interval: in a name, or as numbers."""
    return any(map(_WHOLE.fullmatch, row)) or bool(parse_names(row)["chrom"].notna().any())


def _body(rows: list[list[str]]) -> list[list[str]]:
    """All rows but one that may be a header."""
    return rows[1:] if len(rows) > 1 else rows


def _header(
    rows: list[list[str]], sizes: Sequence[int], is_data: Callable[[list[str]], object]
) -> list[str] | None:
    """Return the first row if it is a header: it has the words of one, or it alone is not data.

    With `sizes`, there must also be one row too many: an extra name is an error, not a header.
    """
    if len(rows) < 2 or (sizes and (len(rows) in sizes or len(rows) - 1 not in sizes)):
        return None
    if any(field.lower().lstrip("#") in _HEADER for field in rows[0]):
        return rows[0]
    if not rows[0][0] and all(row[0] for row in rows[1:]):
        # names of rows, which have no word over them
        return rows[0]
    is_data_row = [bool(is_data(row)) for row in rows[1:]]
    return rows[0] if not is_data(rows[0]) and np.mean(is_data_row) >= _MOST else None


def _barcode_column(rows: list[list[str]], width: int) -> int | None:
    """Return the first column that has barcodes."""
    for number in range(width):
        values = [row[number] for row in rows]
        if np.mean([bool(_BARCODE.fullmatch(value)) for value in values]) >= _MOST:
            return number
    return None


def _column_by_word(header: list[str] | None, width: int) -> int | None:
    """Return the first column whose word in the header says that it names the cells."""
    words = [] if header is None else [word.lower() for word in header[:width]]
    return next((number for number, word in enumerate(words) if word in _CELL), None)


def _interval_column(rows: list[list[str]], width: int) -> int | None:
    for number in range(width):
        values = [row[number] for row in rows]
        if parse_names(values)["chrom"].notna().mean() >= _MOST:
            return number
    return None


def _distinct_column(rows: list[list[str]], width: int) -> int:
    """The last column, as SCALE reads it, unless it repeats itself or is a number and another
    does not.
    """
    columns = [[row[number] for row in rows] for number in range(width)]
    distinct = [
        number for number in reversed(range(width)) if len(set(columns[number])) == len(rows)
    ]
    words = [n for n in distinct if not all(_NUMBER.fullmatch(value) for value in columns[n])]
    return next(iter([*words, *reversed(distinct)]), width - 1)


def _kinds(rows: list[list[str]], width: int) -> np.ndarray | None:
    for number in range(width):
        if {row[number] for row in rows} <= FEATURE_TYPES:
            return np.array([row[number] for row in rows], dtype=object)
    return None


def _names(
    rows: list[list[str]],
    names: list[str],
    header: list[str] | None,
    used: set[int],
    width: int,
    kinds: np.ndarray | None = None,
) -> Names:
    """Put the names and the other columns together; numbers become numbers."""
    columns: dict[str, pd.Series] = {}
    for number in range(width):
        if number in used:
            continue
        values = [row[number] for row in rows]
        word = header[number] if header is not None and header[number] else f"column_{number + 1}"
        while word in columns:
            word += "_"
        if (
            number == 0
            and word == "column_1"
            and values == [str(row + 1) for row in range(len(rows))]
        ):
            # row numbers, as R writes them
            continue
        columns[word] = as_numbers(pd.Series(values, index=names, dtype=object))
    return Names(names, pd.DataFrame(columns, index=names), kinds)


def as_numbers(column: pd.Series) -> pd.Series:
    """Return a column of text as numbers if every value is one that fits, else as it is."""
    if not all(_NUMBER.fullmatch(value) for value in column) or not any(column):
        return column
    values = column.replace(["", "NA", "nan", "NaN"], np.nan)
    numbers: pd.Series = pd.to_numeric(values, errors="coerce")
    # 1e999 is not a float64: then the column stays text
    return numbers if numbers.isna().equals(values.isna()) else column
