"""The page: its sections one by one, each with what it shows or a sentence that says which stage
makes it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scale_toolkit import __version__, get, keys
from scale_toolkit.config import PRESETS
from scale_toolkit.core import metrics
from scale_toolkit.errors import InputError, MissingSlotError
from scale_toolkit.plot._figure import as_categories
from scale_toolkit.plot.confusion import check_reference, is_clustering_itself
from scale_toolkit.plot.heatmaps import share_of_open_cells
from scale_toolkit.plot.marker_peaks import best_peaks, compared_column, marker_table
from scale_toolkit.plot.qc import Tally
from scale_toolkit.report import figures, findings
from scale_toolkit.report.findings import Finding
from scale_toolkit.report.receipts import Run, last, runs

if TYPE_CHECKING:
    Counts = Callable[[np.ndarray], sparse.csr_matrix | np.ndarray]

#: Columns of obs that may hold known labels, where none is named.
LABELS = ("cell_type", "celltype", "label")
MOST_LABELS = 100
MOST_COLUMNS = 12
# characters of what the cells are drawn from: with plotly's 4.8 MB and the rest, less than 15 MB
MOST_TEXT = 9_500_000
MOST_SHOWN = 60  # clusters in a table or a heat map
MOST_ROWS = 30  # clusters in the heat map of peaks
MARKER_CELLS = 3000
MARKERS_EACH = 5

#: What the page is made from, besides obs, var and some rows of X: a file's other elements can stay
#: on disk.
NEEDED = tuple(
    slot.path
    for slot in (
        keys.LATENT, keys.UMAP, keys.TSNE, keys.POSTERIOR, keys.RECEIPTS, keys.RUNTIME, keys.HISTORY, keys.QC, keys.VALIDATION,
        keys.MARKERS, keys.MOTIFS, keys.CLUSTER_STABILITY,
    )
)  # fmt: skip

#: Slots any of which says that SCALE has worked on the file.
OURS = (keys.RECEIPTS, keys.N_PEAKS, keys.LATENT, keys.CLUSTER, keys.UMAP, keys.TSNE)


@dataclasses.dataclass
class Plot:
    """A figure on the page: where, how high (pixels), and what it shows, in words."""

    id: str
    height: int
    words: str


@dataclasses.dataclass
class Section:
    """A part of the page."""

    id: str
    title: str
    meaning: str
    plots: list[list[Plot]] = dataclasses.field(default_factory=list)
    table: tuple[list[str], list[list[str]]] | None = None
    numbers: tuple[str, ...] = ()
    lines: list[str] = dataclasses.field(default_factory=list)
    missing: str = ""
    cells: bool = False


@dataclasses.dataclass
class View:
    """What the sections are made from, and the figures they leave."""

    adata: AnnData
    label: str | None
    counts: Counts | None
    drawn: dict[str, Any] = dataclasses.field(default_factory=dict)
    found: list[Finding] = dataclasses.field(default_factory=list)

    def add(self, name: str, figure: dict[str, Any], height: int, words: str) -> Plot:
        """Keep a figure, and give its place on the page."""
        self.drawn[name] = figure
        return Plot(name, height, words)

    @functools.cached_property
    def clusters(self) -> pd.Series | None:
        """Clusters as a categorical of texts, or None where no cell has one."""
        if not keys.CLUSTER.found_in(self.adata):
            return None
        found = as_categories(keys.CLUSTER.get(self.adata))
        return found if len(found.cat.categories) else None

    @functools.cached_property
    def depth(self) -> np.ndarray | None:
        """Open peaks of the cells, or None."""
        return (
            np.asarray(keys.N_PEAKS.get(self.adata), float)
            if keys.N_PEAKS.found_in(self.adata)
            else None
        )

    @functools.cached_property
    def latent(self) -> np.ndarray | None:
        """The latent space, or None; cells × latent."""
        return np.asarray(keys.LATENT.get(self.adata)) if keys.LATENT.found_in(self.adata) else None

    def run(self, stage: str) -> Run | None:
        """The last receipt of a stage."""
        return last(self.adata, stage)


def page(
    adata: AnnData, *, name: str = "cells", label: str | None = None, counts: Counts | None = None
) -> str:
    """Make the report of an analysis: one HTML page that needs nothing else, no network and no
    other file.

    Parameters
    ----------
    adata
        The output of any stage; what is not there yet is named with the stage that makes it. X is
        not needed.
    name
        What the page is about, its title.
    label
        Column of obs with known labels, to compare the clusters with; left out, the one `cluster`
        was given, or cell_type, celltype or label where one of them is there.
    counts
        ``counts(cells)`` gives the rows of X for ascending numbers of cells (cells × peaks), for
        the heat map of peaks; left out, X itself, where it is there.

    Returns
    -------
    The page. Equal input gives an equal page.

    Raises
    ------
    MissingSlotError
        SCALE has not worked on this AnnData.
    InputError
        There is no column `label`.
    """
    if not any(slot.found_in(adata) for slot in OURS):
        raise MissingSlotError(
            f"{name} holds nothing that SCALE made",
            "the output of any stage",
            "run `scale run` or `scale prepare` first",
        )
    if counts is None and adata.X is not None:
        counts = lambda cells: adata.X[cells]  # noqa: E731
    view = View(adata, _label(adata, label), counts)
    sections = [
        _kept(view),
        _training(view),
        _cells(view),
        _clusters(view),
        _agreement(view),
        _posterior(view),
        _markers(view),
    ]
    sections += [_imputation(view)]
    return _written(view, name, [one for one in sections if one is not None])


def _label(adata: AnnData, label: str | None) -> str | None:
    """Return the column of known labels; clusters are never compared with themselves."""
    if label is not None:
        if label not in adata.obs:
            raise InputError(
                f"obs has no column {label!r}", "one of " + ", ".join(map(str, adata.obs.columns))
            )
        check_reference(adata, label)
        return label
    compared = last(adata, "cluster")
    candidates = [compared.options.get("reference") if compared else None, *LABELS]
    for column in candidates:
        usable = column in adata.obs and 1 < adata.obs[column].nunique() <= MOST_LABELS
        if usable and not is_clustering_itself(adata, column):
            return column
    return None


def _kept(view: View) -> Section:
    section = Section(
        "kept",
        "Cells and peaks kept",
        "Barcodes with few open peaks are mostly empty droplets; peaks open in few cells tell "
        "groups apart by chance alone.",
    )
    done = view.run("prepare")
    if done is not None:
        view.found += findings.of_preparation(done.notes)
    try:
        cells, peaks = Tally.of(view.adata, "cell"), Tally.of(view.adata, "peak")
    except MissingSlotError as error:
        section.missing = str(error)
        return section
    section.plots = [[
        view.add("knee", figures.knee(cells), 260, "open peaks of the cells in falling order"),
        view.add("histogram", figures.histogram(cells, "cell"), 260, "cells by their number of "
                                                                     "open peaks"),
        view.add("peaks", figures.histogram(peaks, "peak"), 260, "peaks by the number of cells "
                                                                 "they are open in"),
    ]]  # fmt: skip
    recorded = keys.QC.found_in(view.adata)
    section.meaning += (
        " Grey is what was left out; the dotted line is the limit." if recorded else ""
    )
    for tally, what, of in (
        (cells, "cells", "with {} or more open peaks"),
        (peaks, "peaks", "open in {} cells or more"),
    ):
        if recorded:
            section.lines.append(
                f"{tally.kept:,} of {tally.total:,} {what} kept: those "
                f"{of.format(f'{tally.least:,.0f}')}."
            )
        else:
            section.lines.append(
                f"{tally.total:,} {what}; what was left out before is not recorded in this file."
            )
    chosen = view.run("select-peaks")
    if keys.SELECTED.found_in(view.adata) and chosen is not None:
        n = int(np.asarray(keys.SELECTED.get(view.adata), bool).sum())
        best = f"{n:,} of them, the best by {chosen.options.get('method', 'their score')}"
        before = chosen.notes.get("n_peaks_found", view.adata.n_vars)
        section.lines.append(f"The model saw {'all of them' if n == before else best}.")
    return section


def _training(view: View) -> Section:
    section = Section(
        "training",
        "Training",
        "The loss is what the model makes smaller. A few open peaks were hidden from it: how "
        "likely it finds those shows what "
        "it has learned about cells rather than by heart. The dotted line is the epoch whose "
        "weights were kept.",
    )
    done = view.run("train")
    if not keys.HISTORY.found_in(view.adata):
        encoded = done is not None and done.notes.get("pretrained")
        section.missing = (
            (
                "The cells were encoded by a model trained elsewhere; its curves are with that "
                "training."
            )
            if encoded
            else f"{keys.HISTORY} is missing: run scale train first."
        )
        view.found += findings.of_encoding(done.notes) if done else []
        return section
    stored = keys.HISTORY.get(view.adata)
    notes = done.notes if done else {}
    best = notes.get("best_epoch")
    curves = {"loss": "loss", "held_out": "log-likelihood, hidden peaks"}
    n_epochs = min(
        (len(stored[name]) for name in stored if np.ndim(stored[name]) == 1 and len(stored[name])),
        default=0,
    )
    row = []
    for (name, title), color in zip(curves.items(), figures.palette(3)[::2], strict=True):
        values = np.ravel(np.asarray(stored.get(name, ()), float))
        if len(values):
            first = 1 if len(values) == n_epochs else 0
            figure = figures.curve(values, title, first=first, best=best, color=color)
            row.append(view.add(f"curve_{name}", figure, 250, f"{title} by epoch"))
    section.plots = [row]
    if "held_out" not in stored:
        section.lines.append("No peaks were held out in this training.")
    options = dict(done.options) if done else {}
    preset = PRESETS.get(str(options.get("preset")), {})
    options |= {key: value for key, value in preset.items() if options.get(key) is None}
    view.found += findings.of_training(stored, notes, options)
    if view.latent is not None and view.depth is not None:
        view.found += findings.of_depth(view.latent, view.depth)
    return section


def _cells(view: View) -> Section:
    section = Section(
        "cells",
        "Cells",
        "Each point is a cell; near cells have like open peaks. Distances between far groups mean "
        "little. Choose what colours "
        "the cells; a click on a name in the legend hides it, a double click shows it alone.",
    )
    adata = view.adata
    slot = next((one for one in (keys.UMAP, keys.TSNE) if one.found_in(adata)), None)
    if slot is None:
        section.missing = f"{keys.UMAP} is missing: run scale embed first."
        return section
    points = np.asarray(slot.get(adata))[:, :2]
    # in random order (the same every time), so that the points drawn last are not those of one
    # cluster
    cells = np.random.default_rng(0).permutation(len(points))[: figures.MOST_DRAWN]
    if len(cells) < len(points):
        section.lines.append(
            f"{len(cells):,} of {len(points):,} cells are drawn, chosen at random."
        )
    barcodes = [str(one) for one in adata.obs_names[cells]]
    columns = _columns(view, cells, MOST_TEXT - sum(map(len, barcodes)) - 14 * len(barcodes))
    names = [one["name"] for one in columns]
    right = next(
        (one for one in (view.label, keys.BATCH.name, keys.N_PEAKS.name) if one in names),
        names[-1] if names else "",
    )
    view.drawn["embedding"] = {
        "x": figures.base64_of(points[cells, 0], "float32"),
        "y": figures.base64_of(points[cells, 1], "float32"),
        "axis": {keys.UMAP.name: "UMAP", keys.TSNE.name: "tSNE"}[slot.name],
        "names": barcodes,
        "columns": columns,
        "shown": [
            keys.CLUSTER.name if keys.CLUSTER.name in names else (names[0] if names else ""),
            right,
        ],
    }
    section.cells = True
    return section


def _columns(view: View, cells: np.ndarray, room: int) -> list[dict[str, Any]]:
    """What the cells can be coloured by, in so many characters: clusters, labels, batches and
    depth, then other columns.
    """
    obs = view.adata.obs
    titles = {
        keys.CLUSTER.name: "cluster",
        view.label: f"{view.label} (label)",
        keys.BATCH.name: "batch",
        keys.N_PEAKS.name: "depth (open peaks)",
    }
    told = [name for name in titles if name in obs]
    others = []
    for name in (name for name in map(str, obs.columns) if name not in titles and name in obs):
        labels = not pd.api.types.is_numeric_dtype(obs[name].dtype)
        if labels and (
            obs[name].nunique() > MOST_LABELS or any(_same(obs[name], obs[one]) for one in told)
        ):
            # a name for each cell groups nothing, and what says the same as another tells nothing
            # more
            continue
        others.append(name)
    made = []
    for name in [*told, *others][:MOST_COLUMNS]:
        log = name in (keys.N_PEAKS.name, keys.N_COUNTS.name)
        one = figures.column(name, obs[name].iloc[cells], titles.get(name, name), log=log)
        room -= len(one["values"]["data"]) if one is not None else 0
        if one is not None and room > 0:
            made.append(one)
    return made


def _same(a: pd.Series, b: pd.Series) -> bool:
    """Whether two columns give every cell the same label."""
    return (
        not pd.api.types.is_numeric_dtype(b.dtype)
        and a.nunique() == b.nunique()
        and a.astype(str).equals(b.astype(str))
    )


def _clusters(view: View) -> Section:
    section = Section(
        "clusters",
        "Clusters",
        "How many cells each cluster holds, how deep they are, and how well it is set apart: the "
        "silhouette is near 1 where "
        "cells lie far from the next cluster, about 0 at a border, below 0 where they lie nearer "
        "to another.",
    )
    clusters = view.clusters
    if clusters is None:
        there = keys.CLUSTER.found_in(view.adata)
        section.missing = (
            f"{keys.CLUSTER} {'holds no cluster' if there else 'is missing'}: run "
            "scale cluster first."
        )
        return section
    view.found += findings.of_sizes(clusters)
    counts = clusters.value_counts(sort=False)
    names = list(counts.index)
    shown = counts.sort_values(ascending=False, kind="stable").index[:MOST_SHOWN]
    shown = [name for name in names if name in set(shown)]
    shades = dict(zip(names, figures.palette(len(names)), strict=True))
    figure = figures.sizes(shown, counts[shown].to_numpy(), [shades[name] for name in shown])
    section.plots = [[view.add("sizes", figure, 240, "cells of each cluster")]]
    width = group = np.empty(0)
    if view.latent is not None:
        known = np.flatnonzero(clusters.notna())
        width, cells = findings.silhouettes(
            view.latent[known], clusters.cat.codes.to_numpy()[known]
        )
        group = clusters.to_numpy()[known[cells]].astype(str) if len(width) else group
        view.found += findings.of_separation(width, group) if len(width) else []
        if keys.BATCH.found_in(view.adata):
            batch = as_categories(keys.BATCH.get(view.adata))
            if len(batch.cat.categories) > 1:
                view.found += findings.of_batches(view.latent, batch, clusters)
    if view.depth is not None:
        view.found += findings.of_cluster_depth(clusters, view.depth)
    stable = _stability(view, counts)
    known = as_categories(view.adata.obs[view.label]) if view.label else None
    own = {name: (clusters == name).to_numpy() for name in shown}
    columns = {
        "cluster": shown,
        "cells": [f"{counts[name]:,}" for name in shown],
        "share": [f"{counts[name] / len(clusters):.1%}" for name in shown],
    }
    if view.depth is not None:
        columns["open peaks (median)"] = [
            f"{np.median(view.depth[own[name]]):,.0f}" for name in shown
        ]
    if len(width):
        columns["silhouette"] = [
            f"{width[group == name].mean():.2f}" if (group == name).any() else "–" for name in shown
        ]
    if stable is not None:
        columns["stability"] = [
            "–" if np.isnan(stable[name]) else f"{stable[name]:.2f}" for name in shown
        ]
    section.numbers = tuple(columns)[1:]
    if known is not None:
        tops = [known[own[name]].value_counts(normalize=True) for name in shown]
        columns[f"mostly ({view.label})"] = [
            f"{top.index[0]} ({top.iloc[0]:.0%})" if len(top) and top.iloc[0] > 0 else "–"
            for top in tops
        ]
    section.table = (list(columns), [list(row) for row in zip(*columns.values(), strict=True)])
    if len(shown) < len(names):
        section.lines.append(f"The {len(shown)} largest of {len(names):,} clusters are shown.")
    if stable is None:
        section.lines.append(
            "Whether they come back when cells are left out: scale cluster --stability 20 tells."
        )
    else:
        section.lines.append(
            "Stability: the mean Jaccard index of a cluster with its nearest one where four fifths "
            ""
            ""
            "of the cells are clustered "
            "in the same way and the same latent space; 1 is the same cells, 0.75 or more is "
            "called stable (Hennig 2007)."
        )
        view.found += findings.of_stability(stable)
    section.lines += _other_ways(view, clusters)
    return section


def _stability(view: View, counts: pd.Series) -> pd.Series | None:
    """Mean Jaccard index in subsamples by cluster, where `cluster` found it for these very
    clusters.
    """
    if not keys.CLUSTER_STABILITY.found_in(view.adata):
        return None
    found = pd.DataFrame(keys.CLUSTER_STABILITY.get(view.adata))
    found.index = found.index.astype(str)
    sizes = counts[counts > 0]
    same = {"cells", "mean"} <= set(found) and found["cells"].to_dict() == sizes.to_dict()
    return found["mean"].astype(float) if same else None


def _other_ways(view: View, clusters: pd.Series) -> list[str]:
    """How far other clusterings in the file agree, as far as there are any."""
    agreed = []
    for slot, words in (
        (keys.LEIDEN, "Leiden"),
        (keys.KMEANS, "k-means"),
        (keys.GMM, "the mixture"),
        (keys.COMPONENT, "the model's components"),
    ):
        if slot.found_in(view.adata):
            other = as_categories(slot.get(view.adata))
            both = (clusters.notna() & other.notna().to_numpy()).to_numpy()
            ari = metrics.adjusted_rand_index(clusters[both].astype(str), other[both].astype(str))
            if ari < 1:
                agreed.append(f"{words} {ari:.2f}")
    if not agreed:
        return []
    return [
        (
            "Agreement of these clusters with other ways of grouping the same latent space (ARI, 1 "
            ""
            "is "
            "the same): "
        )
        + ", ".join(agreed)
        + "."
    ]


def _agreement(view: View) -> Section | None:
    if view.clusters is None:
        return None
    section = Section(
        "agreement",
        "Agreement with known labels",
        "Rows are known labels, columns clusters in the order that matches best; colour is the "
        "share of a label's cells.",
    )
    if view.label is None:
        section.missing = (
            "No column of obs holds known labels; name one with scale report --label COLUMN."
        )
        return section
    known = as_categories(view.adata.obs[view.label])
    both = known.notna().to_numpy() & view.clusters.notna().to_numpy()
    if not both.any():
        section.missing = f"No cell has both a label in {view.label} and a cluster."
        return section
    labels, clusters = (part[both].astype(str).to_numpy() for part in (known, view.clusters))
    found = metrics.agreement(labels, clusters, n_unlabelled=int((~both).sum()))
    section.lines.append(
        (
            f"ARI {found.ari:.3f}, NMI {found.nmi:.3f}, F1 {found.f1:.3f} over {found.n_cells:,} "
            "labelled cells"
        )
        + (f"; {found.n_unlabelled:,} have no label." if found.n_unlabelled else ".")
        + " ARI and NMI are 1 for equal groups; ARI is 0 and NMI near 0 for unrelated ones."
    )
    if max(found.table.shape) > 2 * MOST_LABELS:
        section.lines.append(
            f"{found.table.shape[0]:,} labels × {found.table.shape[1]:,} clusters "
            "are too many to draw."
        )
        return section
    height = int(np.clip(28 * len(found.classes) + 90, 220, 900))
    figure = figures.confusion(found, view.label, keys.CLUSTER.name)
    section.plots = [[view.add("confusion", figure, height, "cells by known label and cluster")]]
    return section


def _posterior(view: View) -> Section | None:
    if not keys.POSTERIOR.found_in(view.adata) or view.clusters is None:
        return None
    section = Section(
        "posterior",
        "How sure the model is",
        "For each cell the largest share that one component of the mixture claims: 1 is certain. "
        "Boxes hold the middle half of "
        "a cluster's cells, whiskers 5 to 95 %.",
    )
    values = np.asarray(keys.POSTERIOR.get(view.adata), float)
    view.found += findings.of_posterior(values)
    best, clusters = values.max(1), view.clusters
    top = clusters.value_counts().index[:MOST_SHOWN]
    shades = dict(
        zip(clusters.cat.categories, figures.palette(len(clusters.cat.categories)), strict=True)
    )
    names = [name for name in clusters.cat.categories if name in set(top)]
    drawn = pd.Series(pd.Categorical(clusters, categories=names))
    figure = figures.posterior(best, drawn, [shades[name] for name in names])
    section.plots = [
        [view.add("posterior", figure, 260, "largest responsibility of the cells of each cluster")]
    ]
    section.lines.append(
        f"{(best >= 0.9).mean():.0%} of the cells belong to one component with 90 % or more."
    )
    return section


def _markers(view: View) -> Section | None:
    by = compared_column(view.adata) if keys.MARKERS.found_in(view.adata) else keys.CLUSTER.name
    by = by if by in view.adata.obs else keys.CLUSTER.name
    if by not in view.adata.obs:
        return None
    clusters = as_categories(view.adata.obs[by])
    if len(clusters.cat.categories) < 2:
        return None
    section = Section("markers", "Peaks that set the clusters apart", "")
    table = marker_table(view.adata, clusters, by)
    if table is None and keys.MARKERS.found_in(view.adata):
        section.lines.append(
            f"{keys.MARKERS} belongs to other clusters than these: run scale markers again."
        )
    if table is not None and not len(table):
        section.missing = (
            "scale markers tested every peak and found none that is open more often in one cluster "
            ""
            ""
            "than in the rest."
        )
        return section
    if view.counts is None:
        section.missing = (
            "X is not in this file, so no peaks are shown; the output of scale cluster holds it."
        )
        return section
    top = set(clusters.value_counts().index[:MOST_ROWS])
    names = [name for name in clusters.cat.categories if name in top]
    cells = _sample(clusters, names)
    some = AnnData(
        sparse.csr_matrix(view.counts(cells)), var=pd.DataFrame(index=view.adata.var_names)
    )
    labels = pd.Series(pd.Categorical(clusters.iloc[cells].astype(str), categories=names))
    shares = share_of_open_cells(some.X, labels)
    if table is not None:
        best = best_peaks(table, names, view.adata.var_names, MARKERS_EACH)
        chosen, owner = np.concatenate(best), np.repeat(np.arange(len(names)), list(map(len, best)))
        words = "The best marker peaks of each cluster, as scale markers found them at equal depth."
        section.table, section.numbers = _marker_table(view.adata, table, names), ("markers",)
    else:
        keys.CLUSTER.set(some, labels.to_numpy())
        chosen, owner = _specific(get.specificity(some)[names].to_numpy(), shares)
        words = (
            "The most specific peaks of each cluster, by SCALE's score, among those open in it "
            "more often than in any other. "
            "They are shown, not tested: scale markers tests them."
        )
    if not len(chosen):
        section.missing = "No peak is open in one cluster more often than in all others."
        return section
    sampled = (
        ""
        if len(cells) == len(clusters)
        else (f" Shares are over {len(cells):,} cells, chosen at random from each cluster.")
    )
    section.meaning = (
        f"{words} Colour is the share of a cluster's cells in which the peak is open, as a part of "
        ""
        ""
        f"its highest.{sampled}"
    )
    borders = np.flatnonzero(np.diff(owner)) + 0.5
    figure = figures.markers(shares[:, chosen], names, list(view.adata.var_names[chosen]), borders)
    height = int(np.clip(22 * len(names) + (190 if len(chosen) <= 64 else 80), 240, 800))
    section.plots = [
        [view.add("markers", figure, height, "share of open cells by cluster and peak")]
    ]
    return section


def _marker_table(
    adata: AnnData, table: pd.DataFrame, names: list[str]
) -> tuple[list[str], list[list[str]]]:
    """A row a cluster: how many markers, the best, the genes nearest to the best, and enriched
    motifs, as far as known.
    """
    motifs = adata.uns.get(keys.MOTIFS.name)
    known = isinstance(motifs, pd.DataFrame) and {"cluster", "motif", "fdr", "odds_ratio"} <= set(
        motifs
    )
    with_genes = "nearest_gene" in table
    head = [
        "cluster",
        "markers",
        "best marker peak",
        *(["nearest genes"] if with_genes else []),
        *(["motifs"] if known else []),
    ]
    rows = []
    for name in names:
        own = table[table["cluster"].astype(str) == name]
        row = [name, f"{len(own):,}", str(own["peak"].iloc[0]) if len(own) else "none"]
        if with_genes:
            genes = [
                str(gene)
                for gene in dict.fromkeys(own["nearest_gene"])
                if isinstance(gene, str) and gene
            ]
            row.append(", ".join(genes[:MARKERS_EACH]) or "–")
        if known:
            there = motifs[
                (motifs["cluster"].astype(str) == name)
                & (motifs["fdr"] < 0.05)
                & (motifs["odds_ratio"] > 1)
            ]
            row.append(", ".join(map(str, there["motif"].iloc[:3])) or "–")
        rows.append(row)
    return head, rows


def _sample(clusters: pd.Series, names: list[str]) -> np.ndarray:
    """Ascending numbers of at most about 3,000 cells, as many of each cluster as there are, or
    an equal part.
    """
    rng, each = np.random.default_rng(0), max(MARKER_CELLS // len(names), 20)
    chosen = []
    for name in names:
        own = np.flatnonzero((clusters == name).to_numpy())
        chosen.append(own if len(own) <= each else rng.choice(own, each, replace=False))
    return np.sort(np.concatenate(chosen))


def _specific(scores: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best-scored peaks (peaks × clusters) of each cluster, of those with their highest
    share there, and their cluster.
    """
    chosen, owner, highest = [], [], shares.argmax(0)
    for cluster in range(scores.shape[1]):
        own = np.flatnonzero(
            (highest == cluster) & (shares[cluster] > 0) & np.isfinite(scores[:, cluster])
        )
        best = own[np.argsort(-scores[own, cluster], kind="stable")[:MARKERS_EACH]]
        chosen += best.tolist()
        owner += [cluster] * len(best)
    return np.array(chosen, np.int64), np.array(owner, np.int64)


def _imputation(view: View) -> Section:
    section = Section(
        "imputation",
        "Can the imputed values be trusted?",
        "Some open peaks were hidden, and looked for among closed peaks that are as frequent. The "
        "dotted line is chance. "
        "On the right, probabilities that can be taken at their word lie on the dotted line.",
    )
    if not keys.VALIDATION.found_in(view.adata):
        section.missing = (
            "This was not measured: scale impute --validate hides open peaks and "
            "reports how well they come back."
        )
        return section
    report = json.loads(str(keys.VALIDATION.get(view.adata)))
    view.found += findings.of_validation(report)
    section.plots = [[
        view.add("recovery", figures.recovery(report), 270, "recovery of hidden open peaks, model "
                                                            "and baselines"),
        view.add("reliability", figures.reliability(report), 270, "predicted chances against what "
                                                                  "was seen"),
    ]]  # fmt: skip
    peaks = report["peaks"]
    section.lines.append(
        f"{report['hidden']:,} open peaks were hidden ({report['share']:.0%}); the model was "
        f"{report['way']}. "
        f"{peaks['trusted']:,} of {peaks['all']:,} peaks are trusted: found again better than "
        "their frequency explains."
    )
    meta = report["metacell"]
    if meta["imputed"] is not None:
        section.lines.append(
            f"Correlation of cells with the mean of their cluster: {meta['measured']:.2f} "
            "measured, "
            f"{meta['imputed']:.2f} imputed."
        )
    between = report.get("between_cells") or {}  # reports of older versions lack it
    if between.get("auc") is not None:
        auc = between["auc"]
        section.lines.append(
            f"Between cells, {between['markers']} marker peaks of each group of "
            f"{between['column']}, "
            "picked on one half of the cells, separate the group from the rest in the other half "
            f"with a mean AUC of {auc['raw']:.3f} as measured, {auc['neighbours']:.3f} averaged "
            "over "
            f"{between['neighbours']} near cells, {auc['own']:.3f} imputed at each cell's own "
            "depth "
            f"and {auc['equal']:.3f} imputed at equal depth (0.5 is chance)."
        )
    return section


def _tiles(view: View) -> list[tuple[str, str]]:
    """The figures at the head of the page."""
    tiles = [("cells", f"{view.adata.n_obs:,}"), ("peaks", f"{view.adata.n_vars:,}")]
    if view.depth is not None:
        tiles.append(("open peaks a cell (median)", f"{np.median(view.depth):,.0f}"))
    if view.clusters is not None:
        tiles.append(("clusters", f"{len(view.clusters.cat.categories):,}"))
    if keys.BATCH.found_in(view.adata):
        tiles.append(("batches", f"{keys.BATCH.get(view.adata).nunique():,}"))
    return tiles


def _written(view: View, name: str, sections: list[Section]) -> str:
    from jinja2 import Environment, PackageLoader
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("scale_toolkit.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data = _json(view.drawn)
    receipts = [
        {
            "stage": one.stage,
            "version": one.version,
            "changed": " ".join(one.changed),
            "seconds": "–" if one.seconds is None else f"{one.seconds:,.1f} s",
            "memory": "–" if one.memory is None else f"{one.memory / 1024:,.1f} GB",
            "notes": ", ".join(
                f"{key.replace('_', ' ')} {_plain(value)}"
                for key, value in one.notes.items()
                if _is_plain(value)
            ),
            "all": json.dumps(
                {"options": one.options, "notes": one.notes, **one.rest},
                indent=1,
                ensure_ascii=False,
                sort_keys=True,
            ),
        }
        for one in runs(view.adata)
    ]
    return environment.get_template("page.html").render(
        name=name,
        tiles=_tiles(view),
        found=findings.in_order(view.found),
        sections=sections,
        columns=view.drawn.get("embedding", {}).get("columns", []),
        shown=view.drawn.get("embedding", {}).get("shown", []),
        receipts=receipts,
        version=__version__,
        nonce=blake2b(data.encode(), digest_size=16).hexdigest(),
        data=data,
        plotly=get_plotlyjs(),
    )


def _is_plain(value: Any) -> bool:
    """Whether a note fits into a table; what holds more is in the details."""
    return isinstance(value, (bool, int, float, str))


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _json(value: Any) -> str:
    """JSON that may stand in a script element: no character there can end it or begin a tag."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_listed)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _listed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON")
