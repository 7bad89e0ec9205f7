"""Helpers that SCALE's users call in a notebook, under the names SCALE gave them.

Where SCALE's release 1.1.2 does not run any more or does not do what it says, the function here does what it says; each
docstring names the difference. SCALE's matrices are peaks × cells in this file, as they were; where an AnnData (cells ×
peaks) is accepted as well, the docstring says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.errors import InputError, MissingSlotError, OptionError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from anndata import AnnData

    from scale_toolkit.core.metrics import Agreement

__all__ = [
    "binarization",
    "cell_filter",
    "cluster_report",
    "cluster_specific",
    "estimate_k",
    "gene_filter_",
    "get_decoder_weight",
    "jsd",
    "jsd_sp",
    "log2norm",
    "mat_specificity_score",
    "pairwise_pearson",
    "peak_filter",
    "peak_selection",
    "predefined_pattern",
    "read_labels",
    "reassign_cluster_with_ref",
    "sample_filter",
    "sort_by_mad",
    "specificity",
    "specificity_of_counts",
    "top_markers",
    "vec_specificity_score",
]

# How many peaks, cells, clusters ---------------------------------------------------------------------------------------


def estimate_k(data: Any, *, bound: str = "scale", dense_up_to: int = 2000) -> int:
    """Estimate the number of clusters by random matrix theory, as SC3 does.

    Every cell is scaled to mean 0 and variance 1 over its p peaks. The eigenvalues of the n × n Gram matrix of n
    structureless cells would stay below μ + c·σ, where::

        μ = (√(n−1) + √p)²     σ = (√(n−1) + √p) · (1/√(n−1) + 1/√p)^(1/3)

    centre and scale the Tracy-Widom law; the eigenvalues above are counted.

    Parameters
    ----------
    data
        Peaks × cells (array, DataFrame or scipy sparse, never made dense), values as they are; or an AnnData (cells ×
        peaks), of which the open peaks are taken.
    bound
        ``"scale"``: c = √p, SCALE's own; ``"sc3"``: c = 3.273, the 0.1 % quantile that SC3 takes. On sparse
        chromatin data the latter counts noise: 20 and 25 where SCALE's bound gives 4 and 8 on the paper's Leukemia (6
        classes) and half of Forebrain (8 classes).
    dense_up_to
        Up to this many cells all eigenvalues are computed, above it only the largest, as many as it takes.

    Returns
    -------
    The estimate, 0 or more. SCALE 1.1.2 asks for the six largest eigenvalues only and can never return more than 6.

    Raises
    ------
    OptionError
        The bound is not one of the two.
    InputError
        There are fewer than two cells or two peaks.
    """
    if hasattr(data, "obs_names"):
        data = sparse.csr_matrix(data.X).T > 0
    values = data if sparse.issparse(data) else np.asarray(data)
    values = values.astype(np.float64)
    p, n = values.shape
    if min(p, n) < 2:
        raise InputError(f"the matrix is {p} peaks × {n} cells", "at least two of each", "give peaks × cells, or an AnnData")
    if bound not in ("scale", "sc3"):
        raise OptionError(f"bound is {bound!r}", "one of scale, sc3")

    mean = np.asarray(values.mean(axis=0)).ravel()
    squares = values.multiply(values) if sparse.issparse(values) else values**2
    variance = (np.asarray(squares.sum(axis=0)).ravel() - p * mean**2) / (p - 1)
    scale = np.sqrt(np.maximum(variance, 0))
    scale = np.where(scale > 1e-10 * np.maximum(np.abs(mean), 1e-300), 1 / np.where(scale > 0, scale, 1), 0)

    roots = np.sqrt(n - 1), np.sqrt(p)
    sigma = sum(roots) * (1 / roots[0] + 1 / roots[1]) ** (1 / 3)
    limit = sum(roots) ** 2 + (np.sqrt(p) if bound == "scale" else 3.273) * sigma

    if n <= dense_up_to:
        gram = values.T @ values
        gram = gram.toarray() if sparse.issparse(gram) else gram
        gram = (gram - p * np.outer(mean, mean)) * np.outer(scale, scale)
        return int(np.count_nonzero(np.linalg.eigvalsh(gram) > limit))
    return _count_above(values, mean, scale, limit)


def _count_above(values: Any, mean: np.ndarray, scale: np.ndarray, limit: float) -> int:
    """Count the Gram matrix's eigenvalues above `limit` from matrix-vector products alone."""
    from scipy.sparse.linalg import LinearOperator, eigsh

    p, n = values.shape

    def product(v: np.ndarray) -> np.ndarray:
        w = scale * np.ravel(v)
        return scale * (values.T @ (values @ w) - p * mean * (mean @ w))

    gram = LinearOperator((n, n), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).normal(size=n)
    asked = 16
    while True:
        asked = min(asked, n - 1)
        found = eigsh(gram, k=asked, v0=start, return_eigenvectors=False)
        if found.min() <= limit or asked == n - 1:
            return int(np.count_nonzero(found > limit))
        asked *= 2


def binarization(imputed: Any, raw: Any) -> Any:
    """Turn imputed probabilities into open (1) and closed (0) by the open rates of the raw data.

    1 where a value is greater than the mean of its row *and* than the mean of its column in the **binarised** raw
    data, so orientation does not matter. SCALE 1.1.2 takes the means of the counts, which leaves a quarter of the ones
    (Leukemia 4.5 % instead of 17.7 %).

    Parameters
    ----------
    imputed
        Probabilities, array or DataFrame.
    raw
        Counts or 0/1 of the same shape, array, DataFrame or scipy sparse.

    Returns
    -------
    CSR of int8; for a DataFrame a DataFrame of int8 with the same labels.
    """
    values = np.asarray(imputed)
    is_open = raw != 0 if sparse.issparse(raw) else np.asarray(raw) != 0
    if values.shape != is_open.shape:
        raise InputError(
            f"imputed is {values.shape} and raw is {is_open.shape}", "the same shape", "give raw as it was imputed from"
        )
    rows, columns = (np.asarray(is_open.mean(axis=axis, dtype=np.float64)).ravel() for axis in (1, 0))
    if isinstance(imputed, pd.DataFrame):
        return pd.DataFrame(_above(values, rows, columns), index=imputed.index, columns=imputed.columns)
    block = max(1, 4_000_000 // max(1, values.shape[1]))
    parts = [
        sparse.csr_matrix(_above(values[i : i + block], rows[i : i + block], columns)) for i in range(0, len(values), block)
    ]
    return sparse.vstack(parts, format="csr") if parts else sparse.csr_matrix(values.shape, dtype=np.int8)


def _above(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return ((values > rows[:, None]) & (values > columns)).astype(np.int8)


# Peaks of a latent dimension, peaks of a cluster -----------------------------------------------------------------------


def get_decoder_weight(adata: AnnData) -> np.ndarray:
    """Return the loadings of every peak on every latent dimension (peaks × latent): ``varm['scale_decoder']``.

    SCALE read them from ``model.pt``; here they travel with the data.
    """
    if not hasattr(adata, "varm"):
        raise InputError(f"got a {type(adata).__name__}", "an AnnData", f"`scale train` leaves the weights in {keys.DECODER}")
    return np.asarray(keys.DECODER.get(adata))


def peak_selection(
    weight: Any, weight_index: Sequence[str] | None = None, kind: str = "both", cutoff: float = 2.5
) -> list[np.ndarray]:
    """Select the peaks with outlying decoder weights, for each latent dimension.

    A peak is selected where its weight is more than `cutoff` standard deviations from the mean of its dimension.

    Parameters
    ----------
    weight
        Peaks × latent weights (array or DataFrame), or a trained AnnData, whose modelled peaks are taken.
    weight_index
        Peak names, one a row; left out, the DataFrame's or AnnData's own, or positions.
    kind
        ``"both"`` sides, ``"pos"`` or ``"neg"``.
    cutoff
        In standard deviations.

    Returns
    -------
    One array of peak names a latent dimension (SCALE 1.1.2: always the first ten).
    """
    if kind not in ("both", "pos", "neg"):
        raise OptionError(f"kind is {kind!r}", "one of both, pos, neg")
    if hasattr(weight, "varm"):
        modelled = ~np.isnan(np.asarray(keys.BIAS.get(weight), dtype=float))
        weight_index = np.asarray(weight.var_names if weight_index is None else weight_index)[modelled]
        weight = get_decoder_weight(weight)[modelled]
    if weight_index is None:
        weight_index = getattr(weight, "index", np.arange(len(weight)))
    names, weight = np.asarray(weight_index), np.asarray(weight)
    if len(names) != len(weight):
        raise InputError(
            f"{len(names)} peak names and {len(weight)} rows of weights", "as many", "give the names of the modelled peaks"
        )
    centred = weight - weight.mean(axis=0)
    sided = {"both": np.abs(centred), "pos": centred, "neg": -centred}[kind]
    chosen = sided > cutoff * weight.std(axis=0)
    return [names[column] for column in chosen.T]


def jsd(p: Any, q: Any, base: float = np.e) -> float:
    """Jensen-Shannon divergence of two distributions (each is divided by its sum), 0 to log_base(2)."""
    from scipy.spatial.distance import jensenshannon

    return float(jensenshannon(np.asarray(p, dtype=float), np.asarray(q, dtype=float), base=base) ** 2)


def jsd_sp(p: Any, q: Any, base: float = np.e) -> float:
    """Specificity 1 − √JSD: 1 for equal distributions. SCALE 1.1.2 ignores `base`; its default is the same."""
    return 1 - jsd(p, q, base) ** 0.5


def log2norm(e: Any) -> np.ndarray:
    """log2(e + 1), divided by its sum."""
    logged = np.log2(np.asarray(e, dtype=float) + 1)
    return logged / logged.sum()


def predefined_pattern(t: Any, labels: Any) -> np.ndarray:
    """1 for the cells of cluster `t`, 0 for the others: what a peak that is specific to `t` would look like."""
    return (np.asarray(labels) == t).astype(float)


def vec_specificity_score(e: Any, t: Any, labels: Any) -> float:
    """Specificity of one peak (its values over the cells) for cluster `t`: 1 − √JSD to the perfectly specific peak."""
    return jsd_sp(log2norm(e), log2norm(predefined_pattern(t, labels)))


def mat_specificity_score(mat: Any, labels: Any) -> pd.DataFrame:
    """Specificity of every peak for every cluster: `vec_specificity_score` of all at once.

    Parameters
    ----------
    mat
        Peaks × cells, 0 or more: DataFrame, array or scipy sparse (its cost follows the values that are not 0).
    labels
        Cluster of each cell.

    Returns
    -------
    DataFrame peaks × clusters, from 1 − √ln 2 = 0.167 to 1, columns the sorted clusters; NaN for a peak without values.
    """
    labels = np.asarray(labels)
    index = mat.index if isinstance(mat, pd.DataFrame) else None
    values = sparse.csr_matrix(mat if sparse.issparse(mat) else np.asarray(mat, dtype=float)).astype(np.float64)
    values.eliminate_zeros()
    if values.shape[1] != len(labels):
        raise InputError(
            f"{values.shape[1]} columns and {len(labels)} labels",
            "a label a cell",
            "give peaks × cells, or use specificity(adata)",
        )
    if len(values.data) and values.data.min() < 0:
        raise InputError(f"the matrix holds {values.data.min():g}", "values of 0 or more", "give counts or probabilities")
    row = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
    p = np.log2(values.data + 1)
    total = np.bincount(row, weights=p, minlength=values.shape[0])
    p /= total[row]
    clusters, code = np.unique(labels, return_inverse=True)
    code = np.ravel(code)
    scores = np.full((values.shape[0], len(clusters)), np.nan)
    for t, size in enumerate(np.bincount(code, minlength=len(clusters))):
        q = 1 / size  # each cell of the cluster, in the perfectly specific peak
        inside = code[values.indices] == t
        # 2·JSD = Σ p ln(p/m) + Σ q ln(q/m), m = (p+q)/2; outside the cluster q = 0 and p/m = 2, and where p = 0, q/m = 2
        part = np.where(inside, p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q)) - q * np.log(2), p * np.log(2))
        doubled = np.bincount(row, weights=part, minlength=len(total)) + np.log(2)  # Σ q ln 2 over the whole cluster
        scores[:, t] = 1 - np.sqrt(np.maximum(doubled, 0) / 2)
    scores[total == 0] = np.nan
    return pd.DataFrame(scores, index=index, columns=clusters)


def specificity_of_counts(open_cells: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """What `mat_specificity_score` gives for open or closed peaks, from the open cells of each cluster alone.

    A peak that is open in n cells has p = 1/n in each of them, so its divergence follows from how many are in the cluster.

    Parameters
    ----------
    open_cells
        Open cells (peaks × clusters).
    sizes
        Cells of each cluster.

    Returns
    -------
    Specificity, peaks × clusters; NaN for a peak that is open nowhere.
    """
    total = open_cells.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        p, q = 1 / total, 1 / np.asarray(sizes, dtype=float)
        inside = p * np.log(2 * p / (p + q)) + q * np.log(2 * q / (p + q)) - q * np.log(2)
        doubled = open_cells * inside + (total - open_cells) * p * np.log(2) + np.log(2)
        return np.where(total > 0, 1 - np.sqrt(np.maximum(doubled, 0) / 2), np.nan)


def specificity(adata: AnnData, groupby: str | None = None) -> pd.DataFrame:
    """Specificity of every peak for every cluster of an AnnData (cells × peaks): `mat_specificity_score` of its open peaks.

    Parameters
    ----------
    adata
        X: counts or binary, seen as open or closed.
    groupby
        Column of obs; left out, ``scale_cluster``. Cells without a label are left out.
    """
    labels = _labels_of(adata, groupby)
    known = labels.notna().to_numpy()
    is_open = (sparse.csr_matrix(adata.X)[known] > 0).T
    scores = mat_specificity_score(is_open, labels[known].astype(str).to_numpy())
    if isinstance(labels.dtype, pd.CategoricalDtype):
        scores = scores[[name for name in labels.cat.categories.astype(str) if name in scores.columns]]
    return scores.set_index(adata.var_names)


def _labels_of(adata: AnnData, column: str | None) -> pd.Series:
    if column is None:
        return pd.Series(keys.CLUSTER.get(adata))
    if column not in adata.obs:
        raise MissingSlotError(f"obs[{column!r}] is missing", "one of " + ", ".join(map(str, adata.obs.columns)))
    return adata.obs[column]


def cluster_specific(
    score_mat: pd.DataFrame, classes: Sequence[int] | None = None, top: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Give every peak to the cluster it is most specific for, and take the best of each.

    Parameters
    ----------
    score_mat
        Peaks × clusters, from `mat_specificity_score`. Peaks without a score (NaN) are left out.
    classes
        Positions of the clusters wanted, in the order wanted; left out, all.
    top
        Peaks a cluster; 0 for all.

    Returns
    -------
    Positions of the peaks, cluster by cluster, the best of each last; and the position of each peak's cluster.
    """
    values = np.asarray(score_mat, dtype=float)
    scored = np.flatnonzero(~np.isnan(values).any(axis=1))
    of_peak, best = values[scored].argmax(axis=1), values[scored].max(axis=1)
    chosen, labels = [np.empty(0, dtype=int)], [np.empty(0, dtype=int)]
    for cluster in np.unique(of_peak) if classes is None else classes:
        own = np.flatnonzero(of_peak == cluster)
        own = own[np.argsort(best[own], kind="stable")]
        own = own[-top:] if top else own
        chosen.append(scored[own])
        labels.append(np.full(len(own), cluster, dtype=int))
    return np.concatenate(chosen), np.concatenate(labels)


def top_markers(adata: AnnData, n: int = 10) -> dict[str, list[str]]:
    """The best `n` marker peaks of each cluster, as `scale markers` ranked them.

    Parameters
    ----------
    adata
        With ``uns['scale_markers']``. Peaks that are no longer in ``var_names`` are passed over.
    n
        Peaks a cluster at most.

    Returns
    -------
    Names of peaks by cluster, best first, in the order of the clusters; an empty list for a cluster without markers. It is
    what scanpy's plots take: ``sc.pl.dotplot(adata, top_markers(adata, 3), groupby="scale_cluster")``.
    """
    if n < 1:
        raise OptionError(f"n is {n}", "1 or more")
    table = keys.MARKERS.get(adata)
    table = table[table["peak"].isin(adata.var_names)]
    clusters = table["cluster"].astype("category")
    return {str(name): table.loc[clusters == name, "peak"].astype(str).tolist()[:n] for name in clusters.cat.categories}


def pairwise_pearson(A: pd.DataFrame, B: Any) -> list[float]:
    """Pearson's r of each row of `A` with the same row of `B`, or with `B` itself where it is one vector."""
    a, b = np.asarray(A, dtype=float), np.asarray(B, dtype=float)
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # a constant row has no correlation: NaN, as scipy
        r = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=-1))
    return np.clip(r, -1, 1).tolist()


# Filters of a peaks × cells DataFrame ----------------------------------------------------------------------------------


def peak_filter(data: pd.DataFrame, x: int = 10, n_reads: int = 2) -> pd.DataFrame:
    """Keep peaks (rows) with at least `n_reads` reads in at least `x` cells. For binary data give ``n_reads=1``."""
    return data.loc[(data >= n_reads).sum(axis=1) >= x]


def cell_filter(data: pd.DataFrame) -> pd.DataFrame:
    """Keep cells (columns) with more reads than a fiftieth of the number of peaks."""
    return data.loc[:, data.sum(axis=0) > data.shape[0] / 50]


def sample_filter(data: pd.DataFrame, x: int = 10, n_reads: int = 2) -> pd.DataFrame:
    """`peak_filter`, then `cell_filter`."""
    return cell_filter(peak_filter(data, x, n_reads))


def gene_filter_(data: pd.DataFrame, X: float = 6) -> pd.DataFrame:
    """SC3's filter: drop rows above 1 in at most `X` % of the cells, and rows above 0 in at least 100 − `X` % of them."""
    rare = (data > 1).sum(axis=1) <= 0.01 * X * data.shape[1]
    ubiquitous = (data > 0).sum(axis=1) >= 0.01 * (100 - X) * data.shape[1]
    return data.loc[~(rare | ubiquitous)]


def sort_by_mad(data: pd.DataFrame, axis: int = 0) -> pd.DataFrame:
    """Sort columns (axis 0) or rows (axis 1) by their mean absolute deviation from their mean, the largest first."""
    centred = data.sub(data.mean(axis=axis), axis=1 - axis)
    order = centred.abs().mean(axis=axis).sort_values(ascending=False, kind="stable").index
    return data.loc[:, order] if axis == 0 else data.loc[order]


# Clusters against known labels -----------------------------------------------------------------------------------------


def read_labels(ref: str | PathLike[str], return_enc: bool = False) -> tuple:
    """Read a table of cell and label (tab-separated, no header).

    Returns
    -------
    Codes 0 to k − 1, class names and, with `return_enc`, scikit-learn's LabelEncoder.
    """
    from sklearn.preprocessing import LabelEncoder

    table = pd.read_csv(ref, sep="\t", index_col=0, header=None)
    encoder = LabelEncoder()
    codes = encoder.fit_transform(table.iloc[:, 0].to_numpy())
    return (codes, encoder.classes_, encoder) if return_enc else (codes, encoder.classes_)


def reassign_cluster_with_ref(Y_pred: Any, Y: Any) -> np.ndarray:
    """Rename clusters to the classes they match best, one to one (Hungarian method).

    Parameters
    ----------
    Y_pred, Y
        Cluster and class of each cell: codes or names. (1.1.2 imports code that scikit-learn removed and takes codes only.)

    Returns
    -------
    The clusters under the names of their classes. Where there are more clusters than classes, those left over get the
    smallest unused codes, or keep their names, with an apostrophe where that is a class's name.
    """
    from scale_toolkit.core import metrics

    clusters, reference = np.asarray(Y_pred), np.asarray(Y)
    table, classes, names = metrics.confusion(reference, clusters)
    matched = metrics.match_clusters(table)
    if classes.dtype.kind in "iu" and names.dtype.kind in "iu":
        unused = (code for code in range(len(names) + len(classes)) if code not in set(classes))
        new = [classes[row] if row >= 0 else next(unused) for row in matched]
    else:
        taken = set(map(str, classes))
        new = []
        for name, row in zip(map(str, names), matched):
            while row < 0 and name in taken:
                name += "'"
            new.append(str(classes[row]) if row >= 0 else name)
            taken.add(new[-1])
    return np.asarray(new)[np.searchsorted(names, clusters)]


def cluster_report(ref: Any, pred: Any, classes: Sequence[str] | None = None) -> Agreement:
    """Print the confusion table of clusters matched with classes, ARI, NMI and F1; return the figures.

    Parameters
    ----------
    ref, pred
        Class and cluster of each cell.
    classes
        Names of the classes 0, 1, … where `ref` holds codes.
    """
    from scale_toolkit.core import metrics

    reference = np.asarray(ref)
    if classes is not None:
        reference = np.asarray([str(name) for name in classes])[reference]
    report = metrics.agreement(reference, pred)
    print(report)  # a notebook's report, as SCALE's; the stages print nothing
    return report
