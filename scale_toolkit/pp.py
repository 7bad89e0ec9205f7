"""Preprocessing in scanpy's manner: ``scale.pp.prepare(adata)`` changes `adata`, with ``copy=True``
it returns a new AnnData.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scale_toolkit._in_place import run, with_options
from scale_toolkit.config import PrepareConfig, SelectPeaksConfig

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = ["prepare", "select_peaks"]


@with_options(PrepareConfig)
def prepare(
    adata: AnnData,
    *,
    copy: bool = False,
    blacklist: pd.DataFrame | None = None,
    metadata: pd.DataFrame | None = None,
    may_overwrite: bool = False,
    **options: Any,
) -> AnnData | None:
    """Check counts, and keep the cells and peaks that hold enough.

    Parameters
    ----------
    adata
        Counts (integers), cells × peaks. (Several inputs are joined by `scale_toolkit.prepare`,
        which returns a new AnnData.)
    copy
        Leave `adata` as it is and return a new one.
    blacklist
        Regions (``chrom``, ``start``, ``end``; half-open): peaks that overlap one by a base are
        dropped.
    metadata
        Columns to add to obs, indexed by barcode.
    may_overwrite
        Take the memory of the counts of `adata`, also with `copy`: they are never in memory twice,
        and other objects that share their arrays lose them.
    **options
        ``min_peaks`` (open peaks a cell), ``min_cells`` (cells a peak is open in), …: see
        `scale_toolkit.prepare`.

    Returns
    -------
    None, or with `copy` the new AnnData. Written: ``X`` (CSR float32), ``obs['n_peaks']`` (int64),
    ``obs['n_counts']`` (float64), ``var['n_cells']`` (int64), a receipt in ``uns['scale']``.
    ``raw`` is dropped.

    Raises
    ------
    InputError
        No counts, an empty matrix, barcodes or peaks twice, an unknown layer.
    NothingLeftError
        A filter leaves no cell or no peak.
    """
    return run(
        "prepare",
        adata,
        copy=copy,
        blacklist=blacklist,
        metadata=metadata,
        may_overwrite=may_overwrite,
        **options,
    )


@with_options(SelectPeaksConfig)
def select_peaks(adata: AnnData, *, copy: bool = False, **options: Any) -> AnnData | None:
    """Score every peak and keep the best-scored ones, in their order.

    Parameters
    ----------
    adata
        Counts or binary, cells × peaks.
    copy
        Leave `adata` as it is and return a new one.
    **options
        ``n_peaks``, ``method``, ``mark_only``, …: see `scale_toolkit.select_peaks`.

    Returns
    -------
    None, or with `copy` the new AnnData. Written: ``var['peak_score']`` (float64),
    ``var['selected']`` (bool), a receipt in ``uns['scale']``.

    Raises
    ------
    InputError
        X holds negative values or values that are not finite.
    NothingLeftError
        No peak reaches ``min_score``.
    """
    return run("select_peaks", adata, copy=copy, **options)
