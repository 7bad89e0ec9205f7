"""The section of what `impute --validate` measured."""

from __future__ import annotations

import json

from scale_toolkit import keys
from scale_toolkit.report import findings, imputation_figures
from scale_toolkit.report.view import Section, View


def imputation(view: View) -> Section:
    """Show how well hidden open peaks are recovered."""
    section = Section(
        "imputation",
        "Can the imputed values be trusted?",
        "Some open peaks were hidden, and ranked among closed peaks that are as frequent. The "
        "dotted line is chance. On the right, calibrated probabilities lie on the dotted line.",
    )
    if not keys.VALIDATION.found_in(view.adata):
        section.missing = (
            "This was not measured: scale impute --validate hides open peaks and "
            "reports how well they come back."
        )
        return section
    report = json.loads(str(keys.VALIDATION.get(view.adata)))
    view.findings += findings.of_validation(report)
    section.plots = [
        [
            view.add(
                "recovery",
                imputation_figures.recovery(report),
                270,
                "recovery of hidden open peaks, model and baselines",
            ),
            view.add(
                "reliability",
                imputation_figures.reliability(report),
                270,
                "predicted chances against what was seen",
            ),
        ]
    ]
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
    # reports of older versions lack it
    between = report.get("between_cells") or {}
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
