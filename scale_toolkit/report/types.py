"""The section about named cell types."""

from __future__ import annotations

from scale_toolkit import keys
from scale_toolkit.report.view import MOST_SHOWN, Section, View


def types(view: View) -> Section | None:
    """Show the type of each cluster; None if `annotate` was not run."""
    if not keys.ANNOTATION.found_in(view.adata):
        return None
    section = Section(
        "types",
        "Cell types",
        "The log2 fold says how much more of a cluster's open peaks are markers of the type than "
        "in all cells; the margin is its lead over the second type. A cluster that no type "
        "explains, or two explain alike, is unclear.",
    )
    table = keys.ANNOTATION.get(view.adata)
    rows = [
        [
            str(row.cluster),
            f"{row.n_cells:,}",
            str(row.type),
            str(row.best),
            str(row.second),
            f"{row.log2_fold:.2f}",
            f"{row.margin:.2f}",
            f"{row.t:.1f}",
        ]
        for row in table.head(MOST_SHOWN).itertuples()
    ]
    columns = ["cluster", "cells", "type", "best", "second", "log2 fold", "margin", "t"]
    section.table = (columns, rows)
    section.numbers = ("cells", "log2 fold", "margin", "t")
    return section
