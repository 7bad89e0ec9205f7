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
from scale_toolkit.errors import NothingLeftError, warn
from scale_toolkit.stages import _episcanpy
from scale_toolkit.stages.counts import counts_of, open_peaks
from scale_toolkit.stages.stage import Progress, Result, stage
from scale_toolkit.stages.subset import shallow_copy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

log = logging.getLogger("scale_toolkit")

#: Open peaks handled at a time if values have to be computed: 64 MB of float64.
BLOCK = 8_000_000


def _reads(config: SelectPeaksConfig) -> tuple[keys.Slot, ...]:
    return (keys.X,)


@stage(
    "select-peaks",
    SelectPeaksConfig,
    reads=_reads,
    writes=(keys.PEAK_SCORE, keys.SELECTED),
)
def select_peaks(
    adata: AnnData, config: SelectPeaksConfig, *, progress: Progress | None = None
) -> Result:
    """Score every peak and keep the best-scored ones, in their order in the file.

    Scores (a higher one is more informative; all but hvg see X as open or closed):

    ``variability``
        1 − abs(fraction of cells in which the peak is open − 0.5), from 0.5 to 1:
        episcanpy's score, computed here.
    ``episcanpy``
        The same score from the library itself, with its own selection: no peak below its
        threshold is kept.
    ``hvg``
        Normalised dispersion of scanpy's `highly_variable_genes` (flavour "seurat") on counts
        scaled to 10,000 a cell and log1p-transformed; NaN for a peak that is not open in any cell.
    ``tfidf-variance``
        Variance over cells of
        ``log1p(10⁴ · open / (open peaks of the cell) · log(1 + cells / cells with the peak))``.

    Of equal scores the peak that comes first in the file wins, so that exactly `n_peaks` are kept
    if there are as many.

    Parameters
    ----------
    adata
        X: cells × peaks, counts or binary; CSR, CSC or dense.
    config
        The options; or give them as keywords.
    progress
        Called for each pass over the counts.

    Returns
    -------
    A new AnnData with the selected peaks, or with ``mark_only`` all of them; `adata` itself is
    never changed. If every peak is kept, the new object shares X, layers and the other matrices
    with `adata`. Written:

    ``var['peak_score']`` (float64), ``var['selected']`` (bool)

    The results of an earlier `train` are kept, with a warning if they were made from other peaks.

    Raises
    ------
    InputError
        X holds values that are negative or not finite, or has no cell or no peak.
    NothingLeftError
        No peak reaches `min_score`.
    """
    is_open = open_peaks(adata)
    n_cells, n_peaks = is_open.shape
    # SCALE's users know -1 as "all"
    if config.n_peaks == -1:
        config = dataclasses.replace(config, n_peaks=n_peaks)
    allowed = np.ones(n_peaks, dtype=bool)
    if config.method == "episcanpy":
        score, allowed = _episcanpy.select_var_feature(
            is_open, n_peaks=config.n_peaks, min_score=config.min_score
        )
    elif config.method == "hvg":
        score = _hvg(adata, is_open)
    elif config.method == "tfidf-variance":
        score = tfidf_variance(is_open)
    else:
        score = variability(is_open)

    selected = best(score, config.n_peaks, config.min_score) & allowed
    if not selected.any():
        raise _nothing_left(score, config)
    _warn_if_fewer(n_peaks, config)
    _warn_if_stale(adata, selected)
    _warn_of_empty_cells(is_open, selected)
    log.info(
        "selected %d of %d peaks by %s in %d cells", selected.sum(), n_peaks, config.method, n_cells
    )
    keep_all = config.mark_only or bool(selected.all())
    kept_peaks = np.arange(n_peaks) if keep_all else np.flatnonzero(selected)
    return Result(
        slots={keys.PEAK_SCORE: score[kept_peaks], keys.SELECTED: selected[kept_peaks]},
        target=shallow_copy(adata) if keep_all else None,
        peaks=None if keep_all else kept_peaks,
        facts={
            "n_peaks_found": n_peaks,
            "n_peaks_selected": int(selected.sum()),
            "lowest_score": float(np.nanmin(score[selected])),
        },
    )


def variability(is_open: sparse.csr_matrix) -> np.ndarray:
    """Return episcanpy's variability score of each peak, in [0.5, 1].

    It is 1 − abs(fraction of cells in which the peak is open − 0.5).
    """
    return 1 - np.abs(_cells_per_peak(is_open) / is_open.shape[0] - 0.5)


def tfidf_variance(is_open: sparse.csr_matrix) -> np.ndarray:
    """Return the variance over all cells of each peak's TF-IDF value; 0 for an empty peak.

    The formula is that of `select_peaks`; the divisor is the number of cells.
    """
    n_cells = is_open.shape[0]
    per_peak = _cells_per_peak(is_open)
    idf = np.log1p(n_cells / np.maximum(per_peak, 1))
    total, squares = np.zeros(is_open.shape[1]), np.zeros(is_open.shape[1])
    for block in _row_blocks(is_open):
        per_cell = np.diff(block.indptr)
        # 10⁴ is the scale factor of Signac's TF-IDF
        value = np.log1p(1e4 / np.repeat(per_cell, per_cell) * idf[block.indices])
        total += np.bincount(block.indices, weights=value, minlength=len(total))
        squares += np.bincount(block.indices, weights=value**2, minlength=len(total))
    # rounding may leave −1e-16
    return np.maximum(squares / n_cells - (total / n_cells) ** 2, 0)


def best(score: np.ndarray, n_peaks: int, min_score: float | None = None) -> np.ndarray:
    """Return a mask of the `n_peaks` highest scores of at least `min_score`.

    Of equal scores the first wins; NaN comes last.
    """
    ranked = np.where(np.isnan(score), -np.inf, score)
    chosen = np.zeros(len(score), dtype=bool)
    chosen[np.argsort(-ranked, kind="stable")[:n_peaks]] = True
    return chosen if min_score is None else chosen & (ranked >= min_score)


def _cells_per_peak(is_open: sparse.csr_matrix) -> np.ndarray:
    per_peak = np.zeros(is_open.shape[1], dtype=np.int64)
    for block in _row_blocks(is_open):
        per_peak += np.bincount(block.indices, minlength=len(per_peak))
    return per_peak


def _row_blocks(matrix: sparse.csr_matrix) -> Iterator[sparse.csr_matrix]:
    """Yield blocks of rows with about `BLOCK` stored values each."""
    start = 0
    while start < matrix.shape[0]:
        stop = int(np.searchsorted(matrix.indptr, matrix.indptr[start] + BLOCK, side="right")) - 1
        # at least one row, also if it alone holds more than a block
        stop = min(max(stop, start + 1), matrix.shape[0])
        yield matrix[start:stop]
        start = stop


def _hvg(adata: AnnData, is_open: sparse.csr_matrix) -> np.ndarray:
    import anndata
    import scanpy as sc

    # scanpy works in place, and does not accept a csr_array
    cells = anndata.AnnData(sparse.csr_matrix(counts_of(adata), dtype=np.float32, copy=True))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some cells have zero counts")
        # the seurat flavour expects logarithms of counts scaled to 10⁴
        sc.pp.normalize_total(cells, target_sum=1e4)
        sc.pp.log1p(cells)
        table = sc.pp.highly_variable_genes(cells, flavor="seurat", inplace=False)
    score = table["dispersions_norm"].to_numpy(dtype=np.float64)
    # scanpy may give a peak without any read a score
    return np.where(_cells_per_peak(is_open) > 0, score, np.nan)


def _nothing_left(score: np.ndarray, config: SelectPeaksConfig) -> NothingLeftError:
    known = score[~np.isnan(score)]
    if not len(known):
        return NothingLeftError(
            f"no peak has a score by `method={config.method}`",
            "cells that differ in their open peaks",
            "use `method=variability`",
        )
    low, middle, high = np.quantile(known, [0, 0.5, 1])
    # rounded down to four digits, so that the figure shown really keeps a tenth of the peaks
    proposal = float(np.quantile(known, 0.9))
    digits = 10.0 ** (3 - np.floor(np.log10(abs(proposal)))) if proposal else 1.0
    proposal = np.floor(proposal * digits) / digits
    n_kept = np.count_nonzero(known >= proposal)
    return NothingLeftError(
        f"no peak scores {config.min_score:g} or more by {config.method}: "
        f"scores range from {low:.4g} to {high:.4g}, median {middle:.4g}",
        do=f"`min_score={proposal:.10g}` would keep {n_kept} of {len(score)} peaks",
    )


def _warn_if_fewer(n_found: int, config: SelectPeaksConfig) -> None:
    """Warn if there are fewer peaks than a number that the user chose; the default is only a
    bound.
    """
    if n_found < config.n_peaks != SelectPeaksConfig().n_peaks:
        warn(
            f"`n_peaks` is {config.n_peaks} and there are {n_found} peaks: all are kept",
        )


def _warn_if_stale(adata: AnnData, selected: np.ndarray) -> None:
    """Warn if the latent space in `adata` was made from other peaks than those selected now."""
    if not keys.LATENT.found_in(adata):
        return
    origin = "other peaks"
    if keys.BIAS.found_in(adata):
        modelled = ~np.isnan(np.asarray(keys.BIAS.get(adata), dtype=float))
        if np.array_equal(modelled, selected):
            return
        origin = f"{modelled.sum()} peaks, {(modelled & selected).sum()} of them selected now"
    warn(
        f"{keys.LATENT} and the other results of `scale train` are kept but were made from "
        f"{origin}; run `scale train` again",
    )


def _warn_of_empty_cells(is_open: sparse.csr_matrix, selected: np.ndarray) -> None:
    if selected.all():
        return
    is_selected = selected.astype(np.int64)
    n_empty = sum(
        np.count_nonzero((block @ is_selected == 0) & (np.diff(block.indptr) > 0))
        for block in _row_blocks(is_open)
    )
    if n_empty:
        warn(
            f"{n_empty} of {is_open.shape[0]} cells have none of their open peaks among the "
            f"{selected.sum()} selected; keep more",
        )
