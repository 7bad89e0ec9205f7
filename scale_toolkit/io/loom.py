"""Loom files (linnarssonlab.org/loompy/format): peaks are rows, cells are columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd

from scale_toolkit.core.gather import RowGatherer
from scale_toolkit.core.intervals import parse_names
from scale_toolkit.errors import InputError
from scale_toolkit.io.hdf5 import whole

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

#: Attributes with the names: of loompy, scanpy, SnapATAC, Cell Ranger converters.
_CELLS = ("CellID", "obs_names", "barcode", "barcodes", "Barcode", "cell_id")
_PEAKS = ("Peak", "peak", "peaks", "var_names", "Gene", "Accession", "id", "name")
# Values of the matrix that are read at a time.
_VALUES = 1 << 23


def is_loom(root: h5py.File) -> bool:
    """Whether an open HDF5 file is laid out as loom."""
    try:
        has_attributes = "row_attrs" in root and "col_attrs" in root
        return has_attributes and isinstance(root.get("matrix"), h5py.Dataset)
    except (OSError, RuntimeError, KeyError):
        # damaged: its reader reports it
        return False


def read_loom(root: h5py.File, name: str) -> AnnData:
    """Read the matrix of a loom file, the names, and the attributes of peaks and cells.

    Parameters
    ----------
    root
        The open file.
    name
        Its name for messages.

    Returns
    -------
    AnnData
        Cells × peaks, CSR; attributes of one dimension in obs and var, of two in obsm and varm.

    Raises
    ------
    InputError
        It is damaged, or has no names of cells or peaks.
    """
    from anndata import AnnData

    with whole(name, kind="loom"):
        matrix = root["matrix"]
        n_peaks, n_cells = matrix.shape
        peaks, peak_arrays = _attributes(root["row_attrs"], n_peaks)
        cells, cell_arrays = _attributes(root["col_attrs"], n_cells)
        counts = _cells_by_peaks(matrix)
    return AnnData(
        counts,
        obs=_indexed(cells, _CELLS, name, "cells"),
        var=_indexed(peaks, _PEAKS, name, "peaks"),
        obsm=cell_arrays,
        varm=peak_arrays,
    )


def _cells_by_peaks(matrix: h5py.Dataset) -> sparse.csr_matrix:
    """Read the dense matrix (peaks × cells) into rows of cells, a few peaks at a time."""
    n_peaks, n_cells = matrix.shape
    step = max(1, _VALUES // max(1, n_cells))
    gatherer = RowGatherer(matrix.dtype)
    for first in range(0, n_peaks, step):
        values = matrix[first : first + step]
        peaks, cells = np.nonzero(values)
        gatherer.add(cells, first + peaks, values[peaks, cells])
    return gatherer.matrix((n_cells, n_peaks))


def _attributes(group: h5py.Group, length: int) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return the attributes of one dimension as columns, those of two as arrays."""
    columns, arrays = {}, {}
    for key, item in group.items():
        values = item.asstr()[()] if h5py.check_string_dtype(item.dtype) else item[()]
        if np.ndim(values) == 1 and len(values) == length:
            columns[key] = values
        elif np.ndim(values) == 2 and len(values) == length:
            arrays[key] = values
    return pd.DataFrame(columns, index=range(length)), arrays


def _indexed(table: pd.DataFrame, names: tuple[str, ...], name: str, what: str) -> pd.DataFrame:
    """Take the column with the names as the index: intervals first, then the usual words."""
    texts = [column for column in table if table[column].dtype == object]
    candidates = [column for column in texts if table[column].is_unique]
    intervals = [
        column
        for column in candidates
        if what == "peaks" and parse_names(table[column])["chrom"].notna().mean() > 0.9
    ]
    usual = [column for column in names if column in candidates]
    ranked = [*intervals, *usual, *candidates]
    if not ranked:
        raise InputError(
            f"{name} has no names of {what} (attributes: {', '.join(map(str, table)) or 'none'})",
            f"distinct names, in an attribute such as {names[0]}",
            "write it again with names",
        )
    index = pd.Index(table[ranked[0]].astype(str), dtype=object, name=None)
    return table.drop(columns=ranked[0]).set_axis(index, axis=0)
