"""How unlike the cells of a reference each mapped cell is.

Four quantities of a cell are large for a type that the reference lacks:

distance
    mean distance to the nearest reference cells in the latent space;
shortfall
    how much shorter than at equal depth the cell's linear projection to the latent space is
    (`projection`), whose length the latent vector does not hold;
surprise
    how unlikely its open peaks are under the decoder (`placement.Placement.surprise`);
company
    log odds that a neighbour is a query cell, in a spectral embedding of both data sets together.

One sparse cell holds little of the first three, so they are averaged over its nearest neighbours
of the same data set too. All are measured on reference cells as well, as if they were query cells
(their latent vectors come from a map that was fitted without them), and are given in robust
standard deviations of those. The share of reference cells that score as high is a conformal
p-value, which is uniform for a query cell that is exchangeable with the reference's (Bates et al.
2023, Ann Stat 51:149); Benjamini and Hochberg's rule then bounds the share of false calls.

Cells of another experiment are not exchangeable: all of them are somewhat further away. `aligned`
takes the quarter of the query that is most like the reference as the reference's own, as an
empirical null (Efron 2004, J Am Stat Assoc 99:96), so that a type is called for being further away
than the rest of the query.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Reference cells to which the distance is averaged, and neighbours over which it is smoothed.
NEIGHBORS = 10
#: Neighbours whose data set is counted: this times √cells; 0.5 and 1 were compared.
NEIGHBORS_BY_ROOT = 1.0
#: Weights of the three quantities of the cell itself, of their averages over its neighbours, and
#: of its company (benchmarks/RESULTS.md).
CELL_WEIGHT, SMOOTH_WEIGHT, COMPANY_WEIGHT = 1 / 3, 1.0, 2.0
#: Percentiles by which the query is aligned: below them lie cells of known types, if these are at
#: least 40 % of the query.
QUANTILES = (10, 25, 40)
#: Standardised values are held within this, so that one cell does not decide for its neighbours.
LIMIT = 6.0


@dataclass(frozen=True)
class Measured:
    """Cells of one data set as mapping sees them.

    Attributes
    ----------
    latent
        Latent vectors, (cells, latent).
    length
        Length of the linear projection of each cell, (cells,).
    surprise
        Of the open peaks under the decoder, (cells,).
    n_open
        Open peaks, (cells,).
    spectral
        Coordinates in the embedding of both data sets, (cells, dimensions).
    """

    latent: np.ndarray
    length: np.ndarray
    surprise: np.ndarray
    n_open: np.ndarray
    spectral: np.ndarray


def novelty(reference: Measured, query: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the reference's and of the query's cells, in standard deviations of the
    former from their median, (cells,) each.
    """
    n_reference = len(reference.latent)
    quantities = [
        _distances(reference.latent, query.latent),
        _shortfall(reference, query),
        np.concatenate([reference.surprise, query.surprise]),
        _company(reference.spectral, query.spectral),
    ]
    values = np.column_stack([_standardised(quantity, n_reference) for quantity in quantities])
    values = np.clip(values, -LIMIT, LIMIT)
    smooth = np.vstack(
        [
            _smoothed(values[:n_reference], reference.spectral),
            _smoothed(values[n_reference:], query.spectral),
        ]
    )
    score = CELL_WEIGHT * values[:, :3].sum(1) + SMOOTH_WEIGHT * smooth[:, :3].sum(1)
    score = _standardised(score + COMPANY_WEIGHT * smooth[:, 3], n_reference)
    return score[:n_reference], score[n_reference:]


def aligned(reference: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, float]:
    """Shift and scale the query's scores so that their lowest ones are spread as the reference's.

    Parameters
    ----------
    reference, query
        Scores, from `novelty`.

    Returns
    -------
    The query's scores, and by how much their first quartile was above the reference's.
    """
    reference_quantiles, query_quantiles = (
        np.percentile(scores, QUANTILES) for scores in (reference, query)
    )
    shift = float(query_quantiles[1] - reference_quantiles[1])
    if shift <= 0:
        return query, shift
    scale = min(
        1.0,
        (reference_quantiles[2] - reference_quantiles[0])
        / max(query_quantiles[2] - query_quantiles[0], 1e-9),
    )
    return (query - query_quantiles[1]) * scale + reference_quantiles[1], shift


def conformal_p(reference: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return (1 + number of reference scores that are not below it) / (1 + number of reference
    scores) of each query score, (query,).
    """
    below = np.searchsorted(np.sort(reference), query, side="left")
    return (1 + len(reference) - below) / (1 + len(reference))


def _distances(reference: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the mean distance to the nearest other reference cells."""
    from sklearn.neighbors import NearestNeighbors

    n_neighbors = min(NEIGHBORS, len(reference) - 1)
    search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(reference)
    # called without points, it leaves out each cell itself
    distances = [search.kneighbors()[0], search.kneighbors(query)[0]]
    return np.concatenate([values.mean(1) for values in distances])


def _shortfall(reference: Measured, query: Measured) -> np.ndarray:
    """Return how far log length is below the reference's at that depth (a quadratic in log depth,
    by least squares).
    """
    depth, length = (
        np.log(np.concatenate([getattr(cells, name) for cells in (reference, query)]) + pseudo)
        for name, pseudo in (("n_open", 1), ("length", 1e-6))
    )
    n_reference = len(reference.n_open)
    design = np.vander((depth - depth[:n_reference].mean()), 3)
    coefficients = np.linalg.lstsq(design[:n_reference], length[:n_reference], rcond=None)[0]
    return np.asarray(design @ coefficients - length)


def _company(reference: np.ndarray, query: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    points = np.vstack([reference, query])
    is_query = np.arange(len(points)) >= len(reference)
    by_root = round(NEIGHBORS_BY_ROOT * np.sqrt(len(points)))
    n_neighbors = min(max(NEIGHBORS, by_root), len(points) - 1)
    search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(points)
    n_query = is_query[search.kneighbors(return_distance=False)].sum(1)
    return np.log((n_query + 1) / (n_neighbors - n_query + 1))


def _standardised(values: np.ndarray, n_reference: int) -> np.ndarray:
    low, middle, high = np.percentile(values[:n_reference], [25, 50, 75])
    # the quartiles of a normal distribution are 1.349 standard deviations apart
    return (values - middle) / max((high - low) / 1.349, 1e-6)


def _smoothed(values: np.ndarray, spectral: np.ndarray) -> np.ndarray:
    """Return the mean over each cell and its nearest neighbours of the same data set."""
    from sklearn.neighbors import NearestNeighbors

    n_neighbors = min(NEIGHBORS + 1, len(values))
    search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(spectral)
    return np.asarray(values[search.kneighbors(spectral, return_distance=False)].mean(1))
