"""10x Cell Ranger ATAC and ARC matrices: ``filtered_peak_bc_matrix.h5``,
``filtered_feature_bc_matrix.h5``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import scratch
from scale_toolkit.core.features import PEAKS, dropped, peaks_only
from scale_toolkit.core.rows import selected
from scale_toolkit.errors import InputError
from scale_toolkit.io.hdf5 import MORE_MEMORY, read_values, stored_sizes, whole
from scale_toolkit.memory import check_fits

if TYPE_CHECKING:
    from anndata import AnnData

log = logging.getLogger("scale_toolkit")


def is_tenx(root: h5py.File) -> bool:
    """Whether an open HDF5 file is laid out as 10x does."""
    try:
        return isinstance(root.get("matrix"), h5py.Group) and "obs" not in root
    except (OSError, RuntimeError, KeyError, MemoryError):
        # damaged: its reader reports it
        return False


def read_tenx(root: h5py.File, path: str) -> AnnData:
    """Read the peaks of a 10x h5; other features of a multiome file are left out.

    Parameters
    ----------
    root
        The open file: group ``matrix``, columns (barcodes) compressed.
    path
        Its name for messages.

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

    with whole(path, kind="10x h5"):
        group = root["matrix"]
        sizes = [n for n in stored_sizes(group) if scratch.fits_in_memory(n)]
        check_fits(sum(sizes), f"reading {path}", MORE_MEMORY)
        barcodes = group["barcodes"].asstr()[:]
        features = group["features"]
        names = features["id"].asstr()[:]
        if "feature_type" in features:
            kinds = features["feature_type"].asstr()[:]
        else:
            kinds = np.full(len(names), PEAKS)
        shape = tuple(int(n) for n in group["shape"][:])
        parts = (
            read_values(group["data"], np.float32),
            read_values(group["indices"], group["indices"].dtype),
            group["indptr"][:],
        )
    if shape != (len(names), len(barcodes)):
        raise InputError(
            f"{path}: shape {shape[0]:,} × {shape[1]:,}, but {len(names):,} features and "
            f"{len(barcodes):,} barcodes",
            "the same numbers",
            "regenerate or re-download it",
        )
    try:
        # 10x compresses by barcode, so these arrays are the rows of cells × peaks
        matrix = sparse.csr_matrix(parts, shape=shape[::-1])
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise InputError(
            f"{path}: damaged matrix ({error})", "a complete 10x h5", "regenerate or re-download it"
        ) from error
    is_peak = peaks_only(kinds, path)
    if not is_peak.all():
        log.info("%s: dropped %s", path, dropped(kinds))
        matrix, names = selected(matrix, None, is_peak, in_place=True), names[is_peak]
    return AnnData(
        matrix,
        obs=pd.DataFrame(index=barcodes.astype(object)),
        var=pd.DataFrame(index=names.astype(object)),
    )
