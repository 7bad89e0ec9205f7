"""``select-peaks``: score every peak, and keep the best."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.config import SelectPeaksConfig
from scale_toolkit.errors import InputError, NothingLeftError, ScaleWarning
from scale_toolkit.stages import _episcanpy
from scale_toolkit.stages._stage import Progress, note, stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

log = logging.getLogger("scale_toolkit")

#: Open peaks handled at a time where values have to be computed: 64 MB of float64.
BLOCK = 8_000_000


@stage("select-peaks", SelectPeaksConfig, reads=(keys.X,))
def select_peaks(adata: AnnData, config: SelectPeaksConfig, *, progress: Progress | None = None) -> AnnData:
    """Score every peak and keep the best-scored ones, in their order in the file.

    Scores (a higher one is more informative; all but hvg see X as open or closed):

    ``variability``
        1 − abs(share of cells the peak is open in − 0.5), from 0.5 to 1: episcanpy's score, computed here.
    ``episcanpy``
        The same score from the library itself, with its own selection: no peak below its threshold is kept.
    ``hvg``
        Normalised dispersion of scanpy's `highly_variable_genes` (flavour "seurat") on counts scaled to 10,000 a cell
        and log1p-transformed; NaN for a peak that is open nowhere.
    ``tfidf-variance``
        Variance over cells of ``log1p(10⁴ · open / (open peaks of the cell) · log(1 + cells / cells with the peak))``.

    Of equal scores the peak that comes first in the file wins, so exactly `n_peaks` are kept where there are as many.

    Parameters
    ----------
    adata
        X: cells × peaks, counts or binary; CSR, CSC or dense.
    config
        The options; or give them as keywords.
    progress
        Not used: the stage is quick.

    Returns
    -------
    A new AnnData with the selected peaks, or with ``mark_only`` all of them; `adata` itself is never changed. Where
    every peak is kept the new object shares X, layers and the other matrices with `adata`. Written:

    ``var['peak_score']`` (float64), ``var['selected']`` (bool)

    The results of a former `train` are kept, with a warning where they are of other peaks than those now selected.

    Raises
    ------
    InputError
        X holds negative values or values that are not finite, or has no cell or no peak.
    NothingLeftError
        No peak reaches `min_score`.
    """
    is_open = _binary_view(adata)
    n_cells, n_peaks = is_open.shape
    if config.n_peaks == -1:  # SCALE's users know it as "all"
        config = dataclasses.replace(config, n_peaks=n_peaks)
    allowed = np.ones(n_peaks, dtype=bool)
    if config.method == "episcanpy":
        score, allowed = _episcanpy.select_var_feature(is_open, n_peaks=config.n_peaks, min_score=config.min_score)
    elif config.method == "hvg":
        score = _hvg(adata, is_open)
    elif config.method == "tfidf-variance":
        score = tfidf_variance(is_open)
    else:
        score = variability(is_open)

    selected = best(score, config.n_peaks, config.min_score) & allowed
    if not selected.any():
        raise _nothing_left(score, config)
    _say_if_fewer(n_peaks, config)

    keep_all = config.mark_only or selected.all()
    result = _shallow_copy(adata) if keep_all else _subset(adata, selected)
    mask = slice(None) if keep_all else selected
    keys.PEAK_SCORE.set(result, score[mask])
    keys.SELECTED.set(result, selected[mask])
    note(result, n_peaks_found=n_peaks, n_peaks_selected=int(selected.sum()), lowest_score=float(np.nanmin(score[selected])))
    _warn_if_stale(adata, selected)
    _warn_of_empty_cells(is_open, selected)
    log.info("selected %d of %d peaks by %s in %d cells", selected.sum(), n_peaks, config.method, n_cells)
    return result


def variability(is_open: sparse.csr_matrix) -> np.ndarray:
    """Variability score of each peak as in episcanpy: 1 − abs(share of cells it is open in − 0.5), in [0.5, 1]."""
    return 1 - np.abs(_cells_per_peak(is_open) / is_open.shape[0] - 0.5)


def tfidf_variance(is_open: sparse.csr_matrix) -> np.ndarray:
    """Variance over all cells (divisor: cells) of each peak's TF-IDF value; formula in `select_peaks`. 0 for an empty peak."""
    n_cells = is_open.shape[0]
    per_peak = _cells_per_peak(is_open)
    idf = np.log1p(n_cells / np.maximum(per_peak, 1))
    total, squares = np.zeros(is_open.shape[1]), np.zeros(is_open.shape[1])
    for block in _row_blocks(is_open):
        per_cell = np.diff(block.indptr)
        value = np.log1p(1e4 / np.repeat(per_cell, per_cell) * idf[block.indices])
        total += np.bincount(block.indices, weights=value, minlength=len(total))
        squares += np.bincount(block.indices, weights=value**2, minlength=len(total))
    return np.maximum(squares / n_cells - (total / n_cells) ** 2, 0)  # rounding may leave −1e-16


def best(score: np.ndarray, n_peaks: int, min_score: float | None = None) -> np.ndarray:
    """Mark the `n_peaks` highest of `score` (ties: first come, first kept; NaN last) among those of at least `min_score`."""
    ranked = np.where(np.isnan(score), -np.inf, score)
    chosen = np.zeros(len(score), dtype=bool)
    chosen[np.argsort(-ranked, kind="stable")[:n_peaks]] = True
    return chosen if min_score is None else chosen & (ranked >= min_score)


def _binary_view(adata: AnnData) -> sparse.csr_matrix:
    """X as open (1) or closed, as CSR without stored zeros; its index arrays are X's own where X is a clean CSR."""
    if 0 in adata.shape:
        raise InputError(f"X is {adata.n_obs} cells × {adata.n_vars} peaks", "one or more of each", "run `scale prepare` first")
    X = adata.to_memory().X if adata.isbacked else adata.X
    if X is None:
        raise InputError("X is empty", "counts, cells × peaks", "run `scale prepare` first, with --layer where they are in one")
    X = X.tocsr() if sparse.issparse(X) else sparse.csr_matrix(np.asarray(X))
    if len(X.data) and not (np.isfinite(X.data.min()) and np.isfinite(X.data.max()) and X.data.min() >= 0):
        raise InputError(
            f"X runs from {X.data.min():g} to {X.data.max():g}",
            "counts, 0 or more",
            "give counts as `scale prepare` writes them",
        )
    is_open = sparse.csr_matrix((X.data > 0, X.indices, X.indptr), shape=X.shape, copy=False)
    if not is_open.data.all() or not X.has_canonical_format:
        is_open = is_open.copy()  # the indices are X's until here
        is_open.sum_duplicates()
        is_open.eliminate_zeros()
    return is_open


def _cells_per_peak(is_open: sparse.csr_matrix) -> np.ndarray:
    return sum(np.bincount(block.indices, minlength=is_open.shape[1]) for block in _row_blocks(is_open))


def _row_blocks(matrix: sparse.csr_matrix) -> Iterator[sparse.csr_matrix]:
    start = 0
    while start < matrix.shape[0]:
        stop = int(np.searchsorted(matrix.indptr, matrix.indptr[start] + BLOCK, side="right")) - 1
        stop = min(max(stop, start + 1), matrix.shape[0])
        yield matrix[start:stop]
        start = stop


def _hvg(adata: AnnData, is_open: sparse.csr_matrix) -> np.ndarray:
    import anndata
    import scanpy as sc

    X = adata.to_memory().X if adata.isbacked else adata.X
    cells = anndata.AnnData(sparse.csr_matrix(X, dtype=np.float32, copy=True))  # scanpy works in place, and on no csr_array
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some cells have zero counts")
        sc.pp.normalize_total(cells, target_sum=1e4)
        sc.pp.log1p(cells)
        table = sc.pp.highly_variable_genes(cells, flavor="seurat", inplace=False)
    score = table["dispersions_norm"].to_numpy(dtype=np.float64)
    return np.where(_cells_per_peak(is_open) > 0, score, np.nan)  # scanpy may give a peak without any read a score


def _subset(adata: AnnData, selected: np.ndarray) -> AnnData:
    part = adata[:, selected]
    return part.to_memory() if adata.isbacked else part.copy()


def _shallow_copy(adata: AnnData) -> AnnData:
    """Make a new AnnData with its own obs, var and uns, and the matrices of `adata`: nothing large is copied."""
    import anndata

    if adata.isbacked:
        return adata.to_memory()
    return anndata.AnnData(
        adata.X,
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns=dict(adata.uns),
        obsm=dict(adata.obsm),
        varm=dict(adata.varm),
        obsp=dict(adata.obsp),
        varp=dict(adata.varp),
        layers={name: layer for name, layer in adata.layers.items() if name is not None},  # None is X, from anndata 0.13 on
        raw=adata.raw,
    )


def _nothing_left(score: np.ndarray, config: SelectPeaksConfig) -> NothingLeftError:
    known = score[~np.isnan(score)]
    if not len(known):
        return NothingLeftError(
            f"no peak has a score by --method {config.method}",
            "cells that differ in their open peaks",
            "use --method variability",
        )
    low, middle, high = np.quantile(known, [0, 0.5, 1])
    would_do = float(np.quantile(known, 0.9))
    digits = 10.0 ** (3 - np.floor(np.log10(abs(would_do)))) if would_do else 1.0
    would_do = np.floor(would_do * digits) / digits  # rounded down, so that the figure shown really keeps them
    return NothingLeftError(
        f"no peak scores {config.min_score:g} or more by {config.method}: "
        f"scores run from {low:.4g} to {high:.4g}, median {middle:.4g}",
        do=f"--min-score {would_do:.10g} would keep {np.count_nonzero(known >= would_do)} of {len(score)} peaks",
    )


def _say_if_fewer(n_found: int, config: SelectPeaksConfig) -> None:
    if n_found < config.n_peaks != SelectPeaksConfig().n_peaks:  # the default is an upper bound nobody asked for
        message = f"{config.n_peaks} peaks were asked for and there are {n_found}: none is left out for the number's sake"
        warnings.warn(message, ScaleWarning, stacklevel=4)


def _warn_if_stale(adata: AnnData, selected: np.ndarray) -> None:
    """Say where the latent space in `adata` was made from other peaks than the ones selected now."""
    if not keys.LATENT.found_in(adata):
        return
    modelled = ~np.isnan(np.asarray(keys.BIAS.get(adata), dtype=float)) if keys.BIAS.found_in(adata) else None
    if modelled is None or not np.array_equal(modelled, selected):
        of = (
            "other peaks" if modelled is None else f"{modelled.sum()} peaks, {(modelled & selected).sum()} of them selected now"
        )
        warnings.warn(
            f"{keys.LATENT} and the other results of `scale train` are kept but were made from {of}; run `scale train` again",
            ScaleWarning,
            stacklevel=4,
        )


def _warn_of_empty_cells(is_open: sparse.csr_matrix, selected: np.ndarray) -> None:
    if selected.all():
        return
    kept = selected.astype(np.int64)
    empty = sum(np.count_nonzero((block @ kept == 0) & (np.diff(block.indptr) > 0)) for block in _row_blocks(is_open))
    if empty:
        warnings.warn(
            f"{empty} of {is_open.shape[0]} cells have none of their open peaks among the {selected.sum()} selected; keep more",
            ScaleWarning,
            stacklevel=4,
        )
