"""The encoder's view of a cell: TF-IDF weights of its open peaks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Weighting:
    """The encoder's view of a cell: log1p(10⁴ · tf · idf), tf the peak's share of the cell's
    counts.

    Of the weightings tried, this one did best with a linear projection of unit length
    (benchmarks/RESULTS.md); a new cell can be weighted without the others.

    Attributes
    ----------
    idf
        log(1 + cells / open cells) of a peak, (peaks,) float32; 0 for a peak that is not open in
        any cell.
    """

    idf: np.ndarray

    def __call__(self, opened: sparse.csr_matrix) -> sparse.csr_matrix:
        """Weight rows of open peaks (or of log2 counts), float32; the input's arrays are not
        changed.
        """
        lengths = np.diff(opened.indptr)
        total = np.add.reduceat(np.append(opened.data, np.float32(0)), opened.indptr[:-1]) * (
            lengths > 0
        )
        share = np.repeat((1e4 / np.where(total > 0, total, 1)).astype(np.float32), lengths)
        data = self.idf[opened.indices]
        data *= share
        data *= opened.data
        return sparse.csr_matrix(
            (np.log1p(data, out=data), opened.indices, opened.indptr), opened.shape
        )


def fit_weighting(n_cells: int, peak_sums: np.ndarray) -> Weighting:
    """Fit the weighting to `peak_sums`, the number of `n_cells` cells in which each peak is
    open.
    """
    return Weighting(
        np.where(peak_sums > 0, np.log1p(n_cells / np.maximum(peak_sums, 1)), 0).astype(np.float32)
    )
