"""Columns of obs with known labels of the cells, such as cell types: which are looked for, and
which are usable.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Where SCALE's and scanpy's users keep known labels, the first choice first.
LABELS = ("cell_type", "celltype", "label")
#: The same in words, for help and messages.
LABELS_IN_WORDS = f"{', '.join(LABELS[:-1])} or {LABELS[-1]}"
#: A legend or table cannot show more different labels than this.
MOST_LABELS = 100
#: A column with more distinct values than this holds names or measurements, not labels.
MOST_CLASSES = 1_000


def is_like_labels(values: pd.Series) -> bool:
    """Whether a column can hold labels: few distinct values, and no fractions."""
    if values.nunique() > MOST_CLASSES:
        return False
    return values.dtype.kind != "f" or bool((values.dropna() % 1 == 0).all())


def as_integers(values: pd.Series) -> pd.Series:
    """Return labels that are floats only because some are missing as integers: "1", not "1.0"."""
    return values.astype("Int64") if values.dtype.kind == "f" else values


def label_columns(adata: AnnData, first: Iterable[Any] = ()) -> list[str]:
    """Return those of the columns `first` and `LABELS` that hold 2 to `MOST_LABELS` labels."""
    return [
        column
        for column in (*map(str, first), *LABELS)
        if column in adata.obs and 1 < adata.obs[column].nunique() <= MOST_LABELS
    ]
