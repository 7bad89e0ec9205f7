"""Which peaks are specific for a cluster, and which have outlying loadings on a latent dimension.

The specificity of peak j for cluster t compares how the values of j spread over the cells, p, with
the perfectly specific peak, q, which has the same value in every cell of t and 0 elsewhere (Cabili
et al. 2011, Genes Dev 25:1915)::

    JSD(p, q) = ½ Σ_i [p_i ln(p_i / m_i) + q_i ln(q_i / m_i)],  m = (p + q) / 2
    specificity = 1 − √JSD

It is 1 for p = q and 1 − √ln 2 = 0.167 if the two share no cell.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import sparse

Array = np.ndarray[Any, Any]


def jensen_shannon(p: Array, q: Array, base: float = np.e) -> float:
    """Return the Jensen-Shannon divergence of two distributions, each divided by its sum: 0 to
    log_base(2).
    """
    from scipy.spatial.distance import jensenshannon

    return float(jensenshannon(p, q, base=base) ** 2)


def specificity_of_matrix(values: sparse.csr_matrix, codes: Array, n_clusters: int) -> Array:
    """Return the specificity of every peak for every cluster.

    Parameters
    ----------
    values
        Peaks × cells, float64, no stored zeros, no negative values; p of a peak is log2(value + 1)
        divided by its sum. The cost follows the stored values.
    codes
        Cluster of each cell, (cells,), 0 to `n_clusters` − 1.
    n_clusters
        Number of clusters.

    Returns
    -------
    Peaks × clusters, float64; NaN for a peak without values.
    """
    n_peaks = values.shape[0]
    row = np.repeat(np.arange(n_peaks), np.diff(values.indptr))
    p = np.log2(values.data + 1)
    total = np.bincount(row, weights=p, minlength=n_peaks)
    p /= total[row]
    scores = np.full((n_peaks, n_clusters), np.nan)
    for cluster, size in enumerate(np.bincount(codes, minlength=n_clusters)):
        # each cell of the cluster, in the perfectly specific peak
        q = 1 / size
        inside = codes[values.indices] == cluster
        # outside the cluster q = 0 and p/m = 2; where p = 0, q/m = 2. Only stored values are
        # visited, so q ln 2 is first counted for all cells of the cluster and taken back for those
        # with p > 0.
        terms = np.where(
            inside,
            p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q)) - q * np.log(2),
            p * np.log(2),
        )
        doubled = np.bincount(row, weights=terms, minlength=n_peaks) + np.log(2)
        scores[:, cluster] = 1 - np.sqrt(np.maximum(doubled, 0) / 2)
    scores[total == 0] = np.nan
    return scores


def specificity_of_counts(open_cells: Array, sizes: Array) -> Array:
    """Return what `specificity_of_matrix` gives for binary peaks, from the open cells of each
    cluster alone.

    A peak that is open in n cells has p = 1/n in each of them, so its divergence depends only on
    how many of them are in the cluster.

    Parameters
    ----------
    open_cells
        Number of open cells, peaks × clusters.
    sizes
        Number of cells of each cluster, (clusters,).

    Returns
    -------
    Peaks × clusters, float64; NaN for a peak that is not open in any cell.
    """
    total = open_cells.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = 1 / total, 1 / np.asarray(sizes, dtype=float)
        inside = p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q)) - q * np.log(2)
        doubled = open_cells * inside + (total - open_cells) * p * np.log(2) + np.log(2)
        return np.where(total > 0, 1 - np.sqrt(np.maximum(doubled, 0) / 2), np.nan)


def most_specific_peaks(
    scores: Array, clusters: Iterable[int] | None = None, top: int = 0
) -> tuple[Array, Array]:
    """Assign every peak to the cluster for which it is most specific, and return the best of each
    cluster.

    Parameters
    ----------
    scores
        Specificity, peaks × clusters. Peaks with NaN are left out.
    clusters
        Columns to return, in this order; None: every column that is the best of some peak.
    top
        Number of peaks of each cluster; 0 for all.

    Returns
    -------
    Positions of the peaks, cluster by cluster, each cluster's best peak last; and the
    cluster of each.
    """
    scored = np.flatnonzero(~np.isnan(scores).any(axis=1))
    best_cluster, best_score = scores[scored].argmax(axis=1), scores[scored].max(axis=1)
    peaks, labels = [np.empty(0, dtype=int)], [np.empty(0, dtype=int)]
    for cluster in np.unique(best_cluster) if clusters is None else clusters:
        members = np.flatnonzero(best_cluster == cluster)
        members = members[np.argsort(best_score[members], kind="stable")]
        members = members[-top:] if top else members
        peaks.append(scored[members])
        labels.append(np.full(len(members), cluster, dtype=int))
    return np.concatenate(peaks), np.concatenate(labels)


def outlying_loadings(loadings: Array, cutoff: float) -> Array:
    """Return +1 or −1 for loadings above or below the mean of their dimension by `cutoff` standard
    deviations, else 0.

    Parameters
    ----------
    loadings
        Peaks × latent dimensions.
    cutoff
        Number of standard deviations.

    Returns
    -------
    int8, peaks × latent dimensions.
    """
    centred = loadings - loadings.mean(axis=0)
    limit = cutoff * loadings.std(axis=0)
    return (centred > limit).astype(np.int8) - (-centred > limit).astype(np.int8)
