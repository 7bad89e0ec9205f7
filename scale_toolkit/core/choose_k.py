"""Three independent readings of the number of clusters, and the one that `cluster` follows.

- boundaries between clusters (`core.boundaries`), which `cluster` follows, with the stability of
  their partitions in subsamples (mean Jaccard index, Hennig 2007);
- the likelihood of held-out cells under a diagonal Gaussian mixture of k components (Smyth 2000,
  Stat Comput 10:63-72);
- random matrix theory: eigenvalues above the Tracy-Widom bound, as SCALE's `estimate_k`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from scale_toolkit.core.boundaries import Splits, find_splits
from scale_toolkit.core.eigenvalues import count_above, tracy_widom
from scale_toolkit.core.leiden import LeidenGraph
from scale_toolkit.core.stability import recovery

#: Folds of the cells; each is held out once.
N_FOLDS = 5
#: A partition is stable if its least stable cluster has at least this mean Jaccard index.
STABLE = 0.75


@dataclass(frozen=True)
class Readings:
    """The figures for each number of clusters, and the number that each reading prefers.

    Attributes
    ----------
    table
        By k: ``boundary`` (ratio of the clearest boundary that k clusters do not separate yet),
        ``stability`` (lowest mean Jaccard index of its clusters in subsamples), ``held_out``
        (mean log-likelihood of a held-out cell).
    preferred
        k by ``boundaries``, ``stability``, ``held_out`` and, with counts, ``random_matrix``.
    """

    table: pd.DataFrame
    preferred: dict[str, int]


def read_splits(
    splits: Splits,
    latent: np.ndarray,
    connectivities: sparse.spmatrix,
    max_k: int,
    n_subsamples: int,
    seed: int,
    report: Callable[[str, int], None],
) -> Readings:
    """Read boundaries, stability and held-out likelihood for 1 to `max_k` clusters.

    Parameters
    ----------
    splits
        The partitions of all cells.
    latent
        Cells × latent, finite.
    connectivities
        Cells × cells: the neighbour graph's weights.
    max_k
        Largest number of clusters to look at.
    n_subsamples
        Subsamples of four fifths of the cells for the stability.
    seed
        Of subsamples, folds and mixtures.
    report
        Called with a message and the steps done: `n_subsamples`, then `max_k` of them.
    """
    numbers = np.arange(1, min(max_k, splits.max_clusters, len(latent)) + 1)
    table = pd.DataFrame(index=pd.Index(numbers, name="k"))
    # the finest partition has no boundary left inside
    ratios = np.append(splits.ratios, np.nan)
    table["boundary"] = ratios[numbers - 1]
    table["stability"] = _stability(
        splits, latent, connectivities, numbers, n_subsamples, seed, report
    )
    held_out = []
    for k in numbers:
        held_out.append(held_out_likelihood(latent, int(k), seed))
        report(f"mixture of {k}", n_subsamples + int(k))
    table["held_out"] = held_out
    stable = numbers[(table["stability"] >= STABLE).to_numpy()]
    preferred = {
        "boundaries": min(splits.recommend(), int(numbers[-1])),
        "stability": int(stable[-1]) if len(stable) else 1,
        "held_out": _first_within_one_error(numbers, held_out),
    }
    table["held_out_error"] = [error for _, error in held_out]
    table["held_out"] = [mean for mean, _ in held_out]
    return Readings(table, preferred)


def count_eigenvalues(counts: sparse.spmatrix) -> int:
    """Return how many eigenvalues of cells × peaks exceed what noise gives, by SCALE's bound."""
    opened = sparse.csr_matrix(counts > 0, dtype=np.float64).T
    centre, scale = tracy_widom(*opened.shape)
    return count_above(opened.tocsc(), centre + float(np.sqrt(opened.shape[0])) * scale, 2_000)


def held_out_likelihood(latent: np.ndarray, k: int, seed: int) -> tuple[float, float]:
    """Return the mean log-likelihood of a held-out cell and its standard error over cells."""
    n_cells = len(latent)
    n_folds = min(N_FOLDS, n_cells)
    # a fold must train all components and leave cells to test
    if n_cells < 2 * max(k, 2):
        return float("nan"), float("nan")
    fold = np.random.default_rng(seed).permutation(np.arange(n_cells) % n_folds)
    scores = np.full(n_cells, np.nan)
    for number in range(n_folds):
        train, test = latent[fold != number], latent[fold == number]
        if len(train) < max(k, 2):
            continue
        mixture = GaussianMixture(
            k,
            covariance_type="diag",
            random_state=seed,
            # 1e-3 of the variance: a component on one training cell must not win by its height
            reg_covar=1e-3 * float(latent.var(axis=0).mean()) or 1e-6,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            scores[fold == number] = mixture.fit(train).score_samples(test)
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return float("nan"), float("nan")
    return float(scores.mean()), float(scores.std() / np.sqrt(len(scores)))


def _stability(
    splits: Splits,
    latent: np.ndarray,
    connectivities: sparse.spmatrix,
    numbers: np.ndarray,
    n_subsamples: int,
    seed: int,
    report: Callable[[str, int], None],
) -> np.ndarray:
    """Return for each k the lowest mean Jaccard index of its clusters in subsamples."""
    weights = sparse.csr_matrix(connectivities)
    subsamples: dict[int, Splits] = {}

    def split_again(cells: np.ndarray, sub_seed: int) -> Splits:
        if sub_seed not in subsamples:
            sub_weights = weights[cells][:, cells]
            graph = LeidenGraph(sub_weights, sub_seed)
            subsamples[sub_seed] = find_splits(latent[cells], sub_weights, graph, sub_seed)
            report(f"subsample {len(subsamples)}", len(subsamples))
        return subsamples[sub_seed]

    lowest = np.empty(len(numbers))
    for position, k in enumerate(numbers):
        # the same seed draws the same subsamples for every k

        def regroup(cells: np.ndarray, sub_seed: int, k: int = int(k)) -> np.ndarray:
            return split_again(cells, sub_seed).partition(k)

        jaccard = recovery(splits.partition(int(k)), regroup, n_subsamples, seed)
        lowest[position] = np.nanmean(jaccard, axis=0).min()
    return lowest


def _first_within_one_error(numbers: np.ndarray, held_out: list[tuple[float, float]]) -> int:
    """Return the smallest k within one standard error of the best (Breiman et al. 1984)."""
    means = np.array([mean for mean, _ in held_out])
    if not np.isfinite(means).any():
        return 1
    best = int(np.nanargmax(means))
    return int(numbers[np.flatnonzero(means >= means[best] - held_out[best][1])[0]])
