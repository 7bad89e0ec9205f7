"""Files that `markers` writes beside the h5ad: tables, and one BED file for each cluster."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from scale_toolkit.core.intervals import COLUMNS, require_intervals
from scale_toolkit.io import files
from scale_toolkit.io.groups import file_names

# Characters that would end a column or a line.
_CONTROL = r"[\x00-\x1f\x7f]+"


def write_table(path: str | os.PathLike[str], table: pd.DataFrame) -> None:
    """Write a table, tab-separated, whole or not at all; control characters in names become
    blanks.
    """
    clean = {
        name: _clean(column) if column.dtype.kind not in "fiub" else column
        for name, column in table.items()
    }
    with files.atomic(path) as private:
        pd.DataFrame(clean).to_csv(private, sep="\t", index=False, float_format="%.6g")


def write_beds(folder: Path, column: str, markers: pd.DataFrame) -> list[Path]:
    """Write ``COLUMN.CLUSTER.bed`` for each cluster with markers into `folder`, which is made if it
    is missing.

    BED of six columns, by position: the name is the peak's, the score −10 log10 of the corrected
    p-value, 1000 at most.

    Parameters
    ----------
    folder
        Destination; each file is written completely or not at all.
    column
        The column of obs that names the clusters.
    markers
        ``cluster`` (category), ``peak`` (names that are intervals) and ``fdr``, a row a marker.

    Returns
    -------
    The files written: none for a cluster without markers.

    Raises
    ------
    InputError
        A peak name that is not an interval.
    """
    intervals = require_intervals(markers["peak"].to_numpy(), "--bed-dir")
    fdr = np.maximum(markers["fdr"].to_numpy(np.float64), 1e-100)
    intervals["name"] = _clean(markers["peak"]).str.replace(" ", "_").to_numpy()
    intervals["score"] = np.clip(np.round(-10 * np.log10(fdr)), 0, 1000).astype(np.int64)
    intervals["strand"] = "."
    folder.mkdir(parents=True, exist_ok=True)
    names = file_names(column, list(markers["cluster"].cat.categories), ".bed")
    written = []
    for cluster, name in names.items():
        cluster_markers = intervals[(markers["cluster"] == cluster).to_numpy()].sort_values(
            COLUMNS, kind="stable"
        )
        if len(cluster_markers):
            written.append(folder / name)
            with files.atomic(written[-1]) as private:
                cluster_markers.to_csv(private, sep="\t", index=False, header=False)
    return written


def _clean(column: pd.Series) -> pd.Series:
    return column.astype(object).astype(str).str.replace(_CONTROL, " ", regex=True)
