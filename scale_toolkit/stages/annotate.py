"""``annotate``: name clusters by the marker genes or regions of known cell types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.config import AnnotateConfig
from scale_toolkit.core.annotate import enrichment
from scale_toolkit.core.genome_builds import check_build
from scale_toolkit.core.intervals import (
    Overlaps,
    check_chromosomes,
    parse_names,
    require_intervals,
)
from scale_toolkit.errors import InputError, warn
from scale_toolkit.stages.counts import open_peaks
from scale_toolkit.stages.labels import clusters_of
from scale_toolkit.stages.stage import Result, stage
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.stages.stage import Progress

#: Name of a cluster that no type explains, or two explain alike.
UNCLEAR = "unclear"


def check(adata: AnnData, config: AnnotateConfig, **inputs: Any) -> None:
    """Raise for markers that are genes without the genes' places."""
    markers = inputs.get("markers")
    if markers is None or not len(markers):
        raise InputError(
            "the table of markers has no rows", "a type and a gene or region in each row"
        )
    names = _gene_names(markers)
    if len(names) and inputs.get("genes") is None:
        raise InputError(
            f"{len(names):,} markers are not regions ({first_names(names, 3)})",
            "regions such as chr1:100-200, or the places of the genes",
            "give --gtf",
        )


@stage(
    "annotate",
    AnnotateConfig,
    reads=lambda config: (
        keys.X,
        keys.VAR_NAMES,
        keys.column("obs", config.cluster_by),
    ),
    requires=(keys.X,),
    writes=(keys.TYPE, keys.ANNOTATION),
    check=check,
)
def annotate(
    adata: AnnData,
    config: AnnotateConfig,
    *,
    progress: Progress | None = None,
    markers: pd.DataFrame,
    genes: pd.DataFrame | None = None,
) -> Result:
    """Name clusters by the marker genes or regions of known cell types.

    Parameters
    ----------
    adata
        Counts or open peaks, cells × peaks with intervals as names, with clusters in obs.
    config
        The options.
    progress
        Not called.
    markers
        ``type`` and ``marker``: the name of a gene, or a region such as ``chr1:100-200``.
    genes
        Starts of genes (`io.genes.read_gtf`), needed if a marker is a gene.

    Returns
    -------
    `adata`, with

    ``obs['scale_type']`` (category)
        Type of the cell's cluster, or ``unclear``; missing for cells without a cluster.
    ``uns['scale_annotation']`` (DataFrame, a row a cluster)
        ``cluster``, ``type`` (``unclear`` included), ``best``, ``second`` (types), ``log2_fold``
        of the best, ``margin`` over the second, ``t`` of the best, ``n_cells``, ``n_peaks`` of
        the best.

    Raises
    ------
    MissingSlotError
        The column of clusters is missing.
    InputError
        Genes without `genes`; peak names that are not intervals; no marker that overlaps a peak.

    Notes
    -----
    A peak counts for a gene if it lies within `max_distance` of its start, and for a region if it
    overlaps it. `core.annotate` has the formulas. A cluster is ``unclear`` if the best type has a
    log2 fold below `min_fold` or a t below `min_t`, or leads by less than `min_margin`.
    """
    clusters = clusters_of(adata, config.cluster_by, "cluster_by")
    is_open = sparse.csr_matrix(open_peaks(adata), dtype=np.float32)
    types, membership = _membership(adata, config, markers, genes)
    codes = clusters.cat.codes.to_numpy()
    names = list(clusters.cat.categories)
    log2_fold, t = enrichment(is_open, membership, codes, len(names))
    n_peaks = np.asarray(membership.sum(0)).ravel().astype(int)
    rows = [
        _row(name, log2_fold[k], t[k], types, n_peaks, int((codes == k).sum()), config)
        for k, name in enumerate(names)
    ]
    table = pd.DataFrame(rows)
    named = clusters.map(dict(zip(table["cluster"], table["type"], strict=True)))
    values = pd.Categorical(named.astype(object))
    facts = {
        "types": len(types),
        "peaks": int(n_peaks.sum()),
        UNCLEAR: int((table["type"] == UNCLEAR).sum()),
    }
    return Result({keys.TYPE: values, keys.ANNOTATION: table}, facts=facts)


def _row(
    cluster: str,
    log2_fold: np.ndarray,
    t: np.ndarray,
    types: list[str],
    n_peaks: np.ndarray,
    n_cells: int,
    config: AnnotateConfig,
) -> dict[str, Any]:
    """Return the row of one cluster."""
    order = np.argsort(-log2_fold, kind="stable")
    best = order[0]
    second = order[1] if len(order) > 1 else None
    margin = float(log2_fold[best] - (0 if second is None else log2_fold[second]))
    is_clear = (
        log2_fold[best] >= config.min_fold
        and t[best] >= config.min_t
        and margin >= config.min_margin
    )
    return {
        "cluster": cluster,
        "type": types[best] if is_clear else UNCLEAR,
        "best": types[best],
        "second": "" if second is None else types[second],
        "log2_fold": float(log2_fold[best]),
        "margin": margin,
        "t": float(t[best]),
        "n_cells": n_cells,
        "n_peaks": int(n_peaks[best]),
    }


def _gene_names(markers: pd.DataFrame) -> list[str]:
    """Return the markers that are not regions."""
    values = markers["marker"].astype(str)
    return list(values[parse_names(list(values))["chrom"].isna().to_numpy()].unique())


def _membership(
    adata: AnnData, config: AnnotateConfig, markers: pd.DataFrame, genes: pd.DataFrame | None
) -> tuple[list[str], sparse.csr_matrix]:
    """Return the types with a marker among the peaks, and their peaks, (peaks, types) of ones."""
    peaks = require_intervals(adata.var_names, "markers")
    regions = _regions(config, markers, genes, peaks)
    chromosomes = sorted(set(regions["chrom"]))
    if not set(chromosomes) & set(peaks["chrom"]):
        # markers on a part of the chromosomes are as usual
        check_chromosomes(peaks["chrom"], chromosomes, "markers")
    region_rows, peak_rows = Overlaps(peaks).pairs(
        regions["chrom"].tolist(), regions["start"].to_numpy(), regions["end"].to_numpy()
    )
    all_types = list(dict.fromkeys(markers["type"].astype(str)))
    in_peaks = set(regions["type"].iloc[region_rows])
    matched_types = [name for name in all_types if name in in_peaks]
    if not matched_types:
        raise InputError(
            f"none of {len(markers):,} markers overlaps a peak", "markers of this genome build"
        )
    missing = [name for name in all_types if name not in matched_types]
    if missing:
        warn(f"types without a marker among the peaks: {first_names(missing, 5)}")
    codes = pd.Categorical(regions["type"].iloc[region_rows], categories=matched_types).codes
    shape = (adata.n_vars, len(matched_types))
    matrix = sparse.csr_matrix((np.ones(len(codes), np.float32), (peak_rows, codes)), shape)
    matrix.data[:] = 1
    return matched_types, matrix


def _regions(
    config: AnnotateConfig,
    markers: pd.DataFrame,
    genes: pd.DataFrame | None,
    peaks: pd.DataFrame,
) -> pd.DataFrame:
    """Return the regions of all markers: ``chrom``, ``start``, ``end``, ``type``."""
    values = markers["marker"].astype(str)
    regions = parse_names(list(values))
    regions["type"] = markers["type"].astype(str).to_numpy()
    tables = [regions[regions["chrom"].notna()]]
    if genes is not None:
        check_build(peaks, genes["chrom"].to_numpy(), genes["tss"].to_numpy())
        starts = genes.rename(columns={"gene_name": "marker"})[["marker", "chrom", "tss"]]
        queries = pd.DataFrame({"marker": values.to_numpy(), "type": regions["type"]})
        near = queries[regions["chrom"].isna().to_numpy()].merge(starts, on="marker")
        near["start"] = (near["tss"] - config.max_distance).clip(lower=0)
        near["end"] = near["tss"] + config.max_distance + 1
        tables.append(near[["chrom", "start", "end", "type"]])
        unknown = sorted(set(_gene_names(markers)) - set(near["marker"]))
        if unknown:
            warn(f"{len(unknown):,} marker genes are not in the GTF: {first_names(unknown, 5)}")
    return pd.concat(tables, ignore_index=True)
