"""The counts of one input of ``prepare``, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit.errors import InputError
from scale_toolkit.stages.plausible import what_was_done

if TYPE_CHECKING:
    from anndata import AnnData

#: What --layer calls the matrix and peaks of ``adata.raw``.
RAW = "raw"
# Values that are looked at.
_LOOKED_AT = 1_000_000


def input_counts(adata: AnnData, layer: str | None, where: str) -> sparse.csr_matrix:
    """The counts as a new CSR float32 matrix in canonical form."""
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
    values = adata.X if layer is None else adata.layers[layer]
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
    rows = values.tocsr()
    matrix = sparse.csr_matrix(
        (rows.data.astype(np.float32), rows.indices.copy(), rows.indptr.copy()), shape=rows.shape
    )
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


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


def _check_counts(values: Any, adata: AnnData, place: str, layers: list[str]) -> None:
    data = values.data
    if data.dtype.kind in "bu" or not len(data):
        return
    faults = [("negative", data < 0, "counts of 0 or more", "check the step that made them")]
    if data.dtype.kind == "f":
        raw = f"; it is one of: {', '.join(layers)}" if layers else ""
        faults = [
            (
                "missing or infinite",
                ~np.isfinite(data),
                "a count everywhere",
                "write 0 where nothing was counted",
            ),
            *faults,
            (
                "fractional",
                data != np.rint(data),
                "integer counts, not normalised ones",
                f"give the raw counts, or name their layer{raw}",
            ),
        ]
    for kind, wrong, expected, do in faults:
        if wrong.any():
            position = int(wrong.argmax())
            line = int(np.searchsorted(values.indptr, position, side="right")) - 1
            cell, peak = (
                (line, values.indices[position])
                if values.format == "csr"
                else (values.indices[position], line)
            )
            if kind == "fractional" and (guess := what_was_done(values)):
                do = f"{guess}; {do}"
            raise InputError(
                f"{place} has {int(wrong.sum()):,} {kind} values, first {data[position]:g} (cell "
                f"{adata.obs_names[cell]}, "
                f"peak {adata.var_names[peak]})",
                expected,
                do,
            )
