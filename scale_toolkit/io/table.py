"""Count tables as text: rows are peaks, columns are barcodes, as SCALE reads them. A block of rows in memory at a time."""

from __future__ import annotations

import csv
import io
import math
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit.core.intervals import parse_names
from scale_toolkit.errors import InputError
from scale_toolkit.io import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from anndata import AnnData

_VALUES = 2_000_000  # of a block: 8 MB as float32, some ten times that while it is parsed
_WORDS = {",": "comma", "\t": "tab"}


def read_table(path: Path, separator: str) -> AnnData:
    r"""Read a table of counts.

    Parameters
    ----------
    path
        Text, plain or gzip: a header of barcodes (with or without a word over the peak names), then a line a peak.
    separator
        ``"\t"`` or ``","``.

    Returns
    -------
    AnnData
        Cells × peaks, CSR float32.

    Raises
    ------
    InputError
        An empty, ragged or transposed table, or a value that is no number; with line numbers.
    """
    from anndata import AnnData

    with files.open_text(path) as file:
        header = next(_rows(file, separator), [])
        first_line = file.readline()
        barcodes = _barcodes(path, header, first_line, separator)
        names: list[str] = []
        blocks = [sparse.csr_matrix((0, len(barcodes)), dtype=np.float32)]
        for number, lines in _blocks(file, first_line, max(1, _VALUES // (len(barcodes) + 1))):
            block = _parse(path, number, lines, separator, barcodes)
            names.extend(block.index)
            blocks.append(sparse.csr_matrix(block.to_numpy(np.float32)))
    if not names:
        raise InputError(f"{path} has a header but no row", "a line a peak", "check the command that wrote it")
    _check_orientation(path, names, barcodes)
    return AnnData(
        sparse.vstack(blocks, format="csc").T.tocsr(), obs=pd.DataFrame(index=barcodes), var=pd.DataFrame(index=names)
    )


def _rows(lines: TextIO | list[str], separator: str) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=separator)


def _barcodes(path: Path, header: list[str], first_line: str, separator: str) -> list[str]:
    if len(header) < 2 and first_line.count(separator) < 1:
        raise InputError(
            f"{path} has no {_WORDS[separator]} in its first two lines",
            f"a {_WORDS[separator]}-separated table, rows peaks, columns barcodes",
            "name the file .csv for commas, .tsv for tabs",
        )
    first = next(_rows([first_line], separator), [])
    if not first:
        raise InputError(f"{path} has a header but no row", "a line a peak", "check the command that wrote it")
    if len(first) == len(header):
        return header[1:]
    if len(first) == len(header) + 1:  # as R writes it: no word over the row names
        return header
    raise InputError(
        f"{path}, line 2: {len(first)} columns after a header of {len(header)}",
        f"{len(header)} (or {len(header) + 1}, where the header has no word over the peak names)",
        "mend that line",
    )


def _blocks(file: TextIO, first_line: str, size: int) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its first line, lines); the header is line 1."""
    number, lines = 2, [first_line, *islice(file, size - 1)]
    while lines:
        yield number, lines
        number += len(lines)
        lines = list(islice(file, size))


def _parse(path: Path, number: int, lines: list[str], separator: str, barcodes: list[str]) -> pd.DataFrame:
    width = len(barcodes) + 1
    for offset, line in enumerate(lines):  # pandas would fill a short line and cut a long one without a word
        if line.count(separator) != width - 1 and line.strip():
            found = len(next(_rows([line], separator)))
            if found != width:
                raise InputError(f"{path}, line {number + offset}: {found} columns", f"{width}", "mend that line")
    try:
        return pd.read_csv(
            io.StringIO("".join(lines)),
            sep=separator,
            header=None,
            index_col=0,
            dtype={0: str} | dict.fromkeys(range(1, width), np.float32),
            na_filter=False,  # an empty field or NA is no count, and a peak may be called NA
            quotechar='"',
        )
    except ValueError:
        raise _no_number(path, number, lines, separator, barcodes) from None


def _no_number(path: Path, number: int, lines: list[str], separator: str, barcodes: list[str]) -> InputError:
    for offset, line in enumerate(lines):
        for barcode, value in zip(barcodes, next(_rows([line], separator), [])[1:]):
            if not _is_finite(value):
                found = f"{path}, line {number + offset}, column {barcode}: {value!r}"
                return InputError(found, "a count", "mend that value; an absent count is 0")
    return InputError(f"{path}, lines {number} to {number + len(lines) - 1} cannot be read", "counts", "mend those lines")


def _is_finite(text: str) -> bool:
    try:
        return "_" not in text and math.isfinite(float(text))  # 1_000 is a number to Python alone
    except ValueError:
        return False


def _check_orientation(path: Path, names: list[str], barcodes: list[str]) -> None:
    """Columns that look like intervals while rows do not: the table lies on its side."""
    columns = parse_names(barcodes)["chrom"].notna().mean()
    rows = parse_names(names)["chrom"].notna().mean()
    if columns > 0.9 and rows < 0.1:
        raise InputError(
            f"the columns of {path} are peaks ({barcodes[0]}) and its rows are not ({names[0]})",
            "rows peaks, columns barcodes",
            "transpose the table",
        )
