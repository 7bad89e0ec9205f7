"""A stretch of the genome: how open its peaks are in each cluster, and its genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.special import expit, logit

from scale_toolkit import keys
from scale_toolkit.core.intervals import parse_region, require_intervals, same_chromosome
from scale_toolkit.errors import InputError, MissingSlotError, NothingLeftError, OptionError
from scale_toolkit.plot import _decode, _figure
from scale_toolkit.plot._figure import styled
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.ticker import Locator

#: Rows of genes at most; more are counted in a line of text.
MOST_LANES = 8
#: Height of the highest bar, of a row of genes, in rows of clusters.
_BAR, _LANE = 0.85, 0.8
#: Least width of a peak, and letters' width, as parts of the stretch.
_LEAST_WIDTH, _LETTER = 0.002, 0.011
_CELLS_AT_A_TIME = 65_536


@styled
def locus(
    adata: AnnData,
    region: str,
    groupby: str | None = None,
    *,
    genes: pd.DataFrame | None = None,
    signal: str = "auto",
    ax: Axes | None = None,
    save: str | Path | None = None,
    title: str = "",
    figsize: tuple[float, float] | None = None,
) -> Axes:
    """Draw how open the peaks of a stretch of the genome are in each cluster, at equal depth.

    A row is a cluster, a bar a peak at its place; all rows have one scale. Below lie the genes, an
    arrow at the start of each.

    Parameters
    ----------
    adata
        Cells × peaks with intervals as names.
    region
        ``chr1:1,000-2,000``, half-open.
    groupby
        Column of obs; left out, ``scale_cluster``. Cells without a label are left out.
    genes
        ``chrom``, ``start``, ``end``, ``strand``, ``gene_name`` (`io.genes.read_gene_bodies`).
    signal
        ``"imputed"``: mean over the cluster's cells of the probability that the peak is open, at
        the data's median depth; ``"open"``: share of the cluster's cells in which it is open,
        shifted on the logit scale by the log of the cluster's mean depth against that of all cells;
        ``"auto"``: imputed after `train`, else open.
    ax, save, title, figsize
        As in `embedding`.

    Raises
    ------
    OptionError
        An unknown signal.
    InputError
        An invalid region, peak names that are not intervals, a chromosome that peaks or genes lack.
    NothingLeftError
        No peak overlaps the region, or with ``"imputed"`` no modelled one.
    """
    if signal not in ("auto", "imputed", "open"):
        raise OptionError(f"signal is {signal!r}", "one of auto, imputed, open")
    chrom, start, end = parse_region(region)
    positions, peaks = _peaks_in(adata, chrom, start, end)
    labels = _figure.labels_of(adata, groupby)
    names = list(labels.cat.categories)
    is_imputed = signal == "imputed" or (signal == "auto" and _decode.can_decode(adata))
    if is_imputed:
        is_modelled = _decode.modelled(adata, positions)
        if not is_modelled.any():
            raise NothingLeftError(
                f"none of {len(positions)} peaks in {region} was modelled",
                "peaks that `scale train` saw",
                "draw their counts with `signal=open`",
            )
        positions, peaks = positions[is_modelled], peaks[is_modelled]
        values = _mean_imputed(adata, positions, labels)
    else:
        values = _open_shares(adata, positions, labels)
    lanes, n_hidden = _genes_in(genes, chrom, start, end)
    n_lanes = max((lane for *_, lane in lanes), default=-1) + 1
    height = 0.9 + 0.3 * len(names) + 0.3 * _LANE * (n_lanes + 1) * (genes is not None)
    ax = _figure.axes_for(ax, figsize or _figure.inches(6.5, height))
    _draw_bars(ax, values, peaks, names, start, end)
    if genes is not None:
        _draw_genes(ax, lanes, n_hidden, start, end)
    lowest = -_LANE * (n_lanes + 0.8) if genes is not None else -0.1
    ax.set(xlim=(start, end), ylim=(lowest, len(names)))
    ax.set_yticks(
        np.arange(len(names)) + 0.3,
        [_figure.shortened(name, 24) for name in reversed(names)],
    )
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_formatter(lambda base, _: f"{base:,.0f}")
    ax.xaxis.set_major_locator(_few_ticks())
    ax.set_xlabel(chrom)
    words = "probability of being open" if is_imputed else "share of open cells"
    ax.set_title(title or f"{words} at equal depth, 0 to {values.max():.2g}")
    return _figure.finish(ax, save)


def _few_ticks() -> Locator:
    from matplotlib.ticker import MaxNLocator

    # names of bases are long
    return MaxNLocator(4)


def _peaks_in(adata: AnnData, chrom: str, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions, and starts and ends (peaks × 2), of the peaks that overlap a stretch."""
    table = require_intervals(adata.var_names, "this figure")
    known = table["chrom"].unique()
    name = same_chromosome(chrom, known)
    if name is None:
        raise InputError(
            f"no peak is on {chrom}",
            f"a chromosome of these peaks ({first_names(known, 3)})",
            "look at the names of chromosomes and at the genome build",
        )
    on_chrom = np.flatnonzero((table["chrom"] == name).to_numpy())
    spans = table[["start", "end"]].to_numpy(np.int64)[on_chrom]
    inside = (spans[:, 0] < end) & (spans[:, 1] > start)
    if not inside.any():
        gap = np.maximum(spans[:, 0] - end, start - spans[:, 1])
        nearest = adata.var_names[on_chrom[int(gap.argmin())]]
        raise NothingLeftError(
            f"no peak overlaps {chrom}:{start:,}-{end:,}",
            "at least one",
            f"widen the region: the nearest peak is {nearest}, {gap.min():,} bases away",
        )
    return on_chrom[inside], spans[inside]


def _mean_imputed(adata: AnnData, positions: np.ndarray, labels: pd.Series) -> np.ndarray:
    """Return the mean probability of peaks in each cluster, (clusters, peaks)."""
    codes = labels.cat.codes.to_numpy()
    n_clusters = len(labels.cat.categories)
    sums = np.zeros((n_clusters, len(positions)))
    for first in range(0, adata.n_obs, _CELLS_AT_A_TIME):
        cells = slice(first, first + _CELLS_AT_A_TIME)
        chunk = codes[cells]
        values = _decode.decoded(adata, positions, cells)[chunk >= 0]
        np.add.at(sums, chunk[chunk >= 0], values)
    return sums / np.bincount(codes[codes >= 0], minlength=n_clusters)[:, None]


def _open_shares(adata: AnnData, positions: np.ndarray, labels: pd.Series) -> np.ndarray:
    """Return the share of open cells at equal depth, (clusters, peaks)."""
    if adata.X is None:
        raise MissingSlotError(
            "X is missing", "counts, cells × peaks", "run `scale prepare` on the counts first"
        )
    counts = sparse.csr_matrix(adata.X)
    if keys.N_PEAKS.found_in(adata):
        depth = np.asarray(keys.N_PEAKS.get(adata), float)
    else:
        depth = np.asarray((counts > 0).sum(axis=1), float).ravel()
    codes = labels.cat.codes.to_numpy()
    is_open = sparse.csr_matrix(counts[:, positions] > 0, dtype=float)
    n_clusters = len(labels.cat.categories)
    shares, depths = np.zeros((n_clusters, len(positions))), np.ones(n_clusters)
    for cluster in range(n_clusters):
        members = np.flatnonzero(codes == cluster)
        shares[cluster] = np.asarray(is_open[members].mean(axis=0)).ravel()
        depths[cluster] = max(depth[members].mean(), 1)
    shift = np.log(max(depth[codes >= 0].mean(), 1) / depths)[:, None]
    # a share of 0 or 1 stays
    with np.errstate(divide="ignore"):
        return expit(logit(shares) + shift)


def _draw_bars(
    ax: Axes, values: np.ndarray, peaks: np.ndarray, names: list[str], start: int, end: int
) -> None:
    """Draw a row of bars for each cluster, the first on top."""
    least = _LEAST_WIDTH * (end - start)
    middles = peaks.mean(axis=1)
    widths = np.maximum(peaks[:, 1] - peaks[:, 0], least)
    scale = _BAR / max(values.max(), 1e-12)
    shades = _figure.colors(len(names))
    for row, cluster in enumerate(values):
        base = len(names) - 1 - row
        ax.axhline(base, color="0.8", linewidth=0.6, zorder=0)
        ax.bar(middles, scale * cluster, widths, base, color=shades[row], linewidth=0)


def _genes_in(
    genes: pd.DataFrame | None, chrom: str, start: int, end: int
) -> tuple[list[tuple[int, int, str, str, int]], int]:
    """Return start, end, strand, name and row of the genes in a stretch, and how many have no row.

    Genes of one row do not touch, their names included.
    """
    if genes is None:
        return [], 0
    known = genes["chrom"].astype(str).unique()
    name = same_chromosome(chrom, known)
    if name is None:
        raise InputError(
            f"no gene of the GTF is on {chrom}",
            f"a GTF of the peaks' genome (this one has {first_names(known, 3)})",
            "look at the names of chromosomes and at the genome build",
        )
    is_inside = (genes["chrom"].astype(str) == name) & (genes["start"] < end)
    table = genes[is_inside & (genes["end"] > start)].sort_values("start", kind="stable")
    lanes: list[tuple[int, int, str, str, int]] = []
    # where each row is free again
    free: list[float] = []
    n_hidden = 0
    for gene in table.itertuples():
        text = str(gene.gene_name)
        low = max(int(gene.start), start)
        width = _LETTER * (len(text) + 2) * (end - start)
        high = max(float(gene.end), low + width)
        # at the right edge a name reaches back to the left
        name_start = max(min(low, end - width), start)
        lane = next((k for k, border in enumerate(free) if border <= name_start), len(free))
        if lane == MOST_LANES:
            n_hidden += 1
            continue
        if lane == len(free):
            free.append(high)
        free[lane] = high
        lanes.append((int(gene.start), int(gene.end), str(gene.strand), text, lane))
    return lanes, n_hidden


def _draw_genes(
    ax: Axes,
    lanes: list[tuple[int, int, str, str, int]],
    n_hidden: int,
    start: int,
    end: int,
) -> None:
    """Draw genes as lines with their names, an arrow at the first base."""
    for first, last, strand, name, lane in lanes:
        y = -_LANE * (lane + 0.5)
        body = [max(first, start), min(last, end)]
        ax.plot(body, [y, y], color="0.45", linewidth=2, solid_capstyle="butt")
        begin = first if strand == "+" else last
        if start <= begin <= end:
            marker = ">" if strand == "+" else "<"
            ax.plot([begin], [y], marker=marker, color="0.2", markersize=4, clip_on=False)
        reaches_edge = body[0] + _LETTER * (len(name) + 2) * (end - start) > end
        x, side = (end, "right") if reaches_edge else (body[0], "left")
        ax.text(x, y - 0.12, name, fontsize=6, style="italic", ha=side, va="top", clip_on=True)
    words = f"and {n_hidden:,} more genes" if n_hidden else "" if lanes else "no gene"
    if words:
        n_lanes = max((lane for *_, lane in lanes), default=-1) + 1
        ax.text(start, -_LANE * (n_lanes + 0.4), words, fontsize=6, color="0.4", va="top")
