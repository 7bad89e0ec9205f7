"""10x Cell Ranger ATAC and ARC matrices: ``filtered_peak_bc_matrix.h5``, ``filtered_feature_bc_matrix.h5``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit.errors import InputError
from scale_toolkit.io.hdf5 import FOR_A_LOOK, MORE_MEMORY, open_hdf5, stored_sizes, whole
from scale_toolkit.memory import bounded, check_fits

if TYPE_CHECKING:
    from anndata import AnnData

_PEAKS = "Peaks"


def is_tenx(path: Path) -> bool:
    """Whether an HDF5 file is laid out as 10x does."""
    try:
        with bounded(FOR_A_LOOK), h5py.File(path, "r") as file:
            return isinstance(file.get("matrix"), h5py.Group) and "obs" not in file
    except (OSError, RuntimeError, KeyError, MemoryError):  # damaged: what reads it says so
        return False


def read_tenx(path: Path) -> AnnData:
    """Read the peaks of a 10x h5; other features of a multiome file are left out.

    Parameters
    ----------
    path
        The file: group ``matrix``, columns (barcodes) compressed.

    Returns
    -------
    AnnData
        Cells × peaks, CSR float32.

    Raises
    ------
    InputError
        Damaged, or without peaks.
    """
    from anndata import AnnData

    with open_hdf5(path, str(path), kind="10x h5") as file, whole(str(path), kind="10x h5"):
        group = file["matrix"]
        check_fits(sum(stored_sizes(group)), f"reading {path}", MORE_MEMORY)
        barcodes = group["barcodes"].asstr()[:]
        features = group["features"]
        names = features["id"].asstr()[:]
        kinds = (
            features["feature_type"].asstr()[:]
            if "feature_type" in features
            else np.full(len(names), _PEAKS)
        )
        shape = tuple(int(n) for n in group["shape"][:])
        parts = (group["data"][:].astype(np.float32), group["indices"][:], group["indptr"][:])
    if shape != (len(names), len(barcodes)):
        raise InputError(
            f"{path}: shape {shape[0]:,} × {shape[1]:,}, but {len(names):,} features and {len(barcodes):,} barcodes",
            "the same numbers",
            "make or copy it again",
        )
    try:
        matrix = sparse.csr_matrix(
            parts, shape=shape[::-1]
        )  # 10x compresses by barcode: these are the rows of cells × peaks
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise InputError(
            f"{path}: damaged matrix ({error})", "a whole 10x h5", "make or copy it again"
        ) from error
    is_peak = kinds == _PEAKS
    if not is_peak.any():
        found = ", ".join(sorted(set(kinds))[:3]) or "none"
        raise InputError(
            f"{path} has no peaks (feature types: {found})",
            f"features of type {_PEAKS}",
            "give the ATAC matrix",
        )
    if not is_peak.all():
        matrix, names = matrix[:, np.flatnonzero(is_peak)], names[is_peak]
    return AnnData(
        matrix,
        obs=pd.DataFrame(index=barcodes.astype(object)),
        var=pd.DataFrame(index=names.astype(object)),
    )
