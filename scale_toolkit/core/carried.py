"""A trained model on the peaks of another data set.

A reference peak j and a query peak q overlap by a share s_jq of the width of j; peaks with the same
name have a share of 1. An open entry of j is open in q with probability s_jq. Peaks without an
overlap are left out, on both sides: they are missing, not closed.

The decoder p_ij = sigmoid(w_j · z_i + b_j + s_i) becomes, on a query peak,

    P(q open) ≈ Σ_j s_jq p_ij,   v_q = Σ_j α_jq w_j,   α_jq = s_jq p̄_j / Σ_j s_jq p̄_j

with p̄_j the probability in the mean cell: v_q is the gradient of log Σ_j s_jq p_ij, exact up to
second order in z for rare peaks, and w_j itself for a peak that overlaps one other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import expit, logit

from scale_toolkit.core.intervals import Overlaps, match_names, parse_names


@dataclass(frozen=True)
class CarriedDecoder:
    """The decoder on the query's peaks.

    Attributes
    ----------
    peaks
        Positions of the query's peaks that overlap a reference peak, (covered,).
    loadings
        v, (covered, latent) float64.
    intercepts
        (covered,) float64.
    """

    peaks: np.ndarray
    loadings: np.ndarray
    intercepts: np.ndarray


def overlap_shares(
    reference: Sequence[str] | pd.Index, query: Sequence[str] | pd.Index
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return the share of each reference peak's width that lies in each query peak.

    Parameters
    ----------
    reference, query
        Peak names; those of the query are unique. A reference peak whose name is among the query's,
        in this or another spelling (``chr1:1-2``, ``chr1-1-2``), overlaps that peak alone.

    Returns
    -------
    shares
        (reference peaks, query peaks) CSR of values in (0, 1].
    named
        Which reference peaks were found by name, (reference peaks,) bool.
    """
    shape = (len(reference), len(query))
    positions = match_names(reference, pd.Index(query))
    named = positions >= 0
    rows, columns = [np.flatnonzero(named)], [positions[named]]
    values = [np.ones(int(named.sum()))]
    tables = [parse_names(names) for names in (reference, query)]
    known = [table["chrom"].notna().to_numpy() for table in tables]
    reference_rows, query_rows = np.flatnonzero(known[0] & ~named), np.flatnonzero(known[1])
    if len(reference_rows) and len(query_rows):
        search, table = tables[0].iloc[reference_rows], tables[1].iloc[query_rows]
        ends = [frame["end"].to_numpy() for frame in (search, table)]
        starts = [frame["start"].to_numpy() for frame in (search, table)]
        first, second = Overlaps(table).pairs(search["chrom"].tolist(), starts[0], ends[0])
        shared = np.minimum(ends[0][first], ends[1][second]) - np.maximum(
            starts[0][first], starts[1][second]
        )
        # peaks that only touch share no base
        overlaps = shared > 0
        first, second, shared = first[overlaps], second[overlaps], shared[overlaps]
        rows.append(reference_rows[first])
        columns.append(query_rows[second])
        values.append(shared / (ends[0] - starts[0])[first])
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return sparse.coo_matrix(entries, shape).tocsr(), named


def covered_weight(loadings: np.ndarray, shares: sparse.csr_matrix) -> float:
    """Return the share of the decoder's weight that the query's peaks cover, 0 to 1.

    The weight of a peak is its squared loadings; a peak of which a share of the width is covered
    counts by that share.
    """
    weight = np.square(loadings, dtype=np.float64).sum(1)
    covered = np.minimum(np.asarray(shares.sum(1)).ravel(), 1)
    return float(weight @ covered / max(weight.sum(), 1e-300))


def carry_decoder(
    shares: sparse.csr_matrix,
    loadings: np.ndarray,
    intercepts: np.ndarray,
    mean_latent: np.ndarray,
    offset: float,
) -> CarriedDecoder:
    """Return the decoder on the query's peaks.

    Parameters
    ----------
    shares
        (reference peaks, query peaks), from `overlap_shares`.
    loadings, intercepts
        Of the reference peaks, (reference peaks, latent) and (reference peaks,).
    mean_latent, offset
        Latent vector and depth offset of the mean cell, at which the two decoders agree.
    """
    probability = expit(loadings @ mean_latent + intercepts + offset)
    open_shares = sparse.csc_matrix(shares.multiply(probability[:, None]))
    total = np.asarray(open_shares.sum(0)).ravel()
    peaks = np.flatnonzero(total > 0)
    open_shares, total = open_shares[:, peaks], total[peaks]
    carried = np.asarray((open_shares @ sparse.diags_array(1 / total)).T @ loadings, np.float64)
    # the sum of many overlapping peaks may exceed 1, which has no log odds
    level = logit(np.minimum(total, 0.98))
    return CarriedDecoder(peaks, carried, level - carried @ mean_latent - offset)


def carry_cells(
    opened: sparse.csr_matrix, shares: sparse.csr_matrix, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Return reference cells as they would look on the query's peaks, (cells, query peaks).

    An open entry is open in a random one of the query peaks that overlap it, with the probability
    of the share of its width; the rest of its width loses it.

    Parameters
    ----------
    opened
        Open peaks, (cells, reference peaks) CSR of ones.
    shares
        (reference peaks, query peaks), from `overlap_shares`.
    rng
        Draws the query peaks.

    Returns
    -------
    CSR of float32 ones.
    """
    ends = np.cumsum(shares.data)
    first_ends = np.concatenate([[0.0], ends])[shares.indptr[:-1]]
    total = np.concatenate([[0.0], ends])[shares.indptr[1:]] - first_ends
    cells = np.repeat(np.arange(opened.shape[0]), np.diff(opened.indptr))
    peaks = opened.indices
    # overlapping query peaks may share more than the width; then nothing is lost
    drawn = first_ends[peaks] + rng.random(len(peaks)) * np.maximum(total[peaks], 1)
    entries = np.searchsorted(ends, drawn, side="right")
    is_inside = entries < shares.indptr[1:][peaks]
    columns = shares.indices[entries[is_inside]]
    carried = sparse.csr_matrix(
        (np.ones(len(columns), np.float32), (cells[is_inside], columns)),
        (opened.shape[0], shares.shape[1]),
    )
    carried.sum_duplicates()
    carried.data[:] = 1
    return carried
