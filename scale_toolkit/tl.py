"""Training and what follows it, in scanpy's manner.

``scale.tl.train(adata)`` writes into `adata` and returns None; with ``copy=True`` it returns a new
AnnData.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from scale_toolkit._in_place import run, with_options
from scale_toolkit._tl_map import map as map
from scale_toolkit.config import (
    AnnotateConfig,
    ChooseKConfig,
    ClusterConfig,
    DoubletsConfig,
    EmbedConfig,
    ImputeConfig,
    MarkersConfig,
    TrainConfig,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from anndata import AnnData

    Progress = Callable[[str, int, int], None]

__all__ = [
    "annotate",
    "choose_k",
    "cluster",
    "doublets",
    "embed",
    "encode",
    "impute",
    "map",
    "markers",
    "train",
]


@with_options(TrainConfig)
def train(
    adata: AnnData,
    *,
    copy: bool = False,
    progress: Progress | None = None,
    keep_model: Callable[[bytes], None] | None = None,
    **options: Any,
) -> AnnData | None:
    """Train SCALE on the open peaks of `adata` (Xiong et al. 2019, Nat Commun 10:4576).

    Parameters
    ----------
    adata
        Counts, cells × peaks; if ``var['selected']`` marks peaks, the model sees only those.
    copy
        Leave `adata` as it is and return a new one.
    progress
        Called after each epoch with a message, the epochs done and the epochs at most.
    keep_model
        Receives the bytes of the model file, which `encode` reads.
    **options
        ``n_components``, ``latent``, ``max_epochs``, ``seed``, …: see `scale_toolkit.train`.

    Returns
    -------
    None, or with `copy` the new AnnData. Written: ``obsm['X_scale']`` and ``obsm['latent']`` (cells
    × latent, float32), ``obsm['scale_posterior']`` (cells × components, float32),
    ``obs['scale_component']``, ``varm['scale_decoder']``, ``var['scale_bias']``,
    ``obs['scale_offset']``, ``obs['scale_open_rate']``, ``var['scale_open_rate']``,
    ``uns['scale_mixture']``, ``uns['scale_history']``, a receipt in ``uns['scale']``.

    Raises
    ------
    InputError
        ``X`` holds no counts, or fewer than two cells.
    DeviceError
        The requested device is not available.
    TrainingError
        The loss was not a number in the first epoch.
    """
    return run("train", adata, copy=copy, progress=progress, keep_model=keep_model, **options)


@with_options(TrainConfig)
def encode(
    adata: AnnData,
    *,
    model: bytes,
    peaks: Sequence[str] | Callable[[], Sequence[str] | None] | None = None,
    copy: bool = False,
    **options: Any,
) -> AnnData | None:
    """Encode cells with a trained model; peaks are matched by name.

    Parameters
    ----------
    adata
        Counts, cells × peaks.
    model
        Bytes of the file that `train` kept, or of a ``model.pt`` of SCALE 1.1.2.
    peaks
        The names of the peaks of a model of SCALE 1.1.2, in its order.
    copy
        Leave `adata` as it is and return a new one.
    **options
        ``device``, ``n_threads`` and ``seed`` matter here.

    Returns
    -------
    None, or with `copy` the new AnnData. Written: the slots of `train`, but
    ``uns['scale_history']``.

    Raises
    ------
    InputError
        The bytes are not a model, or model and cells share no peak.
    """
    return run("encode", adata, copy=copy, model=model, peaks=peaks, **options)


@with_options(ChooseKConfig)
def choose_k(
    adata: AnnData, *, copy: bool = False, progress: Progress | None = None, **options: Any
) -> AnnData | None:
    """Show how many clusters the cells have, by three readings, with a recommendation.

    Parameters
    ----------
    adata
        Trained cells.
    copy
        Leave `adata` as it is and return a new one.
    progress
        Called after each subsample and each mixture.
    **options
        ``max_k``, ``stability``, ``max_cells``, …: see `scale_toolkit.choose_k`.

    Returns
    -------
    None, or with `copy` the new AnnData. Written: ``uns['scale_choose_k']``, drawn by
    `scale_toolkit.pl.choose_k`; a receipt in ``uns['scale']``.

    Raises
    ------
    MissingSlotError
        The cells are not trained.
    """
    return run("choose_k", adata, copy=copy, progress=progress, **options)


@with_options(ClusterConfig)
def cluster(
    adata: AnnData, *, copy: bool = False, progress: Progress | None = None, **options: Any
) -> AnnData | None:
    """Cluster the cells in the latent space: Leiden, k-means, or the model's own mixture.

    Parameters
    ----------
    adata
        Trained cells.
    copy
        Leave `adata` as it is and return a new one.
    progress
        Called after each step of the search.
    **options
        ``n_clusters``, ``method``, ``resolution``, ``reference``, …: see `scale_toolkit.cluster`.

    Returns
    -------
    None, or with `copy` the new AnnData. Written: ``obs['leiden' | 'kmeans' | 'gmm']``,
    ``obs['scale_cluster']`` (category, "0" the largest); by Leiden ``uns['neighbors']``,
    ``obsp['distances']``, ``obsp['connectivities']``; with ``reference``
    ``uns['scale_cluster_report']``; a receipt in ``uns['scale']``.

    Raises
    ------
    MissingSlotError
        The cells are not trained.
    InputError
        More clusters asked than there are distinct cells, or no usable reference.
    """
    return run("cluster", adata, copy=copy, progress=progress, **options)


@with_options(DoubletsConfig)
def doublets(
    adata: AnnData,
    *,
    copy: bool = False,
    progress: Progress | None = None,
    fragments: str | Path | Sequence[str | Path] = (),
    **options: Any,
) -> AnnData | None:
    """Score how much each cell looks like the union of two unlike cells; call or drop those.

    Parameters
    ----------
    adata
        Trained cells with their counts.
    copy
        Leave `adata` as it is and return a new one.
    progress
        Called after each group of cells, and each block of fragments.
    fragments
        A sorted fragments file, or one for each batch in the order of ``obs['batch']``'s
        categories: cells with more than two fragments at many sites are called too.
    **options
        ``rate``, ``remove``, …: see `scale_toolkit.doublets`.

    Returns
    -------
    None, or with `copy` the new AnnData. Written: ``obs['doublet_score']`` (float64, 0 to 1),
    ``obs['predicted_doublet']`` (bool), ``uns['scale_doublets']``, drawn by
    `scale_toolkit.pl.doublets`; a receipt in ``uns['scale']``. With `fragments` also
    ``obs['doublet_sites']`` and ``obs['doublet_sites_pval_adj']``. With ``remove`` the called
    cells are dropped.

    Raises
    ------
    MissingSlotError
        The cells are not trained.
    InputError
        Too few cells, or ``remove`` without ``rate`` on cells that the scores do not separate;
        fragments that are not sorted, or not of these cells.
    """
    from scale_toolkit.io.fragments import read_blocks

    paths = [fragments] if isinstance(fragments, (str, os.PathLike)) else fragments
    blocks = [read_blocks(path) for path in paths]
    return run("doublets", adata, copy=copy, progress=progress, fragments=blocks, **options)


@with_options(EmbedConfig)
def embed(
    adata: AnnData, *, copy: bool = False, progress: Progress | None = None, **options: Any
) -> AnnData | None:
    """Draw the latent space in two dimensions: UMAP or tSNE coordinates for every cell.

    Parameters
    ----------
    adata
        Trained cells.
    copy
        Leave `adata` as it is and return a new one.
    progress
        Called as the work goes on.
    **options
        ``method``, ``n_neighbors``, ``min_dist``, ``perplexity``, …: see `scale_toolkit.embed`.

    Returns
    -------
    None, or with `copy` the new AnnData. Written: ``obsm['X_umap']`` or ``obsm['X_tsne']`` (cells ×
    2, float32), UMAP's neighbour graph, a receipt in ``uns['scale']``.

    Raises
    ------
    MissingSlotError
        The cells are not trained.
    """
    return run("embed", adata, copy=copy, progress=progress, **options)


@with_options(ImputeConfig)
def impute(
    adata: AnnData,
    *,
    copy: bool = False,
    progress: Progress | None = None,
    peaks: str | Sequence[str] | None = None,
    cells: str | Sequence[str] | None = None,
    model: bytes | None = None,
    **options: Any,
) -> AnnData | None:
    """Write the probability that each peak is open in each cell, or its binary form; or prove it
    (``validate=True``).

    `scale_toolkit.imputed` gives the same values without writing them.

    Parameters
    ----------
    adata
        Trained cells.
    copy
        Leave `adata` as it is and return a new one.
    progress
        Called as the work goes on.
    peaks, cells
        Only these peaks (names, intervals, chromosomes) and cells (a condition on obs, or
        barcodes). With `cells` the others are gone from the result.
    model
        With ``validate``: encode with this model instead of training again.
    **options
        ``numeric``, ``depth``, ``binary``, ``to``, ``per_group``, ``validate``, …: see
        `scale_toolkit.impute`.

    Returns
    -------
    None, or with `copy` the new AnnData. Written: ``obsm['imputed']`` (cells × peaks, float32, in
    [0, 1]), ``obsm['binary']`` (CSR uint8), ``uns['scale_imputed_peaks']``, or what the options ask
    for; a receipt in ``uns['scale']``.

    Raises
    ------
    MissingSlotError
        The cells are not trained.
    InputError
        A peak, a barcode or a column asked for is not here.
    NothingLeftError
        None of the peaks or cells is left.
    """
    return run(
        "impute",
        adata,
        copy=copy,
        progress=progress,
        peaks=peaks,
        cells=cells,
        model=model,
        **options,
    )


@with_options(MarkersConfig)
def markers(
    adata: AnnData,
    *,
    copy: bool = False,
    progress: Progress | None = None,
    genes: pd.DataFrame | None = None,
    sequences: Sequence[str] | None = None,
    motifs: Mapping[str, np.ndarray[Any, Any]] | None = None,
    **options: Any,
) -> AnnData | None:
    """Find the peaks that are open in more cells of a cluster than in other cells of the same
    depth.

    `scale_toolkit.get.markers` reads the table, `scale_toolkit.get.top_markers` the best of each
    cluster.

    Parameters
    ----------
    adata
        Counts or binary, cells × peaks, with clusters in obs.
    copy
        Leave `adata` as it is and return a new one.
    progress
        Called as peaks are tested.
    genes
        Starts of genes (``chrom``, ``tss``, ``strand``, ``gene_id``, ``gene_name``).
    sequences, motifs
        Sequence of each peak, and motifs by name: both or neither.
    **options
        ``cluster_by``, ``method``, ``max_fdr``, …: see `scale_toolkit.markers`. With
        ``contrast=("condition", "a", "b")`` or ``"condition:a:b"``, and ``sample_key``, two
        conditions are compared within each cluster.

    Returns
    -------
    None, or with `copy` the new AnnData. Written: ``uns['scale_markers']`` (DataFrame),
    ``varm['scale_marker_score']``, ``varm['scale_specificity']`` (peaks × clusters, float32),
    ``varm['scale_marker_fdr']`` (float64), ``varm['scale_weight_peaks']`` (peaks × latent, int8),
    with `genes` ``var['nearest_gene']`` and ``var['tss_distance']``, with `motifs`
    ``uns['scale_motifs']``, a receipt in ``uns['scale']``. With ``contrast``
    ``uns['scale_contrast']``, ``uns['scale_contrast_clusters']`` (DataFrames),
    ``varm['scale_contrast_score']``, ``varm['scale_contrast_log2_odds']`` (float32) and
    ``varm['scale_contrast_fdr']`` (float64) instead.

    Raises
    ------
    MissingSlotError
        The column of clusters is missing.
    InputError
        The column does not hold two clusters or more.
    NothingLeftError
        No peak is open in ``min_cells`` cells.
    """
    return run(
        "markers",
        adata,
        copy=copy,
        progress=progress,
        genes=genes,
        sequences=sequences,
        motifs=motifs,
        **options,
    )


@with_options(AnnotateConfig)
def annotate(
    adata: AnnData,
    *,
    markers: pd.DataFrame,
    genes: pd.DataFrame | None = None,
    copy: bool = False,
    **options: Any,
) -> AnnData | None:
    """Name clusters by the marker genes or regions of known cell types.

    Parameters
    ----------
    adata
        Counts or open peaks, cells × peaks, with clusters in obs.
    markers
        ``type`` and ``marker``: the name of a gene, or a region such as ``chr1:100-200``.
    genes
        Starts of genes (``chrom``, ``tss``, ``gene_name``), needed if a marker is a gene.
    copy
        Leave `adata` as it is and return a new one.
    **options
        ``cluster_by``, ``min_margin``, …: see `scale_toolkit.annotate`.

    Returns
    -------
    None, or with `copy` the new AnnData. Written: ``obs['scale_type']`` (category),
    ``uns['scale_annotation']`` (DataFrame, a row a cluster), a receipt in ``uns['scale']``.

    Raises
    ------
    MissingSlotError
        The column of clusters is missing.
    InputError
        Genes without `genes`, or no marker that overlaps a peak.
    """
    return run("annotate", adata, copy=copy, markers=markers, genes=genes, **options)
