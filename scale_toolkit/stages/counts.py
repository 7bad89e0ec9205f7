"""The counts of an AnnData as a checked CSR matrix, in memory or backed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit import keys, scratch
from scale_toolkit.core.rows import (
    MOST_INT32,
    compressed,
    entry_chunks,
    selected,
    with_one_index_type,
)
from scale_toolkit.errors import InputError

if TYPE_CHECKING:
    from anndata import AnnData


def counts_of(adata: AnnData, cells: slice | None = None) -> sparse.csr_matrix:
    """Return ``adata.X``, or some of its rows, as CSR in memory; its arrays are those of X if X is
    a CSR matrix in memory.

    Raises
    ------
    InputError
        X is empty.
    """
    X = adata.X
    if X is None:
        raise InputError(
            "X is empty", "counts, cells × peaks", "run `scale prepare` on the counts first"
        )
    if cells is not None:
        X = _stored_rows(X, cells) if hasattr(X, "group") else X[cells]
    # the sparse dataset of a backed AnnData is not a SciPy matrix
    if hasattr(X, "to_memory"):
        X = X.to_memory()
    counts = sparse.csr_matrix(X if sparse.issparse(X) else np.asarray(X))
    return with_one_index_type(counts)


def _stored_rows(X: Any, cells: slice) -> sparse.csr_matrix:
    """Read some rows of a CSR matrix in an HDF5 file; much of it goes to a temporary file."""
    pointers = X.group["indptr"][cells.start : cells.stop + 1].astype(np.int64)
    origin, n_stored = int(pointers[0]), int(pointers[-1] - pointers[0])
    # as SciPy chooses it, which would otherwise copy int64 indices into memory
    index_type = np.int32 if max(n_stored, X.shape[1]) <= MOST_INT32 else np.int64
    arrays = []
    for name, dtype in (("data", X.group["data"].dtype), ("indices", index_type)):
        values = scratch.empty(n_stored, dtype)
        for chunk in entry_chunks(n_stored):
            stop = min(chunk.stop, n_stored)
            values[chunk] = X.group[name][origin + chunk.start : origin + stop]
        arrays.append(values)
    shape = (cells.stop - cells.start, X.shape[1])
    data, indices = arrays
    return compressed(data, indices, (pointers - origin).astype(index_type), shape)


def check_counts(counts: sparse.csr_matrix) -> None:
    """Raise `InputError` unless all stored values are counts: integers of 0 or more."""
    chunks = (counts.data[chunk] for chunk in entry_chunks(counts.nnz))
    if not all(
        (np.isfinite(data) & (data >= 0) & (data == np.floor(data))).all() for data in chunks
    ):
        raise InputError(
            "X holds negative, fractional or missing values",
            "counts",
            "give the raw counts to `scale prepare`",
        )


def open_peaks(adata: AnnData) -> sparse.csr_matrix:
    """Return X as open (1) or closed, (cells, peaks) CSR of bool without stored zeros.

    Its index arrays are those of X if X is a canonical CSR matrix.

    Raises
    ------
    InputError
        X is empty, has no cell or no peak, or holds values that are negative or not finite.
    """
    if 0 in adata.shape:
        raise InputError(
            f"X is {adata.n_obs} cells × {adata.n_vars} peaks",
            "one or more of each",
            "run `scale prepare` first",
        )
    counts = counts_of(adata)
    low, high = (counts.data.min(), counts.data.max()) if counts.nnz else (0, 0)
    if not (np.isfinite(low) and np.isfinite(high) and low >= 0):
        raise InputError(
            f"X ranges from {low:g} to {high:g}",
            "counts of 0 or more",
            "give counts as `scale prepare` writes them",
        )
    flags = scratch.empty(len(counts.data), bool)
    for chunk in entry_chunks(len(flags)):
        flags[chunk] = counts.data[chunk] > 0
    is_open = compressed(flags, counts.indices, counts.indptr, counts.shape)
    if not flags.all() or not counts.has_canonical_format:
        # the index arrays are those of X, which must not change
        is_open = is_open.copy()
        is_open.sum_duplicates()
        is_open.eliminate_zeros()
    return is_open


def over_all(values: np.ndarray, positions: np.ndarray, n_peaks: int, fill: float) -> np.ndarray:
    """Return `values` of some peaks in an array over all `n_peaks`, `fill` for the rest; the dtype
    is kept.

    Parameters
    ----------
    values
        (k, …), one row for each of k peaks.
    positions
        Positions (k integers) or mask (n_peaks booleans) of these peaks.
    """
    spread = np.full((n_peaks, *values.shape[1:]), fill, values.dtype)
    spread[positions] = values
    return spread


def modelled_peaks(adata: AnnData) -> np.ndarray:
    """Return which peaks the model sees, (peaks,) bool: the selected ones, or all without a
    selection.
    """
    if not keys.SELECTED.found_in(adata):
        return np.ones(adata.n_vars, bool)
    selected = np.asarray(keys.SELECTED.get(adata), bool)
    if not selected.any():
        raise InputError(
            f"{keys.SELECTED} marks none of {adata.n_vars:,} peaks",
            "at least one",
            "run `scale select-peaks` again",
        )
    return selected


def modelled_counts(
    adata: AnnData, modelled: np.ndarray, cells: slice | None = None
) -> sparse.csr_matrix:
    """Return the counts of the modelled peaks, checked: integers of at least two cells; of all
    cells or of some.
    """
    counts = counts_of(adata, cells)
    if adata.n_obs < 2 or adata.n_vars < 1:
        raise InputError(
            f"{adata.n_obs} cells × {adata.n_vars} peaks",
            "two cells or more",
            "check the filters of `scale prepare`",
        )
    check_counts(counts)
    return counts if modelled.all() else selected(counts, None, modelled)
