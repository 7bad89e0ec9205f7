"""Gene activity: the sum of the peaks at and near a gene, weighted by distance.

A gene is its body and some bases upstream of its start (the promoter). A peak j at a distance of
d_jg bases from gene g, 0 if they overlap, has the weight

    ω_jg = exp(−d_jg / decay),   0 beyond the largest distance

as in ArchR's gene scores (Granja et al. 2021, Nat Genet 53:403), without their floor and scaling by
gene length. The activity of g in cell i is Σ_j ω_jg p_ij with the decoder's probabilities, and
Σ_j ω_jg x_ij with the open peaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit.core.decode import Decoder, NumericRows
from scale_toolkit.core.intervals import Overlaps


def gene_weights(
    peaks: pd.DataFrame, genes: pd.DataFrame, upstream: int, decay: float, max_distance: int
) -> sparse.csr_matrix:
    """Return ω, (peaks, genes) CSR float32.

    Parameters
    ----------
    peaks
        ``chrom``, ``start``, ``end``, half-open.
    genes
        ``chrom``, ``start``, ``end``, ``strand``.
    upstream
        Bases upstream of the start that belong to a gene.
    decay
        Distance at which a weight has fallen to 1/e.
    max_distance
        Largest distance with a weight.
    """
    forward = (genes["strand"] == "+").to_numpy()
    start = genes["start"].to_numpy(np.int64) - np.where(forward, upstream, 0)
    end = genes["end"].to_numpy(np.int64) + np.where(forward, 0, upstream)
    peak_start, peak_end = (peaks[name].to_numpy(np.int64) for name in ("start", "end"))
    # one base more: intervals that only touch have a distance of 0 and no overlap
    reach = max_distance + 1
    gene_rows, peak_rows = Overlaps(peaks).pairs(
        genes["chrom"].tolist(), start - reach, end + reach
    )
    gap = np.maximum(peak_start[peak_rows] - end[gene_rows], start[gene_rows] - peak_end[peak_rows])
    gap = np.maximum(gap, 0)
    near = gap <= max_distance
    weights = np.exp(-gap[near] / decay).astype(np.float32)
    shape = (len(peaks), len(genes))
    return sparse.coo_matrix((weights, (peak_rows[near], gene_rows[near])), shape).tocsr()


class GeneRows:
    """The activity of genes from the decoder, as dense blocks of rows (a `lazy.RowBlocks`).

    Parameters
    ----------
    decoder
        The decoder of all cells and of the peaks.
    weights
        ω, (peaks, genes).
    n_threads
        Blocks made at a time; 0 for one a core that this job may use.
    """

    format: Literal["dense", "csr"] = "dense"
    dtype = np.dtype(np.float32)

    def __init__(self, decoder: Decoder, weights: sparse.csr_matrix, *, n_threads: int = 0) -> None:
        self._probabilities = NumericRows(decoder, n_threads=n_threads)
        self._transposed = sparse.csr_matrix(weights.T)
        self.shape = (decoder.shape[0], weights.shape[1])
        self.n_threads = n_threads

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield consecutive blocks of rows."""
        for rows in self._probabilities.blocks():
            yield np.ascontiguousarray((self._transposed @ rows.T).T, np.float32)
