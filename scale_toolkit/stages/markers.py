"""``markers``: the peaks that are open more often in a cluster than elsewhere, their genes and their motifs."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import false_discovery_control

from scale_toolkit import get, keys
from scale_toolkit.config import MarkersConfig
from scale_toolkit.core import differential
from scale_toolkit.core.intervals import check_chromosomes, nearest_starts, require_intervals
from scale_toolkit.core.specificity import outlying_loadings, specificity_of_counts
from scale_toolkit.errors import InputError, MissingSlotError, NothingLeftError, ScaleWarning
from scale_toolkit.stages._stage import note, stage
from scale_toolkit.stages.counts import open_peaks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from scale_toolkit.stages._stage import Progress

log = logging.getLogger("scale_toolkit")

#: A column with more distinct values than this holds no clusters.
MOST_CLUSTERS = 1_000
_SHOWN = 5  # names a message lists
_MOTIF_COLUMNS = (
    "cluster", "motif", "odds_ratio", "p_value", "fdr", "share_markers", "share_background", "n_markers", "n_background",
    "gc_markers", "gc_background",
)  # fmt: skip


def _reads(config: MarkersConfig) -> tuple[keys.Slot, ...]:
    return (keys.X, keys.VAR_NAMES, keys.column("obs", config.cluster_by), keys.DECODER, keys.BIAS)


@stage("markers", MarkersConfig, reads=_reads, loads=("numba",))
def markers(
    adata: AnnData,
    config: MarkersConfig,
    *,
    progress: Progress | None = None,
    genes: pd.DataFrame | None = None,
    sequences: Sequence[str] | None = None,
    motifs: Mapping[str, np.ndarray] | None = None,
) -> AnnData:
    """Find the marker peaks of every cluster: peaks that are open in more of its cells than in the others of the same depth.

    Each cluster is compared with all other cells on the binarised counts (`core.differential`: a logistic model with log
    depth as covariate, score test with saddlepoint tails; or scanpy's Wilcoxon test, without depth); p-values are corrected
    over the tested peaks of a cluster (Benjamini & Hochberg 1995). A marker has a corrected p of at most `max_fdr`, an odds
    ratio of at least `min_odds_ratio`, and is open in at least `min_share` of the cluster's cells.

    Parameters
    ----------
    adata
        X: cells × peaks, counts or binary; ``obs[cluster_by]``: their clusters. Changed in place (a view is copied first).
    config
        See `MarkersConfig`.
    progress
        Called with a message, the peaks tested and the peaks in all.
    genes
        Where genes begin: ``chrom``, ``tss`` (0-based), ``strand``, ``gene_id``, ``gene_name`` (`io.genes.read_gtf`).
    sequences, motifs
        Both or neither: the sequence of each peak (`io.genome.read_sequences`), empty where it is not known, and probabilities
        of A, C, G, T (length × 4) by motif (`io.motifs.read_motifs`).

    Returns
    -------
    `adata`, with

    ``uns['scale_markers']`` (DataFrame, a row a marker, cluster by cluster, the smallest p first)
        ``cluster`` (category, all clusters), ``peak``, ``score`` (z), ``p_value``, ``fdr``, ``odds_ratio`` (at equal depth),
        ``log2_fold_change`` (of the shares of open cells, half a cell added to open and to closed ones), ``share_in``,
        ``share_out`` (share of open cells in the cluster, in the rest), ``specificity`` (SCALE's).
    ``varm['scale_marker_score']``, ``varm['scale_marker_fdr']``, ``varm['scale_specificity']`` (peaks × clusters)
        The same of every peak, columns in the order of the clusters; NaN for a peak that was not tested, or is open nowhere.
    ``varm['scale_weight_peaks']`` (peaks × latent, int8)
        Where the file holds a decoder: 1 or −1 where a loading is more than `weight_cutoff` standard deviations above or
        below the mean of its latent dimension (`core.specificity.outlying_loadings`), else 0.
    ``var['nearest_gene']``, ``var['tss_distance']``
        With `genes`: the gene whose start is nearest to each peak, empty where its chromosome has none, and the bases between,
        below 0 where the peak is upstream of the gene; the markers have them too.
    ``uns['scale_motifs']`` (DataFrame, a row a cluster and motif, the smallest p first)
        With `motifs`, of every cluster with markers (`core.motifs`): ``cluster``, ``motif``, ``odds_ratio``, ``p_value``,
        ``fdr``, ``share_markers``, ``share_background`` (of peaks with the motif), ``n_markers``, ``n_background``,
        ``gc_markers``, ``gc_background`` (mean GC content).

    Raises
    ------
    MissingSlotError
        There is no column of clusters.
    InputError
        The column holds no clusters, or a single one; X holds negative values or values that are not finite; with `genes`
        a peak name that is no interval, or no chromosome that peaks and genes share.
    NothingLeftError
        No peak is open in `min_cells` cells.

    Warns
    -----
    ScaleWarning
        A cluster without markers; peaks on chromosomes without a gene.
    """
    labels = _clusters(adata, config.cluster_by)
    whole = open_peaks(adata)
    used = np.flatnonzero(labels.notna().to_numpy() & (np.diff(whole.indptr) > 0))
    labels = labels.iloc[used].cat.remove_unused_categories()
    if len(labels.cat.categories) < 2:
        raise InputError(
            f"obs[{config.cluster_by!r}] has {len(labels.cat.categories)} cluster in {len(used):,} cells with open peaks",
            "two or more to compare",
            "cluster into more with `scale cluster`, or name another column with --cluster-by",
        )
    nearest = None if genes is None else _nearest(adata.var_names, genes)
    is_open = whole if len(used) == whole.shape[0] else whole[used]
    names, groups = [str(name) for name in labels.cat.categories], labels.cat.codes.to_numpy(np.int64)
    bins = differential.depth_bins(np.diff(is_open.indptr))
    sizes = np.bincount(groups, minlength=len(names)).astype(np.float64)
    if config.method == "wilcoxon" and sizes.min() < 2:
        raise InputError(
            f"cluster {names[int(sizes.argmin())]!r} has one cell", "two or more for method wilcoxon", "use --method logistic"
        )
    everything = differential.count(is_open, groups, len(names), bins)
    counts = everything.open_cells
    tested = np.flatnonzero(counts.sum(axis=1) >= config.min_cells)
    if len(tested) == 0:
        raise NothingLeftError(
            f"none of {adata.n_vars:,} peaks is open in {config.min_cells} cells", "one at least", "lower --min-cells"
        )

    def tell(done: int) -> None:
        if progress is not None:
            progress("testing peaks", done, len(tested))

    of_tested = differential.Counts(counts[tested], everything.weighted[tested])
    found = differential.compare(of_tested, groups, bins, n_threads=config.n_threads, progress=tell)
    if config.method == "wilcoxon":
        found = _wilcoxon(is_open[:, tested], groups, found)

    figures = {"score": found.score, "p_value": found.p_value, "odds_ratio": found.odds_ratio}
    figures["fdr"] = np.column_stack([false_discovery_control(column) for column in found.p_value.T])
    figures |= _shares(counts[tested], sizes)
    specificity = specificity_of_counts(counts, sizes)
    figures["specificity"] = specificity[tested]
    table, own = _table(adata.var_names[tested], names, figures, config)
    own = tested[own]  # number of each marker's peak

    if nearest is not None:
        for slot in (keys.NEAREST_GENE, keys.TSS_DISTANCE):
            slot.set(adata, nearest[slot.name].to_numpy())
        for name in nearest:
            table[name] = nearest[name].to_numpy()[own]
    keys.MARKERS.set(adata, table)
    keys.MOTIFS.drop(adata)
    if sequences is not None and motifs is not None:
        frequency = counts.sum(axis=1) / len(used)
        keys.MOTIFS.set(adata, _motifs(table, own, tested, frequency, sequences, motifs, config, progress))
    for slot, values, dtype in (
        (keys.MARKER_SCORE, found.score, np.float32),
        (keys.MARKER_FDR, figures["fdr"], np.float64),  # 10⁻³⁸ is the least of a float32
    ):
        every = np.full((adata.n_vars, len(names)), np.nan, dtype)
        every[tested] = values
        slot.set(adata, every)
    keys.SPECIFICITY.set(adata, specificity.astype(np.float32))
    _select_by_weights(adata, config)
    per_cluster = table["cluster"].value_counts(sort=False)
    note(
        adata,
        n_cells=len(used),
        n_tested=len(tested),
        clusters={name: {"cells": int(size), "markers": int(per_cluster[name])} for name, size in zip(names, sizes)},
    )
    given = {"genes": genes, "sequences": sequences, "motifs": motifs}
    if any(one is not None for one in given.values()):
        note(adata, **{"with": [name for name, one in given.items() if one is not None]})
    _say(per_cluster, config)
    return adata


def _clusters(adata: AnnData, column: str) -> pd.Series:
    """The clusters as a category of text."""
    if column not in adata.obs:
        if column == keys.CLUSTER.name:
            keys.CLUSTER.get(adata)  # says which stage makes it
        raise MissingSlotError(
            f"obs has no column {column!r}",
            "one of " + ", ".join(map(str, adata.obs.columns)) if len(adata.obs.columns) else "a column, and obs has none",
            "name the clusters' column with --cluster-by",
        )
    values = adata.obs[column]
    if values.dtype.kind == "f" and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")  # whole numbers, fractional only because some are missing: "1", not "1.0"
    if values.dtype.kind == "f" or values.nunique() > MOST_CLUSTERS:
        raise InputError(
            f"obs[{column!r}] has {values.nunique():,} distinct values ({values.dtype})",
            f"clusters, at most {MOST_CLUSTERS:,} different ones, no measurements",
            "name another column with --cluster-by",
        )
    if not isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype("category")
    categories = values.cat.categories.astype(str)
    return pd.Series(pd.Categorical.from_codes(values.cat.codes, categories), index=adata.obs_names)


def _nearest(names: pd.Index, genes: pd.DataFrame) -> pd.DataFrame:
    """The nearest gene of every peak, and its distance."""
    peaks = require_intervals(names, "--gtf")
    check_chromosomes(peaks["chrom"], genes["chrom"], "the GTF")
    found = nearest_starts(peaks, genes)
    gene = np.append(genes["gene_name"].to_numpy(dtype=object), "")[found["gene"]]
    return pd.DataFrame({keys.NEAREST_GENE.name: gene, keys.TSS_DISTANCE.name: found["distance"].to_numpy()})


def _wilcoxon(is_open: sparse.csr_matrix, groups: np.ndarray, found: differential.Difference) -> differential.Difference:
    """Score and p-value by scanpy instead; the odds ratio stays."""
    import anndata
    import scanpy as sc

    n_groups = found.score.shape[1]
    # a half for each open peak: the ranks are the same, and scanpy takes whole numbers for counts not yet normalised
    cells = anndata.AnnData(
        is_open.astype(np.float32) * np.float32(0.5), obs=pd.DataFrame(index=list(map(str, range(len(groups)))))
    )
    cells.obs["group"] = pd.Categorical.from_codes(groups, [str(k) for k in range(n_groups)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fold changes, which are not read
        sc.tl.rank_genes_groups(cells, "group", method="wilcoxon", tie_correct=True)
    ranked = cells.uns["rank_genes_groups"]
    score, p_value = np.zeros((2, *found.score.shape))
    for k in range(n_groups):
        at = ranked["names"][str(k)].astype(np.int64)
        score[at, k], p_value[at, k] = ranked["scores"][str(k)], ranked["pvals"][str(k)]
    same_everywhere = np.isnan(p_value)  # a peak that is open in every cell: nothing to rank
    score[same_everywhere], p_value[same_everywhere] = 0.0, 1.0
    return differential.Difference(score, p_value, found.odds_ratio)


def _shares(counts: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
    """Shares of open cells in each cluster and in the rest, and the log2 of their ratio (peaks × clusters)."""
    outside, others = counts.sum(axis=1, keepdims=True) - counts, sizes.sum() - sizes
    change = np.log2((counts + 0.5) / (sizes + 1)) - np.log2((outside + 0.5) / (others + 1))
    return {"log2_fold_change": change, "share_in": counts / sizes, "share_out": outside / others}


def _table(
    peaks: pd.Index, names: list[str], figures: dict[str, np.ndarray], config: MarkersConfig
) -> tuple[pd.DataFrame, np.ndarray]:
    """The markers of each cluster, the smallest p first, then the largest score; and the numbers of their peaks."""
    parts, rows = [], []
    order = ("score", "p_value", "fdr", "odds_ratio", "log2_fold_change", "share_in", "share_out", "specificity")
    for k in range(len(names)):
        own = {name: figures[name][:, k] for name in order}
        is_marker = (own["fdr"] <= config.max_fdr) & (own["score"] > 0)
        is_marker &= (own["odds_ratio"] >= config.min_odds_ratio) & (own["share_in"] >= config.min_share)
        at = np.flatnonzero(is_marker)
        at = at[np.lexsort((-own["score"][at], own["p_value"][at]))]
        rows.append(at)
        columns = {"cluster": np.full(len(at), k), "peak": peaks[at].to_numpy(dtype=object)}
        parts.append(pd.DataFrame(columns | {name: own[name][at] for name in order}))
    table = pd.concat(parts, ignore_index=True)
    table["cluster"] = pd.Categorical.from_codes(table["cluster"].to_numpy(np.int64), names)
    return table.set_index(pd.RangeIndex(len(table)).astype(str)), np.concatenate(rows)


def _motifs(
    table: pd.DataFrame,
    own: np.ndarray,
    tested: np.ndarray,
    frequency: np.ndarray,
    sequences: Sequence[str],
    motifs: Mapping[str, np.ndarray],
    config: MarkersConfig,
    progress: Progress | None,
) -> pd.DataFrame:
    """Motif enrichment of each cluster's markers against tested peaks of like GC content and frequency that are none."""
    from scale_toolkit.core.motifs import enrichment, gc_content, match_background, occurrences

    if len(sequences) != len(frequency):
        raise InputError(
            f"{len(sequences):,} sequences and {len(frequency):,} peaks", "a sequence a peak, empty where not known"
        )
    gc = gc_content(sequences)
    usable = tested[~np.isnan(gc[tested])]
    rng = np.random.default_rng(config.seed)
    sets: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in table["cluster"].cat.categories:
        mine = np.intersect1d(own[(table["cluster"] == name).to_numpy()], usable)
        others = np.setdiff1d(usable, mine)
        background = match_background(mine, others, gc, frequency, config.background_ratio, rng)
        if len(mine) and len(background):
            sets[name] = (mine, background)
    scanned = np.unique(np.concatenate([part for pair in sets.values() for part in pair] or [np.empty(0, np.int64)]))

    def tell(done: int) -> None:
        if progress is not None:
            progress("scanning for motifs", done, len(motifs))

    held = occurrences([sequences[j] for j in scanned], motifs, config.motif_p, progress=tell) if len(scanned) else None
    no_row = {name: np.empty(0, object if name in ("cluster", "motif") else np.float64) for name in _MOTIF_COLUMNS}
    parts = [] if sets else [pd.DataFrame(no_row)]
    for name, (mine, background) in sets.items():
        counts = (held[:, np.searchsorted(scanned, part)].sum(axis=1) for part in (mine, background))
        found = enrichment(next(counts), len(mine), next(counts), len(background))
        part = pd.DataFrame(
            {
                "cluster": name, "motif": list(motifs), "odds_ratio": found.odds_ratio, "p_value": found.p_value,
                "fdr": found.fdr, "share_markers": found.share, "share_background": found.share_background,
                "n_markers": len(mine), "n_background": len(background),
                "gc_markers": gc[mine].mean(), "gc_background": gc[background].mean(),
            }
        )  # fmt: skip
        parts.append(part.sort_values(["p_value", "odds_ratio"], ascending=[True, False], kind="stable"))
    result = pd.concat(parts, ignore_index=True)
    result["cluster"] = pd.Categorical(result["cluster"], table["cluster"].cat.categories)
    return result.set_index(pd.RangeIndex(len(result)).astype(str))


def _select_by_weights(adata: AnnData, config: MarkersConfig) -> None:
    """Mark the peaks whose decoder loading is far from the mean, for each latent dimension."""
    keys.WEIGHT_PEAKS.drop(adata)
    if not (keys.DECODER.found_in(adata) and keys.BIAS.found_in(adata)):
        log.info("%s is not here: no peaks are selected by decoder weights (`scale train` writes it)", keys.DECODER)
        return
    modelled = np.flatnonzero(~np.isnan(keys.BIAS.get(adata).to_numpy(np.float64)))
    loadings = get.decoder_weights(adata)
    chosen = np.zeros(loadings.shape, dtype=np.int8)
    chosen[modelled] = outlying_loadings(loadings[modelled], config.weight_cutoff)
    keys.WEIGHT_PEAKS.set(adata, chosen)


def _say(per_cluster: pd.Series, config: MarkersConfig) -> None:
    """The number of markers, and a warning about clusters without any."""
    limits = f"FDR at most {config.max_fdr:g}, odds ratio at least {config.min_odds_ratio:g}"
    without = [str(name) for name in per_cluster.index[per_cluster == 0]]
    if len(without) == len(per_cluster):
        warnings.warn(
            f"0 marker peaks in {len(per_cluster)} clusters ({limits}): no peak tells one from the rest; "
            "look at the clusters, or loosen --max-fdr or --min-odds-ratio",
            ScaleWarning,
            stacklevel=4,
        )
        return
    if without:
        shown = ", ".join(without[:_SHOWN]) + (f" and {len(without) - _SHOWN} more" if len(without) > _SHOWN else "")
        warnings.warn(
            f"{len(without)} of {len(per_cluster)} clusters have 0 marker peaks ({limits}): {shown}", ScaleWarning, stacklevel=4
        )
    log.info("%d marker peaks in %d clusters (%s)", per_cluster.sum(), len(per_cluster), limits)
