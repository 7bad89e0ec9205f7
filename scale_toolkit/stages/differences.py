"""How one slot of a result differs from what a replay gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

#: Largest difference, relative to the largest absolute value of a slot (for labels: share of
#: cells), that still counts as close: with another number of threads float32 values are added in
#: another order, and training amplifies the difference.
TOLERANCE = 1e-2

SAME, CLOSE, DIFFERENT, MISSING, NOT_REPLAYED, CHANGED = (
    "identical",
    "close",
    "different",
    "not made again",
    "not of the receipts",
    "another algorithm",
)


def difference(stored: Any, replayed: Any) -> tuple[str, float]:
    """Return the verdict on one slot, and by how much it differs."""
    if isinstance(stored, Mapping) and isinstance(replayed, Mapping):
        parts = [
            difference(stored[key], replayed[key]) if key in replayed else (MISSING, np.nan)
            for key in stored
        ]
        order = (SAME, CLOSE, DIFFERENT, MISSING)
        return (
            max(parts, key=lambda part: (order.index(part[0]), np.nan_to_num(part[1])))
            if parts
            else (SAME, 0.0)
        )
    if isinstance(stored, pd.DataFrame):
        stored, replayed = stored.to_numpy(), pd.DataFrame(replayed).to_numpy()
    if sparse.issparse(stored) or sparse.issparse(replayed):
        stored, replayed = sparse.csr_matrix(stored), sparse.csr_matrix(replayed)
        if stored.shape != replayed.shape:
            return DIFFERENT, np.nan
        if all(
            np.array_equal(getattr(stored, array_name), getattr(replayed, array_name))
            for array_name in ("indptr", "indices", "data")
        ):
            return SAME, 0.0
        gap = np.abs((stored.astype(np.float64) - replayed.astype(np.float64)).data)
        return _graded(gap.max(initial=0.0), np.abs(stored.data).max(initial=0.0))
    stored, replayed = np.asarray(stored), np.asarray(replayed)
    if stored.shape != replayed.shape:
        return DIFFERENT, np.nan
    # records, as in scanpy's rank_genes_groups
    if stored.dtype.names or replayed.dtype.names:
        if stored.dtype.names != replayed.dtype.names:
            return DIFFERENT, np.nan
        fields = stored.dtype.names
        return difference(
            {key: stored[key] for key in fields}, {key: replayed[key] for key in fields}
        )
    if stored.dtype.kind in "biuf" and replayed.dtype.kind in "biuf":
        if np.array_equal(
            stored, replayed, equal_nan=stored.dtype.kind == "f" and replayed.dtype.kind == "f"
        ):
            return SAME, 0.0
        gap = np.abs(stored.astype(np.float64) - replayed.astype(np.float64))
        if np.isnan(gap).any() and not np.array_equal(np.isnan(stored), np.isnan(replayed)):
            return DIFFERENT, np.nan
        return _graded(np.nanmax(gap), np.nanmax(np.abs(stored.astype(np.float64))))
    share_different = (
        float(np.mean(stored.astype(str) != replayed.astype(str))) if stored.size else 0.0
    )
    return (
        SAME if share_different == 0 else CLOSE if share_different <= TOLERANCE else DIFFERENT
    ), share_different


def _graded(gap: float, largest: float) -> tuple[str, float]:
    relative = float(gap / largest) if largest else float(gap)
    return (CLOSE if relative <= TOLERANCE else DIFFERENT), relative
