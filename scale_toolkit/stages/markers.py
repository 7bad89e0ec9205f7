"""``markers``: the peaks that are open more often in a cluster, their genes and their motifs."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import false_discovery_control

from scale_toolkit import keys
from scale_toolkit.config import MarkersConfig
from scale_toolkit.core import differential
from scale_toolkit.core.specificity import outlying_loadings, specificity_of_counts
from scale_toolkit.errors import InputError, NothingLeftError, OptionError, ScaleWarning, warn
from scale_toolkit.stages.contrast import contrast, contrast_columns, read_conditions
from scale_toolkit.stages.counts import open_peaks, over_all
from scale_toolkit.stages.labels import clusters_of
from scale_toolkit.stages.marker_tables import marker_table, motif_table, nearest_genes
from scale_toolkit.stages.stage import Result, stage
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from scale_toolkit.stages.stage import Progress

log = logging.getLogger("scale_toolkit")


def _reads(config: MarkersConfig) -> tuple[keys.Slot, ...]:
    clusters = keys.parse(f"obs/{config.cluster_by}")
    if config.contrast:
        return (keys.X, keys.VAR_NAMES, clusters, *contrast_columns(config))
    return (keys.X, keys.VAR_NAMES, clusters, keys.DECODER, keys.BIAS)


def check(adata: AnnData, config: MarkersConfig, **inputs: Any) -> None:
    """Raise for a column that is missing or does not hold clusters, and for unequal inputs.

    The column that `cluster` writes may still be missing.
    """
    if config.cluster_by in adata.obs or config.cluster_by != keys.CLUSTER.name:
        clusters_of(adata, config.cluster_by, "cluster_by")
    if config.contrast:
        if inputs.get("motifs") is not None:
            raise OptionError("contrast and motifs are given", "one of the two", "drop `motifs`")
        with warnings.catch_warnings():
            # given again by the work
            warnings.simplefilter("ignore", ScaleWarning)
            read_conditions(adata, config)
    sequences = inputs.get("sequences")
    if sequences is None or inputs.get("motifs") is None:
        return
    if len(sequences) != adata.n_vars:
        raise InputError(
            f"{len(sequences):,} sequences and {adata.n_vars:,} peaks",
            "one sequence for each peak, empty if unknown",
        )


@stage(
    "markers",
    MarkersConfig,
    reads=_reads,
    writes=(
        keys.MARKERS,
        keys.MARKER_SCORE,
        keys.MARKER_FDR,
        keys.SPECIFICITY,
        keys.WEIGHT_PEAKS,
        keys.NEAREST_GENE,
        keys.TSS_DISTANCE,
        keys.MOTIFS,
        keys.CONTRAST,
        keys.CONTRAST_CLUSTERS,
        keys.CONTRAST_SCORE,
        keys.CONTRAST_FDR,
        keys.CONTRAST_LOG_ODDS,
    ),
    check=check,
    loads=("numba",),
)
def markers(
    adata: AnnData,
    config: MarkersConfig,
    *,
    progress: Progress | None = None,
    genes: pd.DataFrame | None = None,
    sequences: Sequence[str] | None = None,
    motifs: Mapping[str, np.ndarray] | None = None,
) -> Result:
    """Find the peaks that are open in more cells of a cluster than in other cells of the same
    depth.

    Each cluster is compared with all other cells on the binarised counts (`core.differential`: a
    logistic model with log depth as covariate, score test with saddlepoint tails; or scanpy's
    Wilcoxon test, without depth); p-values are corrected over the tested peaks of a cluster
    (Benjamini & Hochberg 1995). A marker has a corrected p of at most `max_fdr`, an odds ratio of
    at least `min_odds_ratio`, and is open in at least `min_share` of the cluster's cells.

    With `contrast` two conditions are compared within each cluster instead, samples with samples if
    `sample_key` names two or more of 10 cells on either side (`core.contrasts`: quasi-binomial
    regression with a variance between samples), else cells with cells; a difference has the same
    limits, in either direction.

    Parameters
    ----------
    adata
        X: cells × peaks, counts or binary; ``obs[cluster_by]``: their clusters.
    config
        See `MarkersConfig`.
    progress
        Called with a message, the peaks tested and the peaks in all.
    genes
        Starts of genes: ``chrom``, ``tss`` (0-based), ``strand``, ``gene_id``, ``gene_name``
        (`io.genes.read_gtf`).
    sequences, motifs
        Both or neither: the sequence of each peak (`io.genome.read_sequences`), empty if it is
        unknown, and probabilities of A, C, G, T (length × 4) by motif (`io.motifs.read_motifs`).

    Returns
    -------
    `adata`, with

    ``uns['scale_markers']`` (DataFrame, a row a marker, cluster by cluster, the smallest p first)
        ``cluster`` (category, all clusters), ``peak``, ``score`` (z), ``p_value``, ``fdr``,
        ``odds_ratio`` (at equal depth), ``log2_fold_change`` (of the fractions of open cells, half
        a cell added to open and to closed ones), ``share_in``, ``share_out`` (fraction of open
        cells in the cluster, in the rest), ``specificity`` (SCALE's).
    ``varm['scale_marker_score']``, ``varm['scale_marker_fdr']``, ``varm['scale_specificity']``
        The same of every peak (peaks × clusters), columns in the order of the clusters; NaN for a
        peak that was not tested, or is not open in any cell.
    ``varm['scale_weight_peaks']`` (peaks × latent, int8)
        If the file holds a decoder: 1 or −1 for a loading more than `weight_cutoff` standard
        deviations above or below the mean of its latent dimension
        (`core.specificity.outlying_loadings`), else 0.
    ``var['nearest_gene']``, ``var['tss_distance']``
        With `genes`: the gene whose start is nearest to each peak, empty if its chromosome has
        none, and the bases between, below 0 if the peak is upstream of the gene; the table of
        markers has them too.
    ``uns['scale_motifs']`` (DataFrame, a row a cluster and motif, the smallest p first)
        With `motifs`, of every cluster with markers (`core.motifs`): ``cluster``, ``motif``,
        ``odds_ratio``, ``p_value``, ``fdr``, ``share_markers``, ``share_background`` (of peaks with
        the motif), ``n_markers``, ``n_background``, ``gc_markers``, ``gc_background`` (mean GC
        content).
    ``uns['scale_contrast']`` (DataFrame, a row a difference, cluster by cluster, smallest p first)
        With `contrast`, and then nothing above but the genes: ``cluster``, ``peak``, ``higher_in``
        (condition), ``unit`` (``samples`` or ``cells``), ``score`` (t or z; above 0: the first
        condition), ``p_value``, ``fdr``, ``odds_ratio`` (first over second, at equal depth),
        ``log2_fold_change``, ``share_first``, ``share_second``.
    ``uns['scale_contrast_clusters']`` (DataFrame, a row a cluster)
        ``cluster``, ``first``, ``second`` (conditions), ``unit``, cells and samples of both,
        ``n_tested``, ``higher_in_first``, ``higher_in_second`` (peaks), ``sample_sd``,
        ``prior_df``.
    ``varm['scale_contrast_score']``, ``varm['scale_contrast_fdr']``,
    ``varm['scale_contrast_log2_odds']``
        The same of every peak (peaks × clusters); NaN for a peak that was not tested.

    Raises
    ------
    MissingSlotError
        The column of clusters, of `contrast` or of `sample_key` is missing.
    InputError
        The column does not hold clusters, or a single one; X holds values that are negative or not
        finite; with `genes` peak names that are not intervals, or no chromosome that peaks and
        genes share; with `contrast` a value that does not occur, samples of both conditions or no
        sample, or no cluster with cells of both.
    NothingLeftError
        No peak is open in `min_cells` cells.

    Warns
    -----
    ScaleWarning
        A cluster without markers; peaks on chromosomes without a gene; with `contrast` clusters in
        which cells are compared or nothing is, cells without a sample, conditions that share no
        batch.
    """
    if config.contrast:
        return contrast(adata, config, progress=progress, genes=genes)
    labels = clusters_of(adata, config.cluster_by, "cluster_by")
    is_open = open_peaks(adata)
    used_cells = np.flatnonzero(labels.notna().to_numpy() & (np.diff(is_open.indptr) > 0))
    labels = labels.iloc[used_cells].cat.remove_unused_categories()
    names = [str(name) for name in labels.cat.categories]
    if len(names) < 2:
        raise InputError(
            f"obs[{config.cluster_by!r}] has {len(names)} cluster in {len(used_cells):,} cells "
            "with open peaks",
            "two or more to compare",
            "cluster into more with `scale cluster`, or name another column with `cluster_by`",
        )
    nearest = None if genes is None else nearest_genes(adata.var_names, genes)
    if len(used_cells) < adata.n_obs:
        is_open = is_open[used_cells]
    codes = labels.cat.codes.to_numpy(np.int64)
    cluster_sizes = np.bincount(codes, minlength=len(names)).astype(np.float64)
    if config.method == "wilcoxon" and cluster_sizes.min() < 2:
        raise InputError(
            f"cluster {names[int(cluster_sizes.argmin())]!r} has one cell",
            "two or more for method wilcoxon",
            "use `method=logistic`",
        )
    bins = differential.depth_bins(np.diff(is_open.indptr))
    counts = differential.count(is_open, codes, len(names), bins)
    tested = np.flatnonzero(counts.open_cells.sum(axis=1) >= config.min_cells)
    if len(tested) == 0:
        raise NothingLeftError(
            f"none of {adata.n_vars:,} peaks is open in {config.min_cells} cells",
            "at least one",
            "lower `min_cells`",
        )

    def report(n_done: int) -> None:
        if progress is not None:
            progress("testing peaks", n_done, len(tested))

    tested_counts = differential.Counts(counts.open_cells[tested], counts.weighted[tested])
    difference = differential.compare(
        tested_counts, codes, bins, n_threads=config.n_threads, progress=report
    )
    if config.method == "wilcoxon":
        difference = _wilcoxon(is_open[:, tested], codes, difference)

    fdr = np.column_stack([false_discovery_control(pvals) for pvals in difference.p_value.T])
    specificity = specificity_of_counts(counts.open_cells, cluster_sizes)
    figures = {
        "score": difference.score,
        "p_value": difference.p_value,
        "odds_ratio": difference.odds_ratio,
        "fdr": fdr,
        "specificity": specificity[tested],
        **_open_fractions(counts.open_cells[tested], cluster_sizes),
    }
    table, rows = marker_table(adata.var_names[tested], names, figures, config)
    marker_positions = tested[rows]

    n_peaks = adata.n_vars
    slots: dict[keys.Slot, Any] = {
        keys.MARKERS: table,
        keys.MARKER_SCORE: over_all(difference.score.astype(np.float32), tested, n_peaks, np.nan),
        # float64: the smallest float32 is 10⁻³⁸
        keys.MARKER_FDR: over_all(fdr, tested, n_peaks, np.nan),
        keys.SPECIFICITY: specificity.astype(np.float32),
        **_weight_peaks(adata, config),
    }
    if nearest is not None:
        for slot in (keys.NEAREST_GENE, keys.TSS_DISTANCE):
            slots[slot] = nearest[slot.name].to_numpy()
        for name in nearest:
            table[name] = nearest[name].to_numpy()[marker_positions]
    if sequences is not None and motifs is not None:
        frequency = counts.open_cells.sum(axis=1) / len(used_cells)
        slots[keys.MOTIFS] = motif_table(
            table, marker_positions, tested, frequency, sequences, motifs, config, progress
        )
    n_markers = table["cluster"].value_counts(sort=False)
    facts: dict[str, Any] = {
        "n_cells": len(used_cells),
        "n_tested": len(tested),
        "clusters": {
            name: {"cells": int(size), "markers": int(n_markers[name])}
            for name, size in zip(names, cluster_sizes, strict=True)
        },
    }
    optional_inputs = {"genes": genes, "sequences": sequences, "motifs": motifs}
    if inputs := [name for name, value in optional_inputs.items() if value is not None]:
        facts["with"] = inputs
    _report_markers(n_markers, config)
    # an older decoder's peaks and older motifs are not those of these markers
    return Result(slots, drops=(keys.WEIGHT_PEAKS, keys.MOTIFS), facts=facts)


def _wilcoxon(
    is_open: sparse.csr_matrix, codes: np.ndarray, difference: differential.Difference
) -> differential.Difference:
    """Return score and p-value by scanpy's Wilcoxon test; the odds ratio stays."""
    import anndata
    import scanpy as sc

    n_clusters = difference.score.shape[1]
    # 0.5 for an open peak: the ranks are the same, and scanpy takes integers for raw counts
    cells = anndata.AnnData(
        is_open.astype(np.float32) * np.float32(0.5),
        obs=pd.DataFrame(index=[str(cell) for cell in range(len(codes))]),
    )
    cells.obs["group"] = pd.Categorical.from_codes(codes, [str(k) for k in range(n_clusters)])
    with warnings.catch_warnings():
        # scanpy warns about fold changes, which are not used
        warnings.simplefilter("ignore")
        sc.tl.rank_genes_groups(cells, "group", method="wilcoxon", tie_correct=True)
    ranked = cells.uns["rank_genes_groups"]
    score, pvals = np.zeros((2, *difference.score.shape))
    for k in range(n_clusters):
        peaks = ranked["names"][str(k)].astype(np.int64)
        score[peaks, k], pvals[peaks, k] = ranked["scores"][str(k)], ranked["pvals"][str(k)]
    # nothing to rank
    open_in_all = np.isnan(pvals)
    score[open_in_all], pvals[open_in_all] = 0.0, 1.0
    return differential.Difference(score, pvals, difference.odds_ratio)


def _open_fractions(open_cells: np.ndarray, cluster_sizes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the fraction of open cells in each cluster and in the rest, and log2 of their ratio.

    All are peaks × clusters.
    """
    open_outside = open_cells.sum(axis=1, keepdims=True) - open_cells
    n_outside = cluster_sizes.sum() - cluster_sizes
    # half an open cell in one more: finite also for peaks open in none
    inside = np.log2((open_cells + 0.5) / (cluster_sizes + 1))
    outside = np.log2((open_outside + 0.5) / (n_outside + 1))
    return {
        "log2_fold_change": inside - outside,
        "share_in": open_cells / cluster_sizes,
        "share_out": open_outside / n_outside,
    }


def _weight_peaks(adata: AnnData, config: MarkersConfig) -> dict[keys.Slot, Any]:
    """Return the peaks whose decoder loading is far from the mean, for each latent dimension."""
    if not (keys.DECODER.found_in(adata) and keys.BIAS.found_in(adata)):
        log.info(
            "%s is missing: no peaks are selected by decoder weights (`scale train` writes it)",
            keys.DECODER,
        )
        return {}
    modelled = np.flatnonzero(~np.isnan(keys.BIAS.get(adata).to_numpy(np.float64)))
    loadings = np.asarray(keys.DECODER.get(adata))[modelled]
    outlying = outlying_loadings(loadings, config.weight_cutoff).astype(np.int8)
    return {keys.WEIGHT_PEAKS: over_all(outlying, modelled, adata.n_vars, 0)}


def _report_markers(n_markers: pd.Series, config: MarkersConfig) -> None:
    """Log the number of markers, and warn of clusters without any."""
    limits = f"FDR at most {config.max_fdr:g}, odds ratio at least {config.min_odds_ratio:g}"
    unmarked = [str(name) for name in n_markers.index[n_markers == 0]]
    if len(unmarked) == len(n_markers):
        warn(
            f"0 marker peaks in {len(n_markers)} clusters ({limits}): no peak separates one from "
            "the rest; look at the clusters, or loosen `max_fdr` or `min_odds_ratio`"
        )
        return
    if unmarked:
        warn(
            f"{len(unmarked)} of {len(n_markers)} clusters have 0 marker peaks ({limits}): "
            f"{first_names(unmarked)}"
        )
    log.info("%d marker peaks in %d clusters (%s)", n_markers.sum(), len(n_markers), limits)
