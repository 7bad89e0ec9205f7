"""Rows of a matrix on disk that a file with fewer cells keeps, read in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scale_toolkit.lazy import RowBlocks


def kept_rows(before: pd.Index, now: pd.Index) -> np.ndarray | None:
    """Return the positions of the present cells among the previous ones; None unless they are a
    subset in the same order.
    """
    if not before.is_unique or not now.is_unique:
        return None
    rows = before.get_indexer(now)
    return rows if (rows >= 0).all() and (np.diff(rows) > 0).all() else None


def rows_of(element: h5py.Group | h5py.Dataset, kept: np.ndarray) -> RowBlocks | None:
    """Return rows of a dense or CSR matrix on disk as blocks; None for an element without rows."""
    kind = element.attrs.get("encoding-type")
    if kind == "csr_matrix":
        return SomeRows(element, tuple(element.attrs["shape"]), element["data"].dtype, "csr", kept)
    if kind == "array" and element.ndim == 2:
        return SomeRows(element, element.shape, element.dtype, "dense", kept)
    return None


class SomeRows:
    """Some rows of a matrix on disk, read in blocks of `step` values."""

    step = 1 << 23

    def __init__(
        self,
        element: Any,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        format: Literal["dense", "csr"],
        kept: np.ndarray,
    ) -> None:
        self._element, self._kept = element, kept
        self.shape = (len(kept), int(shape[1]))
        self.dtype, self.format = dtype, format

    def blocks(self) -> Iterator[Any]:
        """Yield the rows in order, as many at a time as hold `step` values."""
        if self.format == "csr":
            ends = self._element["indptr"][:].astype(np.int64)
        else:
            ends = np.arange(self._element.shape[0] + 1) * self.shape[1]
        start = 0
        while start < len(ends) - 1:
            stop = max(start + 1, int(np.searchsorted(ends, ends[start] + self.step, "right")) - 1)
            chosen = (
                self._kept[np.searchsorted(self._kept, start) : np.searchsorted(self._kept, stop)]
                - start
            )
            if len(chosen):
                yield self._read(ends, start, stop)[chosen]
            start = stop

    def _read(self, ends: np.ndarray, start: int, stop: int) -> np.ndarray | sparse.csr_matrix:
        if self.format == "dense":
            return self._element[start:stop]
        entries = slice(ends[start], ends[stop])
        arrays = (
            self._element["data"][entries],
            self._element["indices"][entries],
            ends[start : stop + 1] - ends[start],
        )
        return sparse.csr_matrix(arrays, (stop - start, self.shape[1]))
