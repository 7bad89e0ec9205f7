"""``genes``: the activity of genes in each cell, from the decoder and from the open peaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.core.gene_activity import GeneRows, gene_weights
from scale_toolkit.core.genome_builds import check_build
from scale_toolkit.core.intervals import check_chromosomes, require_intervals
from scale_toolkit.errors import InputError
from scale_toolkit.genes_config import GenesConfig
from scale_toolkit.stages.counts import open_peaks
from scale_toolkit.stages.decoder import modelled_positions, read_decoder
from scale_toolkit.stages.stage import Result, stage

if TYPE_CHECKING:
    from scale_toolkit.stages.stage import Progress

_COLUMNS = ("chrom", "start", "end", "strand", "gene_id", "gene_name")
#: What the genes keep of the cells, so that scanpy draws and groups them.
_CARRIED = (keys.LATENT, keys.UMAP, keys.TSNE, keys.POSTERIOR, keys.RECEIPTS, keys.RUNTIME)


def check(adata: AnnData, config: GenesConfig, *, genes: pd.DataFrame) -> None:
    """Raise `InputError` for a table without the columns of genes, or peaks without intervals."""
    missing = [name for name in _COLUMNS if name not in genes]
    if missing or not len(genes):
        raise InputError(
            f"the table of genes has {len(genes)} rows, and lacks {', '.join(missing) or 'none'}",
            f"a row a gene, and the columns {', '.join(_COLUMNS)}",
        )
    peaks = require_intervals(adata.var_names, "`genes`")
    check_chromosomes(peaks["chrom"], genes["chrom"], "the GTF")


def _reads(config: GenesConfig) -> tuple[keys.Slot, ...]:
    return (keys.X, keys.VAR_NAMES, keys.LATENT, keys.DECODER, keys.BIAS, keys.OFFSET)


@stage(
    "genes",
    GenesConfig,
    reads=_reads,
    requires=(keys.X, keys.LATENT, keys.DECODER, keys.BIAS, keys.OFFSET),
    writes=(keys.X, keys.GENE_COUNTS, keys.GENE_PEAKS),
    check=check,
    makes_new=True,
)
def genes(
    adata: AnnData,
    config: GenesConfig,
    *,
    progress: Progress | None = None,
    genes: pd.DataFrame,
) -> Result:
    """Compute the activity of genes in each cell, as a new AnnData of cells × genes.

    Parameters
    ----------
    adata
        The output of `train`, with counts; names of peaks are intervals.
    config
        The options.
    progress
        Not called: the matrix is computed when it is written.
    genes
        ``chrom``, ``start``, ``end`` (0-based, half-open), ``strand``, ``gene_id``, ``gene_name``
        (`io.genes.read_gene_bodies`).

    Returns
    -------
    A new AnnData with the genes that have a peak within reach, and

    ``X`` (cells × genes, float32)
        Weighted sum of the decoder's probabilities at equal depth: comparable between cells, and
        as dense as imputed values.
    ``layers['counts']`` (cells × genes, CSR float32)
        Weighted sum of the open peaks, as observed: sparse, and proportional to depth.
    ``var['n_peaks']`` (int64)
        Peaks that count for the gene; besides ``chrom``, ``start``, ``end``, ``strand``,
        ``gene_id``.

    ``obs``, the latent space and the embeddings are those of `adata`. Genes are named by
    ``gene_name``, or by ``name (id)`` if several have that name.

    Raises
    ------
    MissingSlotError
        The AnnData does not come from `train`.
    InputError
        Peak names that are not intervals, no chromosome that peaks and genes share, or no peak
        within reach of a gene.
    """
    peaks = require_intervals(adata.var_names, "`genes`")
    is_forward = (genes["strand"] == "+").to_numpy()
    tss = np.where(is_forward, genes["start"].to_numpy(), genes["end"].to_numpy() - 1)
    check_build(peaks, genes["chrom"].to_numpy(), tss)
    weights = gene_weights(peaks, genes, config.upstream, config.decay, config.max_distance)
    n_peaks = np.bincount(weights.indices, minlength=weights.shape[1])
    chosen = np.flatnonzero(n_peaks)
    if not len(chosen):
        raise InputError(
            f"no peak is within {config.max_distance:,} bases of one of {len(genes):,} genes",
            "peaks and genes of the same genome build",
        )
    weights = weights[:, chosen]
    modelled = modelled_positions(adata)
    decoder = read_decoder(adata, modelled)
    activity = GeneRows(decoder, weights[modelled], n_threads=config.n_threads)
    opened = sparse.csr_matrix(open_peaks(adata), dtype=np.float32)
    table = genes.iloc[chosen]
    var = table[[name for name in _COLUMNS if name != "gene_name"]].copy()
    var.index = _unique_names(table)
    target = AnnData(obs=adata.obs.copy(), var=var, shape=(adata.n_obs, len(chosen)))
    for slot in _CARRIED:
        if slot.found_in(adata):
            slot.set(target, slot.get(adata))
    slots = {
        keys.GENE_COUNTS: sparse.csr_matrix(opened @ weights),
        keys.GENE_PEAKS: n_peaks[chosen],
    }
    facts = {"n_genes": len(chosen), "n_genes_read": len(genes)}
    return Result(slots, blocks={keys.X: activity}, target=target, facts=facts)


#: The same without holding X, which is computed while its blocks are read.
streamed = genes.streamed


def _unique_names(table: pd.DataFrame) -> pd.Index:
    """Return the names of genes, with the id if several have the name."""
    names, ids = table["gene_name"].astype(str), table["gene_id"].astype(str)
    repeated = names.duplicated(keep=False)
    unique = pd.Index(names.where(~repeated, names + " (" + ids + ")"), dtype=object)
    # one id on two chromosomes, as in the pseudoautosomal regions of Ensembl
    chroms = table["chrom"].astype(str).to_numpy()
    again = unique.duplicated(keep=False)
    named = [
        f"{name} {chrom}" if twice else name
        for name, chrom, twice in zip(unique, chroms, again, strict=True)
    ]
    return pd.Index(named, dtype=object)
