"""Cell barcodes and their metadata: Cell Ranger's lists, and tables indexed by barcode."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import pandas as pd
from scipy import sparse

from scale_toolkit.core.rows import selected
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io.names import read_barcodes

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

#: Columns that say whether a barcode is a cell: singlecell.csv of Cell Ranger ATAC,
#: per_barcode_metrics.csv of Cell Ranger ARC.
_IS_CELL = ("is__cell_barcode", "is_cell")
_NO_BARCODE = "NO_BARCODE"


def read_cells(path: str | os.PathLike[str]) -> list[str]:
    """Read which barcodes are cells.

    Parameters
    ----------
    path
        A list of barcodes (``barcodes.tsv``, plain or gzip), a table with a column of barcodes, or
        Cell Ranger's ``singlecell.csv`` or ``per_barcode_metrics.csv``, of which the barcodes that
        it calls cells are taken.

    Raises
    ------
    InputError
        No barcode is called a cell, or one is duplicated.
    """
    names = read_barcodes(path)
    barcodes = pd.Index(names.index, dtype=object)
    column = next((name for name in _IS_CELL if name in names.columns), None)
    if column is not None:
        is_cell = names.columns[column].astype(str).str.lower().isin(("1", "1.0", "true"))
        barcodes = barcodes[is_cell.to_numpy() & (barcodes != _NO_BARCODE)]
        if not len(barcodes):
            raise InputError(
                f"{path} calls no barcode a cell ({column} is 0 everywhere)",
                "1 for each cell",
                "check that this is the file of the right sample",
            )
    if barcodes.has_duplicates:
        raise InputError(
            f"{path}: the barcode {barcodes[barcodes.duplicated()][0]!r} is duplicated",
            "each barcode once",
            "remove the copies",
        )
    return [str(barcode) for barcode in barcodes]


def keep_cells(adata: AnnData, barcodes: list[str], name: str) -> AnnData:
    """Keep the cells of `adata` that are listed, in its order.

    Raises
    ------
    InputError
        None of the cells is listed.

    Warns
    -----
    ScaleWarning
        Some of the listed barcodes are not in the data.
    """
    listed = adata.obs_names.isin(barcodes)
    if not listed.any():
        raise InputError(
            f"no cell of {name} is listed (first cell {adata.obs_names[0]!r}, first listed "
            f"{barcodes[0]!r})",
            "the barcodes of these cells",
            "check --barcodes: suffixes such as -1 are part of a barcode",
        )
    missing = len(barcodes) - int(listed.sum())
    if missing > 0:
        warnings.warn(
            f"{missing:,} of {len(barcodes):,} listed barcodes are not in {name}",
            ScaleWarning,
            stacklevel=2,
        )
    return adata if listed.all() else _with_rows(adata, listed)


def _with_rows(adata: AnnData, listed: np.ndarray) -> AnnData:
    """Keep these cells of an AnnData that is not used again; rows of a CSR matrix move within its
    arrays, which may be in a temporary file.
    """
    counts = adata.X
    if not (sparse.issparse(counts) and counts.format == "csr"):
        return adata[listed].copy()
    del adata.X
    listed_cells = adata[listed].copy()
    listed_cells.X = selected(counts, listed, None, in_place=True)
    return listed_cells


def read_metadata(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table of metadata, a row a cell, with a column of barcodes (see
    `names.read_barcodes`).

    Returns
    -------
    DataFrame
        The other columns, indexed by barcode; text as categories.

    Raises
    ------
    InputError
        A barcode is duplicated, or the table has one column.
    """
    names = read_barcodes(path)
    table = names.columns
    if not len(table.columns):
        raise InputError(
            f"{path} has one column",
            "barcodes and columns of metadata",
            "check that this is the right file",
        )
    if table.index.has_duplicates:
        again = table.index[table.index.duplicated()][0]
        raise InputError(
            f"{path}: the barcode {again!r} is duplicated",
            "a row for each cell",
            "remove the copies",
        )
    text = [name for name in table if table[name].dtype == object]
    return table.astype(dict.fromkeys(text, "category"))
