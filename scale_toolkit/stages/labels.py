"""Columns of obs that hold labels: clusters, cell types."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from scale_toolkit import keys
from scale_toolkit.errors import InputError, MissingSlotError
from scale_toolkit.known_labels import MOST_CLASSES, as_integers, is_like_labels
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    from anndata import AnnData


def check_column(adata: AnnData, column: str, keyword: str) -> None:
    """Raise `InputError` if obs lacks the column of groups that the option `keyword` names."""
    if column not in adata.obs:
        raise InputError(
            f"obs has no column {column!r} ({keyword})",
            f"one of {first_names(adata.obs.columns, 8)}",
            "`scale cluster` writes scale_cluster",
        )


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
            f"clusters, at most {MOST_CLASSES:,} different ones, not measurements",
            f"name another column with `{keyword}`",
        )
    values = as_integers(values)
    if not isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype("category")
    categories = values.cat.categories.astype(str)
    return pd.Series(pd.Categorical.from_codes(values.cat.codes, categories), index=adata.obs_names)
