"""Summary at the end of a command: scores against known labels, the matched confusion table, and
the files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scale_toolkit import keys
from scale_toolkit.receipt_reader import last

if TYPE_CHECKING:
    from anndata import AnnData
    from rich.table import Table

    from scale_toolkit.core.metrics import Agreement
    from scale_toolkit.stages.verify import Verdict

Shown = tuple[Any, dict[str, Any]]
"""A rich renderable, and the same as plain values for ``--json-logs``."""


def scores(adata: AnnData, reference: str) -> Shown:
    """Show how well the clusters agree with the labels of `reference`: figures and the matched
    confusion table.
    """
    from rich.console import Group

    agreement = _agreement(adata)
    return Group(_figures(agreement, reference), _confusion(agreement, reference)), _facts(
        agreement, reference
    )


class Dropped(NamedTuple):
    """The cells that the filters of `prepare` left out, as a share of all and as a sentence."""

    share: float
    text: str


def dropped_cells(adata: AnnData) -> Dropped | None:
    """Return how many cells the last `prepare` dropped, or None if the file does not say."""
    notes = last(adata, "prepare").get("notes", {})
    n_read, n_kept = notes.get("cells_before"), notes.get("cells")
    if not n_read or n_kept is None:
        return None
    limit = ""
    if keys.QC.found_in(adata):
        limit = f" with fewer than {float(keys.QC.get(adata)['cell_least']):,.0f} open peaks"
    share = 1 - n_kept / n_read
    dropped = f"{n_read - n_kept:,} of {n_read:,} cells ({share:.0%}) were dropped{limit}"
    return Dropped(share, f"{dropped}; --min-peaks sets the limit")


def results(
    adata: AnnData,
    folder: Path,
    figure: Path | None,
    page: Path | None,
    reference: str | None,
    *,
    imputed: bool,
) -> Shown:
    """Show the results of an analysis: size, clusters, scores if labels are known, files, and the
    next command.
    """
    from rich.table import Table

    output = folder / "adata.h5ad"
    table = Table.grid(padding=(0, 2))
    table.add_row("cells × peaks", f"{adata.n_obs:,} × {adata.n_vars:,}")
    facts: dict[str, Any] = {"cells": adata.n_obs, "peaks": adata.n_vars}
    if keys.CLUSTER.found_in(adata):
        facts["clusters"] = len(keys.CLUSTER.get(adata).cat.categories)
        table.add_row("clusters", str(facts["clusters"]))
        if reference:
            table.add_row("agreement", _figures(_agreement(adata), reference))
            facts |= _facts(_agreement(adata), reference)
    if keys.MARKERS.found_in(adata):
        facts["markers"] = len(keys.MARKERS.get(adata))
        table.add_row("marker peaks", f"{facts['markers']:,}")
    following = f"scale plot heatmap {output} -o {folder / 'heatmap.pdf'}"
    if not imputed:
        following = f"scale impute {output} --validate -o {folder / 'imputed.h5ad'}"
    for name, path in (("results", output), ("figure", figure), ("report", page)):
        if path is not None:
            table.add_row(name, str(path))
            facts[name] = str(path)
    return table, facts | {"next": following}


def verdict(found: Verdict) -> Shown:
    """Show the outcome of `verify`: the replayed stages, and every slot that differs."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_row("run again", ", ".join(found.replayed) or "nothing")
    for stage, reason in found.skipped.items():
        table.add_row("not run", f"{stage}: {reason}")
    for stage, version in found.changed.items():
        table.add_row("not run", f"{stage}: its algorithm has changed since version {version}")
    kinds = [kind for kind, _ in found.slots.values()]
    table.add_row(
        "slots", ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    )
    for slot, (kind, gap) in found.slots.items():
        if kind in ("close", "different", "not made again"):
            table.add_row("", f"{slot} {kind}" + (f" (by {gap:.2g})" if gap == gap else ""))
    for difference in found.elsewhere:
        table.add_row("made with", difference)
    facts = {
        "reproduced": found.reproduced,
        "close": found.close,
        "replayed": found.replayed,
        "skipped": found.skipped,
        "changed": found.changed,
        "departs": found.departs,
        "slots": {
            slot: {"verdict": kind, "difference": gap if gap == gap else None}
            for slot, (kind, gap) in found.slots.items()
        },
        "elsewhere": found.elsewhere,
    }
    return table, facts


def validation(adata: AnnData) -> Shown:
    """Show the outcome of `impute --validate`: recovery beside the baselines, calibration, trusted
    peaks.
    """
    import json

    from rich.console import Group
    from rich.table import Table

    report = json.loads(keys.VALIDATION.get(adata))
    table = Table(
        "AUPRC / AUROC",
        "same frequency",
        "any peak",
        title="hidden open peaks among closed ones",
        title_justify="left",
    )
    names = {
        "model": "model",
        "frequency": "peak frequency",
        "neighbours": "near cells",
        "tfidf_svd": "TF-IDF+SVD",
    }
    for method, name in names.items():
        table.add_row(
            name, *(_pair(report[matching][method]) for matching in ("matched", "unmatched"))
        )
    table.add_row("chance", *[_pair(report["chance"])] * 2)
    calibration, peaks, meta = report["calibration"], report["peaks"], report["metacell"]
    lines = [
        f"{report['hidden']:,} of the open peaks were hidden ({report['share']:.1%}); the "
        f"model is {report['way']}"
    ]
    lines.append(
        f"calibration: slope {calibration['slope']:.2f}, seen over predicted "
        f"{min(calibration['ratio']):.2f} "
        f"to {max(calibration['ratio']):.2f} "
        f"in {len(calibration['ratio'])} bins of equal mass"
    )
    if meta["imputed"] is not None:
        lines.append(
            f"correlation with the meta-cell of the cluster: {meta['measured']:.2f} measured, "
            f"{meta['imputed']:.2f} imputed"
        )
    between = report["between_cells"]
    if between["auc"] is not None:
        auc = between["auc"]
        lines.append(
            f"between cells, AUC of marker peaks by {between['column']}: {auc['raw']:.3f} "
            "measured, "
            f"{auc['neighbours']:.3f} near cells, {auc['own']:.3f} imputed at own depth, "
            f"{auc['equal']:.3f} at equal depth"
        )
    lines.append(f"trusted: {peaks['trusted']:,} of {peaks['all']:,} peaks")
    reported = ("way", "hidden", "matched", "unmatched", "calibration", "metacell", "between_cells")
    facts = {name: report[name] for name in reported}
    return Group(table, *lines), facts | {"trusted": peaks["trusted"]}


def _pair(figures: dict[str, Any]) -> str:
    return "–" if figures["auprc"] is None else f"{figures['auprc']:.3f} / {figures['auroc']:.3f}"


def _agreement(adata: AnnData) -> Agreement:
    from scale_toolkit.core.metrics import Agreement

    return Agreement.from_dict(keys.CLUSTER_REPORT.get(adata))


def _figures(found: Agreement, reference: str) -> str:
    figures = (
        f"ARI {found.ari:.3f}  NMI {found.nmi:.3f}  F1 {found.f1:.3f}  with {reference!r} "
        f"({found.n_cells:,} cells"
    )
    return figures + (
        f", {found.n_unlabelled:,} more have no label)" if found.n_unlabelled else ")"
    )


def _facts(found: Agreement, reference: str) -> dict[str, Any]:
    return {
        "reference": reference, "ari": found.ari, "nmi": found.nmi, "f1": found.f1,
        "confusion": found.table.tolist(),
        "classes": list(found.classes), "cluster_names": list(found.clusters),
    }  # fmt: skip


def _confusion(found: Agreement, reference: str) -> Table:
    from rich.table import Table

    table = Table(
        reference,
        *found.clusters,
        title="cells by label and cluster, matched",
        title_justify="left",
    )
    for name, counts in zip(found.classes, found.table):
        table.add_row(name, *map(str, counts))
    return table
