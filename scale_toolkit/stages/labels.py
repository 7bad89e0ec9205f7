"""Columns of obs that hold labels: clusters, cell types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scale_toolkit import keys
from scale_toolkit.errors import InputError, MissingSlotError
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    from anndata import AnnData

#: A column with more distinct values than this does not hold labels.
MOST_LABELS = 1_000


def is_like_labels(values: pd.Series) -> bool:
    """Whether a column can hold labels: few distinct values, and no fractions."""
    if values.nunique() > MOST_LABELS:
        return False
    return values.dtype.kind != "f" or bool((values.dropna() % 1 == 0).all())


def clusters_of(adata: AnnData, column: str, keyword: str) -> pd.Series:
    """Return a column of clusters as a category of strings, missing for cells without one.

    Parameters
    ----------
    adata
        The cells.
    column
        Column of obs.
    keyword
        The option that names it, for messages.

    Raises
    ------
    MissingSlotError
        obs has no such column.
    InputError
        The column holds measurements.
    """
    if column not in adata.obs:
        if column == keys.CLUSTER.name:
            # its error names the stage that writes the column
            keys.CLUSTER.get(adata)
        raise MissingSlotError(
            f"obs has no column {column!r}",
            f"one of {first_names(adata.obs.columns, 12)}"
            if len(adata.obs.columns)
            else "a column, and obs has none",
            f"name the column of the clusters with `{keyword}`",
        )
    values = adata.obs[column]
    if not is_like_labels(values):
        raise InputError(
            f"obs[{column!r}] has {values.nunique():,} distinct values ({values.dtype})",
            f"clusters, at most {MOST_LABELS:,} different ones, not measurements",
            f"name another column with `{keyword}`",
        )
    if values.dtype.kind == "f":
        # integers, stored as floats only because some are missing: "1", not "1.0"
        values = values.astype("Int64")
    if not isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype("category")
    categories = values.cat.categories.astype(str)
    return pd.Series(pd.Categorical.from_codes(values.cat.codes, categories), index=adata.obs_names)
