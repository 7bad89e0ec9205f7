"""Imputed accessibility of peaks, regions and gene starts in each cell, as colours of a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scale_toolkit.core.intervals import parse_names
from scale_toolkit.errors import InputError
from scale_toolkit.stages.choose import find_peaks
from scale_toolkit.stages.imputed import imputed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

#: Bases on either side of a gene's start whose peaks are taken as its promoter.
PROMOTER = 2_000


def region_values(
    adata: AnnData, regions: Sequence[str], genes: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return the imputed probability that each region is open in each cell, at equal depth.

    Parameters
    ----------
    adata
        The output of `train`.
    regions
        Peak names, intervals (``chr1:1000-9000``), or with `genes` names of genes. Of several peaks
        in a region the mean is taken; of a gene, those within `PROMOTER` bases of its start.
    genes
        ``chrom``, ``tss``, ``gene_id``, ``gene_name`` (`io.genes.read_gtf`).

    Returns
    -------
    Cells × regions, float64, in [0, 1].

    Raises
    ------
    InputError
        A name that is neither a peak, an interval nor a gene.
    NothingLeftError
        A region without modelled peaks.
    """
    values = imputed(adata)
    positions = {name: find_peaks(adata, _as_intervals(name, adata, genes)) for name in regions}
    columns = {}
    for name, peaks in positions.items():
        block = np.asarray(values[:, list(adata.var_names[peaks])], dtype=np.float64)
        columns[name] = block.reshape(adata.n_obs, -1).mean(axis=1)
    return pd.DataFrame(columns, index=adata.obs_names)


def _as_intervals(name: str, adata: AnnData, genes: pd.DataFrame | None) -> list[str]:
    """Return the peak or interval itself, or the intervals around the starts of a gene."""
    if name in adata.var_names or parse_names([name])["chrom"].notna().all():
        return [name]
    if genes is None:
        columns = ", ".join(map(str, adata.obs.columns))
        raise InputError(
            f"{name!r} is neither a column of obs nor a peak or region",
            f"one of {columns}, a peak such as {adata.var_names[0]}, or a region such as "
            "chr1:1000-9000",
            "name genes together with --gtf",
        )
    lower = name.lower()
    is_named = genes["gene_name"].str.lower().eq(lower) | genes["gene_id"].str.lower().eq(lower)
    rows = genes[is_named.to_numpy()]
    if not len(rows):
        raise InputError(
            f"{name!r} is neither a column of obs, a peak nor a gene of the GTF",
            f"a gene such as {genes['gene_name'].iloc[0]}",
            "look at the spelling and at the species",
        )
    return [
        f"{row.chrom}:{max(int(row.tss) - PROMOTER, 0)}-{int(row.tss) + PROMOTER}"
        for row in rows.itertuples()
    ]
