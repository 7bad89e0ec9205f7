"""The page: its sections in order, and the text around them."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

import numpy as np
from anndata import AnnData

from scale_toolkit import __version__, keys
from scale_toolkit.errors import InputError, MissingSlotError
from scale_toolkit.known_labels import label_columns
from scale_toolkit.plot.confusion import column_of_labels, is_clustering_itself
from scale_toolkit.report import findings
from scale_toolkit.report.cells import cells_drawn
from scale_toolkit.report.clusters import agreement, clusters, posterior
from scale_toolkit.report.contrast import contrast
from scale_toolkit.report.doublets import doublets
from scale_toolkit.report.imputation import imputation
from scale_toolkit.report.mapping import mapping
from scale_toolkit.report.markers import markers
from scale_toolkit.report.quality import kept, training
from scale_toolkit.report.receipts import last, runs
from scale_toolkit.report.types import types
from scale_toolkit.report.view import Counts, Section, View

#: on disk.
NEEDED = tuple(
    slot.path
    for slot in (
        keys.LATENT, keys.UMAP, keys.TSNE, keys.POSTERIOR, keys.RECEIPTS, keys.RUNTIME,
        keys.HISTORY, keys.QC, keys.VALIDATION, keys.MARKERS, keys.MOTIFS, keys.CLUSTER_STABILITY,
        keys.DOUBLETS, keys.ANNOTATION, keys.MAPPING, keys.CONTRAST, keys.CONTRAST_CLUSTERS,
    )
)  # fmt: skip

#: Slots any of which says that SCALE has worked on the file.
OURS = (keys.RECEIPTS, keys.N_PEAKS, keys.LATENT, keys.CLUSTER, keys.UMAP, keys.TSNE)


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
        obs has no column `label`.
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
        kept(view),
        training(view),
        cells_drawn(view),
        clusters(view),
        doublets(view),
        mapping(view),
        agreement(view),
        posterior(view),
        markers(view),
        contrast(view),
        types(view),
    ]
    sections += [imputation(view)]
    return _written(view, name, [section for section in sections if section is not None])


def _label(adata: AnnData, label: str | None) -> str | None:
    """Return the column of known labels; clusters are never compared with themselves."""
    if label is not None:
        if label not in adata.obs:
            raise InputError(
                f"obs has no column {label!r}", "one of " + ", ".join(map(str, adata.obs.columns))
            )
        return column_of_labels(adata, label)
    compared = last(adata, "cluster")
    reference = (
        [keys.CLUSTER_REPORT.get(adata).get("reference")]
        if compared and keys.CLUSTER_REPORT.found_in(adata)
        else []
    )
    usable = label_columns(adata, reference)
    return next((column for column in usable if not is_clustering_itself(adata, column)), None)


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
            "stage": run.stage,
            "version": run.version,
            "changed": " ".join(run.changed),
            "seconds": "–" if run.seconds is None else f"{run.seconds:,.1f} s",
            "memory": "–" if run.memory is None else f"{run.memory / 1024:,.1f} GB",
            "notes": ", ".join(
                f"{key.replace('_', ' ')} {_plain(value)}"
                for key, value in run.notes.items()
                if _is_plain(value)
            ),
            "all": json.dumps(
                {"options": run.options, "notes": run.notes, **run.provenance},
                indent=1,
                ensure_ascii=False,
                sort_keys=True,
            ),
        }
        for run in runs(view.adata)
    ]
    return environment.get_template("page.html").render(
        name=name,
        tiles=_tiles(view),
        findings=findings.in_order(view.findings),
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
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON")
