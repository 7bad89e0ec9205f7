"""Doublets: droplets with two cells, found by their likeness to simulated ones.

Sums of the counts of two random cells that are unlike each other are laid into the latent space
beside the cells (`projection`). A cell whose neighbours are mostly simulated is probably a doublet
(Wolock, Lopez & Klein 2019, Cell Systems 8:281; McGinnis, Murrow & Gartner 2019, Cell Systems
8:329). A latent space of directions does not hold the depth, of which a doublet has twice as much,
so that neighbours are counted twice: with a small share of log depth in the distance, and with a
large one. Log odds of both counts and log depth are weighed by a logistic regression that
separates simulated from observed cells, as scDblFinder does with boosted trees (Germain et al.
2022, F1000Research 10:979); its probability is the score.

Doublets of two alike cells differ from single cells in depth alone, and are not searched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import expit

from scale_toolkit.core.rows import MatrixRows, binarise, blocks

#: Simulated doublets for each cell.
SIMULATED = 2.0
#: Neighbours that are counted: this times √cells for each unit of observed and simulated cells;
#: at least `FEWEST_NEIGHBORS`. 0.5, 1 and 2 were compared (benchmarks/RESULTS.md).
NEIGHBORS_BY_ROOT = 0.5
FEWEST_NEIGHBORS = 10
#: Weights of log depth in the two distances, in units of the latent space's own spread. 0, 0.1,
#: 0.25, 0.5 and 1 were compared.
DEPTH_WEIGHTS = (0.25, 1.0)
#: Cells whose neighbours are searched together, with their simulated doublets: brute force among
#: random groups of this size is linear in the number of cells.
GROUP = 20_000


@dataclass(frozen=True)
class DoubletScores:
    """Scores of the cells and what was estimated from them.

    Attributes
    ----------
    observed
        Probability of being a simulated doublet rather than a cell, of each cell, (cells,).
    simulated
        The same of the simulated doublets, (simulated,).
    threshold
        The score above which cells are called doublets (`cut`).
    rate
        Estimated share of the cells that are doublets of unlike cells.
    detectable
        Share of the simulated doublets above `threshold`.
    """

    observed: np.ndarray
    simulated: np.ndarray
    threshold: float
    rate: float
    detectable: float

    @property
    def separation(self) -> float:
        """Share of simulated doublets less that of observed cells above the threshold, 0 to 1."""
        return self.detectable - float((self.observed > self.threshold).mean())


def score_doublets(
    opened: sparse.csr_matrix,
    latent: np.ndarray,
    encode: Callable[[sparse.csr_matrix], np.ndarray],
    rng: np.random.Generator,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> DoubletScores:
    """Score every cell by its likeness to simulated doublets.

    Parameters
    ----------
    opened
        Open peaks, (cells, peaks) CSR of ones; at least four cells, each with an open peak.
    latent
        Latent vectors of the cells, (cells, latent), by which alike pairs are recognised.
    encode
        Latent vectors of other cells from their open peaks, as `projection.LatentMap` gives them.
    rng
        Draws the pairs and the groups.
    report
        Called with the number of groups that are done and in all.
    """
    n_cells = opened.shape[0]
    features = np.empty((n_cells, len(DEPTH_WEIGHTS) + 1))
    simulated: list[np.ndarray] = []
    groups = np.array_split(rng.permutation(n_cells), -(-n_cells // GROUP))
    for number, group in enumerate(groups):
        report(number, len(groups))
        cells = opened[group]
        first, second = unlike_pairs(latent[group], round(SIMULATED * len(group)), rng)
        sums = union(cells, first, second)
        vectors = np.vstack([_encoded(encode, cells), _encoded(encode, sums)])
        log_depth = np.log(np.concatenate([_depth(cells), _depth(sums)]))
        rows = neighbour_features(vectors, log_depth, len(group))
        features[group] = rows[: len(group)]
        simulated.append(rows[len(group) :])
    return _scored(features, np.concatenate(simulated))


def unlike_pairs(
    latent: np.ndarray, n_pairs: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw pairs of cells whose latent vectors have a cosine below the median of random pairs.

    Returns
    -------
    The positions of both cells of each pair, (n_pairs,) each.
    """
    n_cells = len(latent)
    unit = latent / np.maximum(np.linalg.norm(latent, axis=1, keepdims=True), 1e-12)
    first = rng.integers(0, n_cells, 2 * n_pairs)
    second = (first + rng.integers(1, n_cells, 2 * n_pairs)) % n_cells
    cosine = np.einsum("ij,ij->i", unit[first], unit[second])
    chosen = np.sort(np.argsort(cosine, kind="stable")[:n_pairs])
    return first[chosen], second[chosen]


def union(opened: sparse.csr_matrix, first: np.ndarray, second: np.ndarray) -> sparse.csr_matrix:
    """Return the peaks that are open in either of two cells, (pairs, peaks) CSR of ones."""
    return binarise((opened[first] + opened[second]).tocsr())


def neighbour_features(vectors: np.ndarray, log_depth: np.ndarray, n_observed: int) -> np.ndarray:
    """Return what separates doublets from cells, (points, 3): for each of `DEPTH_WEIGHTS` the log
    odds of a simulated neighbour, and log depth.

    Parameters
    ----------
    vectors
        Latent vectors, the observed cells first, (points, latent).
    log_depth
        Log of the number of open peaks, (points,).
    n_observed
        Number of observed cells.
    """
    from sklearn.neighbors import NearestNeighbors

    is_simulated = np.arange(len(vectors)) >= n_observed
    spread = max(float(log_depth[:n_observed].std()), 1e-9)
    # latent vectors have the length √latent, and so has one standard deviation of log depth
    depth = (log_depth - log_depth[:n_observed].mean()) / spread * np.sqrt(vectors.shape[1])
    by_root = NEIGHBORS_BY_ROOT * np.sqrt(n_observed) * len(vectors) / n_observed
    n_neighbors = min(max(FEWEST_NEIGHBORS, round(by_root)), len(vectors) - 1)
    columns = []
    for weight in DEPTH_WEIGHTS:
        points = np.column_stack([vectors, weight * depth])
        search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(points)
        n_simulated = is_simulated[search.kneighbors(return_distance=False)].sum(1)
        columns.append(np.log((n_simulated + 1) / (n_neighbors - n_simulated + 1)))
    return np.column_stack([*columns, log_depth])


def cut(observed: np.ndarray, simulated: np.ndarray) -> tuple[float, float, float]:
    """Return the threshold between cells and doublets, the rate, and the detectable share.

    The threshold t lies as many spreads (interquartile ranges) above the median of the cells as
    below that of the simulated doublets. It does not count doublets among the cells as errors, as
    the threshold of fewest errors does, which therefore called a tenth of well separated ones.
    The observed cells above it are the detectable share of the doublets, so the rate is
    P(observed > t) / P(simulated > t); cells that look like doublets raise it.

    Parameters
    ----------
    observed, simulated
        Log odds of being simulated, (cells,) and (simulated,).
    """
    middles, spreads = [], []
    for values in (observed, simulated):
        low, middle, high = np.percentile(values, [25, 50, 75])
        middles.append(middle)
        spreads.append(max(high - low, 1e-6))
    threshold = np.average(middles, weights=spreads[::-1])
    detectable = float((simulated > threshold).mean())
    rate = float((observed > threshold).mean()) / detectable if detectable else 0.0
    return float(threshold), min(rate, 1.0), detectable


def _scored(observed: np.ndarray, simulated: np.ndarray) -> DoubletScores:
    """Weigh the features by a logistic regression, and return the scores."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = np.vstack([observed, simulated])
    is_simulated = np.arange(len(features)) >= len(observed)
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    log_odds = model.fit(features, is_simulated).decision_function(features)
    parts = np.split(log_odds, [len(observed)])
    threshold, rate, detectable = cut(*parts)
    return DoubletScores(
        expit(parts[0]), expit(parts[1]), float(expit(threshold)), rate, detectable
    )


def _encoded(
    encode: Callable[[sparse.csr_matrix], np.ndarray], opened: sparse.csr_matrix
) -> np.ndarray:
    """Encode cells in blocks, so that their weights are never all in memory."""
    source = MatrixRows(opened)
    return np.vstack([encode(rows) for _, rows in blocks(source)])


def _depth(opened: sparse.csr_matrix) -> np.ndarray:
    return np.maximum(np.diff(opened.indptr), 1)
