"""SCALE's functions for peaks that are specific for a cluster or a latent dimension.

Matrices are peaks × cells, as in SCALE.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.core.specificity import (
    jensen_shannon,
    most_specific_peaks,
    outlying_loadings,
    specificity_of_matrix,
)
from scale_toolkit.errors import InputError, OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

Array = np.ndarray[Any, Any]


def get_decoder_weight(adata: AnnData) -> Array:
    """Return the loadings of every peak on every latent dimension (peaks × latent):
    ``varm['scale_decoder']``.

    SCALE read them from ``model.pt``; here they are stored with the data.
    """
    if not hasattr(adata, "varm"):
        raise InputError(
            f"got a {type(adata).__name__}",
            "an AnnData",
            f"`scale train` writes the weights to {keys.DECODER}",
        )
    return np.asarray(keys.DECODER.get(adata))


def peak_selection(
    weight: Any, weight_index: Sequence[str] | None = None, kind: str = "both", cutoff: float = 2.5
) -> list[Array]:
    """Select the peaks with outlying decoder weights, for each latent dimension.

    A peak is selected if its weight is more than `cutoff` standard deviations from the mean of its
    dimension.

    Parameters
    ----------
    weight
        Peaks × latent weights (array or DataFrame), or a trained AnnData, whose modelled peaks are
        used.
    weight_index
        Peak names, one for each row; left out, those of the DataFrame or AnnData, or positions.
    kind
        ``"both"`` sides, ``"pos"`` or ``"neg"``.
    cutoff
        In standard deviations.

    Returns
    -------
    One array of peak names for each latent dimension (SCALE 1.1.2: always the first ten).
    """
    if kind not in ("both", "pos", "neg"):
        raise OptionError(f"kind is {kind!r}", "one of both, pos, neg")
    if hasattr(weight, "varm"):
        modelled = ~np.isnan(np.asarray(keys.BIAS.get(weight), dtype=float))
        weight_index = np.asarray(weight.var_names if weight_index is None else weight_index)[
            modelled
        ]
        weight = get_decoder_weight(weight)[modelled]
    loadings = np.asarray(weight)
    positions: Any = getattr(weight, "index", np.arange(len(loadings)))
    names = np.asarray(positions if weight_index is None else weight_index)
    if len(names) != len(loadings):
        raise InputError(
            f"{len(names)} peak names and {len(loadings)} rows of weights",
            "equal numbers",
            "give the names of the modelled peaks",
        )
    signs = outlying_loadings(loadings, cutoff)
    selected = {"both": signs != 0, "pos": signs > 0, "neg": signs < 0}[kind]
    return [names[column] for column in selected.T]


def jsd(p: Any, q: Any, base: float = math.e) -> float:
    """Return the Jensen-Shannon divergence of two distributions, 0 to log_base(2).

    Each distribution is divided by its sum.
    """
    return jensen_shannon(np.asarray(p, dtype=float), np.asarray(q, dtype=float), base)


def jsd_sp(p: Any, q: Any, base: float = math.e) -> float:
    """Return the specificity 1 − √JSD: 1 for equal distributions.

    SCALE 1.1.2 ignores `base`; its default is the same.
    """
    return float(1 - jsd(p, q, base) ** 0.5)


def log2norm(e: Any) -> Array:
    """Return log2(e + 1), divided by its sum."""
    logged = np.log2(np.asarray(e, dtype=float) + 1)
    return np.asarray(logged / logged.sum())


def predefined_pattern(t: Any, labels: Any) -> Array:
    """Return 1 for the cells of cluster `t` and 0 for the others: a peak that is perfectly
    specific for `t`.
    """
    return np.asarray(np.asarray(labels) == t).astype(float)


def vec_specificity_score(e: Any, t: Any, labels: Any) -> float:
    """Return the specificity of one peak (its values over the cells) for cluster `t`."""
    return jsd_sp(log2norm(e), log2norm(predefined_pattern(t, labels)))


def mat_specificity_score(mat: Any, labels: Any) -> pd.DataFrame:
    """Return the specificity of every peak for every cluster: `vec_specificity_score` of all at
    once.

    Parameters
    ----------
    mat
        Peaks × cells, 0 or more: DataFrame, array or scipy sparse (its cost follows the values that
        are not 0).
    labels
        Cluster of each cell.

    Returns
    -------
    DataFrame peaks × clusters, from 1 − √ln 2 = 0.167 to 1, columns the sorted clusters;
    NaN for a peak without values.
    """
    labels = np.asarray(labels)
    index = mat.index if isinstance(mat, pd.DataFrame) else None
    values = sparse.csr_matrix(
        mat if sparse.issparse(mat) else np.asarray(mat, dtype=float)
    ).astype(np.float64)
    values.eliminate_zeros()
    if values.shape[1] != len(labels):
        raise InputError(
            f"{values.shape[1]} columns and {len(labels)} labels",
            "one label for each cell",
            "give peaks × cells, or use specificity(adata)",
        )
    if len(values.data) and values.data.min() < 0:
        raise InputError(
            f"the matrix holds {values.data.min():g}",
            "values of 0 or more",
            "give counts or probabilities",
        )
    clusters, codes = np.unique(labels, return_inverse=True)
    scores = specificity_of_matrix(values, np.ravel(codes), len(clusters))
    return pd.DataFrame(scores, index=index, columns=clusters)


def cluster_specific(
    score_mat: pd.DataFrame, classes: Sequence[int] | None = None, top: int = 0
) -> tuple[Array, Array]:
    """Assign every peak to the cluster for which it is most specific, and return the best of each.

    Parameters
    ----------
    score_mat
        Peaks × clusters, from `mat_specificity_score`. Peaks without a score (NaN) are left out.
    classes
        Positions of the clusters to return, in this order; left out, all.
    top
        Number of peaks of each cluster; 0 for all.

    Returns
    -------
    Positions of the peaks, cluster by cluster, the best of each last; and the position of
    each peak's cluster.
    """
    return most_specific_peaks(np.asarray(score_mat, dtype=float), classes, top)
