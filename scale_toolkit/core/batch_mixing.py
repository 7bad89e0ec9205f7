"""How far batches lie apart in a latent space, and whether the structure within them is kept.

Computed before and after batches are taken out, on the same cells:

* ``auroc``: how well the batch of a cell can be predicted from its coordinates (linear discriminant
  analysis, five-fold cross-validation; mean over batches against the rest). 0.5 is chance.
* ``mixing``: share of the nearest neighbours that are of another batch, over the share expected of
  random neighbours. 1 is perfect mixing, 0 none.
* ``purity``: share of a cell's nearest neighbours within its batch that are of its own cluster. The
  clusters are those of the batch alone before anything is taken out (k-means with the number of
  clusters of the best silhouette), where they are distinct. If purity falls, structure that no
  difference between batches can have made was lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

N_NEIGHBORS = 15
N_FOLDS = 5
#: Random cells that are looked at, at most: all figures are means over cells.
MOST_CELLS = 5000
MOST_CLUSTERS = 8
#: Mean silhouette below which the cells of a batch have no distinct clusters.
DISTINCT = 0.15
#: Cells of a batch below which its structure is not judged.
FEWEST_CELLS = 60


@dataclass(frozen=True)
class Mixing:
    """Figures of one latent space.

    Attributes
    ----------
    auroc
        Of all batches; NaN if fewer than two have enough cells.
    mixing
        Of each batch, (batches,).
    purity
        Of each batch, (batches,); NaN where a batch has no distinct clusters.
    """

    auroc: float
    mixing: Array
    purity: Array


def compare(
    spaces: tuple[Array, Array], codes: Array, n_batches: int, seed: int
) -> tuple[Mixing, Mixing]:
    """Return the figures before and after.

    Parameters
    ----------
    spaces
        Coordinates of the cells before and after, (cells, d) each.
    codes
        Batch of each cell, (cells,).
    n_batches
        Number of batches.
    seed
        Of the random cells, folds and clusters.
    """
    rng = np.random.default_rng(seed)
    if len(codes) > MOST_CELLS:
        cells = np.sort(rng.choice(len(codes), MOST_CELLS, replace=False))
        spaces, codes = (spaces[0][cells], spaces[1][cells]), codes[cells]
    members = [np.flatnonzero(codes == batch) for batch in range(n_batches)]
    clusters = [_distinct_clusters(spaces[0][cells], seed) for cells in members]
    uncorrected, corrected = (
        Mixing(
            batch_auroc(space, codes, seed),
            batch_mixing(space, codes, n_batches),
            np.array(
                [
                    np.nan if labels is None else neighbour_purity(space[cells], labels)
                    for cells, labels in zip(members, clusters, strict=True)
                ]
            ),
        )
        for space in spaces
    )
    return uncorrected, corrected


def batch_auroc(space: Array, codes: Array, seed: int = 0) -> float:
    """Return how well the batch is predicted from the coordinates, 0.5 to 1; NaN for one batch."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    sizes = np.bincount(codes)
    is_large = sizes[codes] >= 2 * N_FOLDS
    space, codes = space[is_large], codes[is_large]
    batches = np.unique(codes)
    if len(batches) < 2:
        return float("nan")
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=seed)
    # a least-squares solution with shrinkage: coordinates may be collinear
    classifier = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    p = cross_val_predict(classifier, space, codes, cv=folds, method="predict_proba")
    scores = [roc_auc_score(codes == batch, p[:, i]) for i, batch in enumerate(batches)]
    return float(np.mean(scores))


def batch_mixing(space: Array, codes: Array, n_batches: int) -> Array:
    """Return the share of neighbours of another batch over the expected one, (batches,)."""
    near = codes[_neighbours(space)]
    is_foreign = (near != codes[:, None]).mean(1)
    expected = 1 - (np.bincount(codes, minlength=n_batches) - 1) / max(len(codes) - 1, 1)
    mixing = np.full(n_batches, np.nan)
    for batch in np.unique(codes):
        mixing[batch] = is_foreign[codes == batch].mean() / expected[batch]
    return mixing


def neighbour_purity(space: Array, labels: Array) -> float:
    """Return the mean share of a cell's nearest neighbours that have its label."""
    return float((labels[_neighbours(space)] == labels[:, None]).mean())


def _neighbours(space: Array) -> Array:
    from sklearn.neighbors import NearestNeighbors

    n = min(N_NEIGHBORS, len(space) - 1)
    search = NearestNeighbors(n_neighbors=n, algorithm="brute").fit(space)
    return np.asarray(search.kneighbors(return_distance=False))


def _distinct_clusters(space: Array, seed: int) -> Array | None:
    """Return the clusters of the cells of a batch; None if they are not distinct."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    if len(space) < FEWEST_CELLS:
        return None
    best, best_width = None, DISTINCT
    for k in range(2, MOST_CLUSTERS + 1):
        labels = KMeans(k, n_init=3, random_state=seed).fit_predict(space)
        width = silhouette_score(space, labels)
        if width > best_width:
            best, best_width = labels, width
    return best
