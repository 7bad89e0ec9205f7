"""Count tables as text: rows are peaks, columns are barcodes, as SCALE reads them.

A block of rows is in memory at a time, and counts go to temporary files if memory is short.
"""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from scale_toolkit.core.gather import RowGatherer
from scale_toolkit.core.intervals import parse_names
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io.names import as_numbers, interval_columns, interval_of_header, name_of
from scale_toolkit.io.source import Source, open_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from anndata import AnnData

# Values of a block: 8 MB as float32, some ten times that while it is parsed.
_VALUES = 2_000_000
_WORDS = {",": "comma", "\t": "tab"}
#: Columns beside an interval that are not counts, as featureCounts, bedtools and R call them.
_ANNOTATION = {
    "geneid",
    "peakid",
    "peak",
    "id",
    "name",
    "strand",
    "length",
    "width",
    "score",
    "region",
    "gc",
}
_COMMENT = "#"
_CHROMOSOME = re.compile(r"chr\S+|\d{1,2}|[XYMW]|MT|[A-Z]{2}\d+\.\d+", re.ASCII)
# A smaller end of an interval may be a count.
_SHORTEST = 20


class _Columns(NamedTuple):
    """Columns of a table: `annotation` first, then a count for each barcode.

    Attributes
    ----------
    barcodes
        Names of the cells.
    annotation
        Names of the columns before the counts.
    interval
        The first of three annotation columns that are an interval; None if the first has the names.
    """

    barcodes: list[str]
    annotation: list[str]
    interval: int | None

    @property
    def width(self) -> int:
        return len(self.annotation) + len(self.barcodes)


def read_table(source: Source, separator: str) -> AnnData:
    r"""Read a table of counts.

    Parameters
    ----------
    source
        Text, plain or gzip. Comment lines (``#``) may come first, then a header of barcodes (with
        or without a word over the peak names), then a line a peak: its name, or its chromosome,
        start and end, then the counts. The columns that featureCounts and bedtools write beside
        the interval go to var. Without a header the cells are numbered, with a warning.
    separator
        ``"\t"`` or ``","``.

    Returns
    -------
    AnnData
        Cells × peaks, CSR float32.

    Raises
    ------
    InputError
        An empty, ragged or transposed table, or a value that is not a number; with line numbers.
    """
    from anndata import AnnData

    path = source.name
    with open_text(source) as file:
        number, header_line = 1, file.readline()
        # bedtools writes the header as a comment; then the line after it is not one
        while header_line.startswith(_COMMENT) or (header_line and not header_line.strip()):
            following = file.readline()
            if header_line.count(separator) >= 2 and not following.startswith(_COMMENT):
                header_line, first_line = header_line.lstrip(_COMMENT).lstrip(), following
                break
            number, header_line = number + 1, following
        else:
            first_line = file.readline()
        header = next(_rows([header_line], separator), [])
        columns, has_header = _layout(path, header, first_line, separator, number)
        lines_before = [first_line] if has_header else [header_line, first_line]
        number += has_header
        gatherer, n_peaks, tables = RowGatherer(), 0, []
        size = max(1, _VALUES // (columns.width + 1))
        for first, lines in _blocks(file, lines_before, number, size):
            annotation, counts = _parse(path, first, lines, separator, columns)
            tables.append(annotation)
            values = counts.to_numpy(np.float32)
            peak, cell = np.nonzero(values)
            gatherer.add(cell, n_peaks + peak, values[peak, cell])
            n_peaks += len(values)
    var = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if not len(var):
        raise InputError(
            f"{path} has a header but no row", "a line a peak", "check the command that wrote it"
        )
    names = _peak_names(var, columns)
    _check_orientation(path, names, columns.barcodes)
    return AnnData(
        gatherer.matrix((len(columns.barcodes), n_peaks)),
        obs=pd.DataFrame(index=columns.barcodes),
        var=_kept(var, columns).set_axis(names, axis=0),
    )


def _peak_names(var: pd.DataFrame, columns: _Columns) -> list[str]:
    if columns.interval is None:
        return [str(name) for name in var.iloc[:, 0]]
    parts = var.iloc[:, columns.interval : columns.interval + 3]
    return [name_of([str(field) for field in row]) for row in parts.itertuples(index=False)]


def _kept(var: pd.DataFrame, columns: _Columns) -> pd.DataFrame:
    """The annotation that is not part of the names; numbers become numbers."""
    first = columns.interval
    used = {0} if first is None else {first, first + 1, first + 2}
    annotation = {
        name: as_numbers(var.iloc[:, number])
        for number, name in enumerate(columns.annotation)
        if number not in used
    }
    return pd.DataFrame(annotation, index=var.index)


def _rows(lines: TextIO | list[str], separator: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=separator)


def _layout(
    path: str, header: list[str], first_line: str, separator: str, number: int
) -> tuple[_Columns, bool]:
    """Return the columns of the table, and whether the first line is a header."""
    first = next(_rows([first_line], separator), [])
    if len(header) < 2 and len(first) < 2:
        raise InputError(
            f"{path} has no {_WORDS[separator]} in its first two lines",
            f"a {_WORDS[separator]}-separated table, rows peaks, columns barcodes",
            "name the file .csv for commas, .tsv for tabs",
        )
    if _is_data(header) and (not first or len(first) == len(header)):
        interval = 0 if _starts_with_interval(header) else None
        n_annotation = 1 if interval is None else 3
        barcodes = [f"cell_{n + 1}" for n in range(len(header) - n_annotation)]
        warnings.warn(
            f"{path} has no header: its cells are called cell_1 to cell_{len(barcodes)}",
            ScaleWarning,
            stacklevel=4,
        )
        names = [f"column_{n + 1}" for n in range(n_annotation)]
        return _Columns(barcodes, names, interval), False
    if not first:
        raise InputError(
            f"{path} has a header but no row", "a line a peak", "check the command that wrote it"
        )
    if len(first) == len(header) + 1:
        # R writes no word over the row names
        header = ["", *header]
    elif len(first) != len(header):
        raise InputError(
            f"{path}, line {number + 1}: {len(first)} columns after a header of {len(header)}",
            f"{len(header)} (or {len(header) + 1}, if the header has no word over the peak names)",
            "fix that line",
        )
    n_annotation, interval = 1, interval_of_header(header)
    if interval is not None:
        n_annotation = interval + 3
        while n_annotation < len(header) and header[n_annotation].lower() in _ANNOTATION:
            n_annotation += 1
        if parse_names(first[:1])["chrom"].notna().all():
            # the row names are intervals already
            interval = None
    return _Columns(header[n_annotation:], header[:n_annotation], interval), True


def _is_data(fields: list[str]) -> bool:
    """Whether a first line is a peak and its counts: all but its name, or its interval, are
    numbers.
    """
    if len(fields) < 2:
        return False
    is_named = parse_names(fields[:1])["chrom"].notna().all()
    is_data = bool(is_named) or _starts_with_interval(fields)
    return is_data and all(_is_finite(value) for value in fields[1:])


def _starts_with_interval(fields: list[str]) -> bool:
    """Whether a line begins with chromosome, start and end; two counts may look like the last
    two.
    """
    if len(fields) < 4 or not _CHROMOSOME.fullmatch(fields[0]):
        return False
    return interval_columns([fields], 3) == 0 and float(fields[2]) >= _SHORTEST


def _blocks(
    file: TextIO, lines_before: list[str], number: int, size: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, lines)."""
    all_lines = chain(lines_before, file)
    while lines := list(islice(all_lines, size)):
        yield number, lines
        number += len(lines)


def _parse(
    path: str, number: int, lines: list[str], separator: str, columns: _Columns
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read lines as annotation (text) and counts."""
    width, n_annotation = columns.width, len(columns.annotation)
    # pandas would silently fill a short line and truncate a long one
    for offset, line in enumerate(lines):
        if line.count(separator) != width - 1 and line.strip():
            n_fields = len(next(_rows([line], separator)))
            if n_fields != width:
                raise InputError(
                    f"{path}, line {number + offset}: {n_fields} columns",
                    f"{width}",
                    "fix that line",
                )
    kinds: dict[int, type] = dict.fromkeys(range(n_annotation), str)
    kinds |= dict.fromkeys(range(n_annotation, width), np.float32)
    try:
        table = pd.read_csv(
            io.StringIO("".join(lines)),
            sep=separator,
            header=None,
            index_col=False,
            dtype=kinds,
            # an empty field or NA is not a count, and a peak may be called NA
            na_filter=False,
            quotechar='"',
        )
    except ValueError:
        raise _not_a_number(path, number, lines, separator, columns) from None
    return table.iloc[:, :n_annotation], table.iloc[:, n_annotation:]


def _not_a_number(
    path: str, number: int, lines: list[str], separator: str, columns: _Columns
) -> InputError:
    for offset, line in enumerate(lines):
        fields = next(_rows([line], separator), [])[len(columns.annotation) :]
        for barcode, value in zip(columns.barcodes, fields, strict=False):
            if not _is_finite(value):
                problem = f"{path}, line {number + offset}, column {barcode}: {value!r}"
                return InputError(problem, "a count", "fix that value; an absent count is 0")
    return InputError(
        f"{path}, lines {number} to {number + len(lines) - 1} cannot be read",
        "counts",
        "fix those lines",
    )


def _is_finite(text: str) -> bool:
    try:
        # 1_000 is a number only in Python
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def _check_orientation(path: str, names: list[str], barcodes: list[str]) -> None:
    """Refuse a table whose columns look like intervals while its rows do not: it is transposed."""
    columns = parse_names(barcodes)["chrom"].notna().mean()
    rows = parse_names(names)["chrom"].notna().mean()
    if columns > 0.9 and rows < 0.1:
        raise InputError(
            f"the columns of {path} are peaks ({barcodes[0]}) and its rows are not ({names[0]})",
            "rows peaks, columns barcodes",
            "transpose the table",
        )
