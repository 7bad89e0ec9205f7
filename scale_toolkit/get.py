"""Tables and arrays read from an AnnData that the stages have written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.core.specificity import specificity_of_matrix
from scale_toolkit.errors import InputError, MissingSlotError, OptionError
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "contrast",
    "decoder_weights",
    "imputed",
    "latent",
    "markers",
    "motifs",
    "posterior",
    "specificity",
    "top_markers",
]


def latent(adata: AnnData) -> pd.DataFrame:
    """Return the latent space, cells × dimensions (float32), from ``obsm['X_scale']``."""
    values = np.asarray(keys.LATENT.get(adata))
    return pd.DataFrame(values, index=adata.obs_names, columns=_numbers(values.shape[1]))


def posterior(adata: AnnData) -> pd.DataFrame:
    """Return the responsibility of each mixture component for each cell.

    Returns
    -------
    Cells × components, float32; rows sum to 1; from ``obsm['scale_posterior']``.
    """
    values = np.asarray(keys.POSTERIOR.get(adata))
    return pd.DataFrame(values, index=adata.obs_names, columns=_numbers(values.shape[1]))


def imputed(adata: AnnData, peaks: Any = slice(None), cells: Any = slice(None)) -> pd.DataFrame:
    """Return the probability that each of these peaks is open in each of these cells.

    Parameters
    ----------
    adata
        The output of `scale train`; the values are decoded here and not stored.
    peaks, cells
        Names, positions or masks; all by default, which takes cells × peaks × 4 bytes.

    Returns
    -------
    Cells × peaks, float32, in [0, 1]; peaks that are not modelled have no column.
    """
    # decoding belongs to the stages, and this module is read without them
    from scale_toolkit.stages.imputed import imputed as decoded

    values = decoded(adata).to_adata(peaks=peaks, cells=cells)
    return pd.DataFrame(values.X, index=values.obs_names, columns=values.var_names)


def markers(adata: AnnData, cluster: str | None = None) -> pd.DataFrame:
    """Return the table of marker peaks from ``uns['scale_markers']``, best first.

    Parameters
    ----------
    adata
        The output of `scale markers`.
    cluster
        Only the markers of this cluster.
    """
    return _of_cluster(keys.MARKERS.get(adata), cluster)


def contrast(adata: AnnData, cluster: str | None = None) -> pd.DataFrame:
    """Return the peaks that differ between two conditions from ``uns['scale_contrast']``.

    Parameters
    ----------
    adata
        The output of `scale markers --contrast`.
    cluster
        Only the differences within this cluster.
    """
    return _of_cluster(keys.CONTRAST.get(adata), cluster)


def motifs(adata: AnnData, cluster: str | None = None) -> pd.DataFrame:
    """Return the table of motif enrichment from ``uns['scale_motifs']``, the smallest p first."""
    return _of_cluster(keys.MOTIFS.get(adata), cluster)


def _of_cluster(table: pd.DataFrame, cluster: str | None) -> pd.DataFrame:
    if cluster is None:
        return table.copy()
    clusters = table["cluster"].astype("category").cat.categories.astype(str)
    if cluster not in clusters:
        raise InputError(
            f"the cluster {cluster!r} is missing", "one of " + first_names(clusters, 12)
        )
    return table[table["cluster"].astype(str) == cluster].copy()


def _numbers(n: int) -> list[str]:
    return [str(number) for number in range(n)]


def decoder_weights(adata: AnnData) -> np.ndarray[Any, Any]:
    """Return the loadings of every peak on every latent dimension.

    Parameters
    ----------
    adata
        With ``varm['scale_decoder']``, from `scale train`.

    Returns
    -------
    float32, peaks × latent dimensions; NaN for peaks that are not modelled.
    """
    if not hasattr(adata, "varm"):
        raise InputError(
            f"got a {type(adata).__name__}",
            "an AnnData",
            f"`scale train` writes the weights to {keys.DECODER}",
        )
    return np.asarray(keys.DECODER.get(adata))


def specificity(adata: AnnData, groupby: str | None = None) -> pd.DataFrame:
    """Return the specificity of every peak for every cluster, from the open peaks of X.

    Parameters
    ----------
    adata
        X: counts or binary, cells × peaks, read as open or closed.
    groupby
        Column of obs; left out, ``scale_cluster``. Cells without a label are left out.

    Returns
    -------
    Peaks × clusters, 1 − √JSD (0.167 to 1, see `core.specificity`); NaN for a peak that is
    not open in any cell.
    """
    labels = _labels(adata, groupby)
    has_label = labels.notna().to_numpy()
    is_open = sparse.csr_matrix((sparse.csr_matrix(adata.X)[has_label] > 0).T).astype(np.float64)
    is_open.eliminate_zeros()
    clusters, codes = np.unique(labels[has_label].astype(str).to_numpy(), return_inverse=True)
    scores = pd.DataFrame(
        specificity_of_matrix(is_open, np.ravel(codes), len(clusters)),
        index=adata.var_names,
        columns=clusters,
    )
    if isinstance(labels.dtype, pd.CategoricalDtype):
        scores = scores[
            [name for name in labels.cat.categories.astype(str) if name in scores.columns]
        ]
    return scores


def _labels(adata: AnnData, column: str | None) -> pd.Series[Any]:
    if column is None:
        return pd.Series(keys.CLUSTER.get(adata))
    if column not in adata.obs:
        raise MissingSlotError(
            f"obs[{column!r}] is missing", "one of " + ", ".join(map(str, adata.obs.columns))
        )
    return adata.obs[column]


def top_markers(adata: AnnData, n: int = 10) -> dict[str, list[str]]:
    """Return the best `n` marker peaks of each cluster, as `scale markers` ranked them.

    Parameters
    ----------
    adata
        With ``uns['scale_markers']``. Peaks that are no longer in ``var_names`` are skipped.
    n
        Peaks of each cluster at most.

    Returns
    -------
    Names of peaks by cluster, best first, in the order of the clusters; an empty list for a cluster
    without markers. scanpy's plots accept it::

        sc.pl.dotplot(adata, top_markers(adata, 3), groupby="scale_cluster")
    """
    if n < 1:
        raise OptionError(f"n is {n}", "1 or more")
    table = keys.MARKERS.get(adata)
    table = table[table["peak"].isin(adata.var_names)]
    clusters = table["cluster"].astype("category")
    return {
        str(name): table.loc[clusters == name, "peak"].astype(str).tolist()[:n]
        for name in clusters.cat.categories
    }
