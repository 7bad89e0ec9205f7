"""Tables of the markers of known cell types."""

from __future__ import annotations

import csv
import os
from typing import TYPE_CHECKING

import pandas as pd

from scale_toolkit.errors import InputError
from scale_toolkit.io.source import open_text

if TYPE_CHECKING:
    from scale_toolkit.io.source import Source

_TYPE = ("type", "cell_type", "celltype", "cluster", "label")
_MARKER = ("marker", "gene", "gene_name", "region", "peak", "symbol")


def read_type_markers(path: str | os.PathLike[str] | Source) -> pd.DataFrame:
    """Read a table with the columns ``type`` and ``marker``, separated by tabs or commas.

    A marker is the name of a gene or a region such as ``chr1:100-200``; the columns may also be
    named cell_type and gene or region.

    Returns
    -------
    DataFrame
        ``type``, ``marker`` (str), a row a marker.

    Raises
    ------
    InputError
        One of both columns or every row is missing.
    """
    with open_text(path) as file:
        lines = [line for line in file.read().splitlines() if line.strip()]
    separator = "\t" if lines and "\t" in lines[0] else ","
    rows = list(csv.reader(lines, delimiter=separator))
    header = [name.strip().lower() for name in rows[0]] if rows else []
    columns = [
        next((header.index(name) for name in names if name in header), -1)
        for names in (_TYPE, _MARKER)
    ]
    if min(columns) < 0 or len(rows) < 2:
        n_rows = max(len(rows) - 1, 0)
        raise InputError(
            f"{path} has the columns {', '.join(header) or 'none'} and {n_rows} rows",
            "the columns type and marker, and a row a marker",
        )
    complete = [row for row in rows[1:] if len(row) > max(columns)]
    pairs = [[row[column].strip() for column in columns] for row in complete]
    return pd.DataFrame([pair for pair in pairs if all(pair)], columns=["type", "marker"])
