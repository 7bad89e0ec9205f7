"""The counts of one input of ``prepare``, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit import scratch
from scale_toolkit.core.gather import rows_of_columns
from scale_toolkit.core.rows import compressed, entry_chunks
from scale_toolkit.errors import InputError
from scale_toolkit.stages.plausible import what_was_done

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

#: What --layer calls the matrix and peaks of ``adata.raw``.
RAW = "raw"
# Values that are looked at.
_LOOKED_AT = 1_000_000


def input_counts(
    adata: AnnData, layer: str | None, where: str, *, may_overwrite: bool = False
) -> sparse.csr_matrix:
    """Return the counts as a CSR float32 matrix in canonical form, whose arrays may be changed.

    Parameters
    ----------
    adata
        The input.
    layer
        The layer with the counts; None: X.
    where
        Begins an error: which of several inputs it is.
    may_overwrite
        The arrays of `adata` may be taken: it is not used again. Otherwise they are copied.
    """
    # from anndata 0.13 on, X is also the layer None
    layers = [name for name in adata.layers if name is not None]
    if adata.raw is not None and _holds_counts(adata.raw.X):
        layers.append(f"{RAW} (it holds counts)")
    if layer is not None and layer not in adata.layers:
        raise InputError(
            f"{where}layers has no {layer!r}",
            f"one of: {', '.join(layers) or 'none'}",
            "name another layer",
        )
    stored = adata.X if layer is None else adata.layers[layer]
    values = stored
    slot_name = "X" if layer is None else f"layers[{layer!r}]"
    if values is None:
        raise InputError(
            f"{where}X is missing",
            "counts",
            f"name a layer that holds them: {', '.join(layers) or 'none'}",
        )
    if not sparse.issparse(values):
        values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise InputError(f"{where}{slot_name} holds values of type {values.dtype}", "counts")
    if not sparse.issparse(values):
        values = sparse.csr_matrix(
            values.astype(np.float32) if values.dtype == np.float16 else values
        )  # scipy has no float16
    elif values.format not in ("csr", "csc"):
        values = values.tocsr()
    try:
        values.check_format(full_check=True)
    except ValueError as error:
        raise InputError(
            f"{where}{slot_name} is damaged ({error})",
            "a complete sparse matrix",
            "regenerate it or copy it again",
        ) from error
    _check_counts(values, adata, f"{where}{slot_name}", layers)
    rows = rows_of_columns(values, np.float32) if values.format == "csc" else values
    # a layer stays in the result; what a view or a conversion gives is a copy
    may_overwrite = (may_overwrite and layer is None) or adata.is_view or rows is not stored
    matrix = compressed(
        _owned(rows.data, np.float32, may_overwrite=may_overwrite),
        _owned(rows.indices, rows.indices.dtype, may_overwrite=may_overwrite),
        rows.indptr.copy(),
        rows.shape,
    )
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _owned(values: np.ndarray, dtype: Any, *, may_overwrite: bool) -> np.ndarray:
    """These values, or a copy of another type or of one that must not change."""
    if may_overwrite and values.dtype == dtype and values.flags.writeable:
        return values
    copy = scratch.empty(len(values), dtype)
    for chunk in entry_chunks(len(values)):
        copy[chunk] = values[chunk]
    return copy


def _holds_counts(values: Any) -> bool:
    """Whether the first values of a matrix are counts."""
    first_values = np.asarray(
        (values.data if sparse.issparse(values) else np.asarray(values).ravel())[:_LOOKED_AT]
    )
    return bool(
        len(first_values)
        and (first_values >= 0).all()
        and (first_values == np.rint(first_values)).all()
        and (first_values > 0).any()
    )


#: Faults of values by name: which values have it.
_FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "missing or infinite": lambda values: ~np.isfinite(values),
    "negative": lambda values: values < 0,
    "fractional": lambda values: values != np.rint(values),
}


def _check_counts(values: Any, adata: AnnData, place: str, layers: list[str]) -> None:
    data = values.data
    if data.dtype.kind in "bu" or not len(data):
        return
    raw = f"; it is one of: {', '.join(layers)}" if layers else ""
    advice = {
        "missing or infinite": ("a count everywhere", "write 0 where nothing was counted"),
        "negative": ("counts of 0 or more", "check the step that made them"),
        "fractional": (
            "integer counts, not normalised ones",
            f"give the raw counts, or name their layer{raw}",
        ),
    }
    for kind in advice if data.dtype.kind == "f" else ["negative"]:
        n_wrong, position = _count_faults(data, _FAULTS[kind])
        if n_wrong:
            expected, do = advice[kind]
            line = int(np.searchsorted(values.indptr, position, side="right")) - 1
            cell, peak = (
                (line, values.indices[position])
                if values.format == "csr"
                else (values.indices[position], line)
            )
            if kind == "fractional" and (guess := what_was_done(values)):
                do = f"{guess}; {do}"
            raise InputError(
                f"{place} has {n_wrong:,} {kind} values, first {data[position]:g} (cell "
                f"{adata.obs_names[cell]}, "
                f"peak {adata.var_names[peak]})",
                expected,
                do,
            )


def _count_faults(
    data: np.ndarray, is_wrong: Callable[[np.ndarray], np.ndarray]
) -> tuple[int, int]:
    """How many values have a fault, and the position of the first."""
    n_wrong, position = 0, 0
    for chunk in entry_chunks(len(data)):
        wrong = is_wrong(data[chunk])
        if not n_wrong and wrong.any():
            position = chunk.start + int(wrong.argmax())
        n_wrong += int(np.count_nonzero(wrong))
    return n_wrong, position
