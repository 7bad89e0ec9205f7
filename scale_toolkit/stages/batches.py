"""The batches of cells that `train` takes out, from columns of obs: read and checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scale_toolkit import keys
from scale_toolkit.errors import InputError, warn
from scale_toolkit.known_labels import as_integers, is_like_labels
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    import numpy.typing as npt
    from anndata import AnnData

    from scale_toolkit.config import TrainConfig
    from scale_toolkit.model.recipes import Trained

#: Cells of a batch below which its peak frequencies are hardly known.
FEW_CELLS = 10


@dataclass(frozen=True)
class Batches:
    """Groups of cells: batches, or with covariates the combinations that cells have.

    Attributes
    ----------
    columns
        Columns of obs, that of the batches first.
    names
        Label of each group in each column.
    codes
        Group of each cell, (cells,) int32.
    levels
        What each group is in each column, (groups, columns) int64.
    """

    columns: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    codes: npt.NDArray[np.int32]
    levels: npt.NDArray[np.int64]

    @property
    def titles(self) -> list[str]:
        """Name of each group: its labels, joined."""
        return [" | ".join(labels) for labels in self.names]

    def facts(self) -> dict[str, Any]:
        """Return what a model file records: plain values."""
        return {"columns": list(self.columns), "names": [list(labels) for labels in self.names]}


def batch_columns(config: TrainConfig) -> tuple[keys.Slot, ...]:
    """Return the columns of obs with the batches and covariates that `config` names."""
    if config.batch_key is None:
        return ()
    return tuple(keys.column("obs", name) for name in (config.batch_key, *config.covariates))


def read_batches(adata: AnnData, config: TrainConfig) -> Batches | None:
    """Return the batches that `config` names; None if it names none.

    Raises
    ------
    InputError
        A column is missing, lacks labels or holds measurements or a single value; most batches
        have one cell; or a covariate cannot be separated from the batches.
    """
    if config.batch_key is None:
        return None
    batch = _labels(adata, config.batch_key, "batch_key", "batch")
    _check_sizes(batch, config.batch_key)
    columns = {config.batch_key: batch}
    for name in config.covariates:
        covariate = _labels(adata, name, "covariates", "value")
        for earlier, labels in columns.items():
            _check_separable(name, covariate, earlier, labels)
        columns[name] = covariate
    return _combined(columns)


def model_batches(
    trained: Trained, facts: dict[str, Any], adata: AnnData, config: TrainConfig
) -> tuple[Trained, Batches | None]:
    """Return a model and the batches of other cells as it knows them.

    Cells of a batch that the model has not seen are encoded as those of the average batch, with a
    warning: the model gets a group without effects for them.

    Parameters
    ----------
    trained, facts
        The model and the facts in its file.
    adata
        The cells.
    config
        ``batch_key`` and ``covariates`` name the columns; left out, they are those of the training.
    """
    recorded = facts.get("batches")
    if trained.effects is None or recorded is None:
        if config.batch_key is not None:
            warn(f"the model knows no batches: `batch_key` {config.batch_key!r} has no effect")
        return trained, None
    columns = recorded["columns"]
    if config.batch_key is not None:
        columns = [config.batch_key, *config.covariates]
    missing = [name for name in columns if name not in adata.obs]
    if missing or len(columns) != len(recorded["columns"]):
        if config.batch_key is not None:
            raise InputError(
                f"obs has no column {missing[0]!r} (batch_key, covariates)"
                if missing
                else f"{len(columns)} columns of batches and covariates are given",
                f"columns for those of the model: {', '.join(recorded['columns'])}",
                "name them in the model's order",
            )
        warn(
            f"obs has no column {missing[0]!r}, which the model was trained with: all cells are "
            "encoded as those of the average batch; name the column with `batch_key`"
        )
        return trained, None
    numbers = {tuple(labels): code for code, labels in enumerate(recorded["names"])}
    tables = [_strings(adata.obs[name]) for name in columns]
    labels_of_cells = list(zip(*tables, strict=True))
    unknown = len(numbers)
    codes = np.array([numbers.get(labels, unknown) for labels in labels_of_cells], np.int32)
    is_unknown = codes == unknown
    if is_unknown.any():
        names = sorted(
            {" | ".join(map(str, labels_of_cells[i])) for i in np.flatnonzero(is_unknown)}
        )
        warn(
            f"{is_unknown.sum():,} of {len(codes):,} cells are of batches that the model has not "
            f"seen ({first_names(names, 3)}): they are encoded as those of the average batch"
        )
        effects = trained.effects
        n_peaks = effects.factors.shape[1]
        effects = replace(
            effects,
            factors=np.vstack([effects.factors, np.ones((1, n_peaks), np.float32)]),
            logits=np.vstack([effects.logits, np.zeros((1, n_peaks), np.float32)]),
        )
        trained = replace(trained, effects=effects)
        recorded = {**recorded, "names": [*recorded["names"], ["(average)"] * len(columns)]}
    levels = np.zeros((0, len(columns)), np.int64)
    return trained, Batches(tuple(columns), tuple(map(tuple, recorded["names"])), codes, levels)


def _labels(adata: AnnData, column: str, keyword: str, noun: str) -> pd.Series:
    """Return a checked column as a category of strings."""
    if column not in adata.obs:
        raise InputError(
            f"obs has no column {column!r} ({keyword})",
            f"one of {first_names(adata.obs.columns, 8)}"
            if len(adata.obs.columns)
            else "a column, and obs has none",
            "add it with `scale prepare --metadata`",
        )
    labels = _strings(adata.obs[column])
    n_missing = int(labels.isna().sum())
    if n_missing:
        raise InputError(
            f"{n_missing:,} of {adata.n_obs:,} cells have no value in obs[{column!r}] ({keyword})",
            f"a {noun} for every cell",
            "fill in the values, or drop these cells",
        )
    if not is_like_labels(adata.obs[column]):
        raise InputError(
            f"obs[{column!r}] has {labels.nunique():,} distinct values ({keyword})",
            "names of groups of cells, not measurements or barcodes",
            "name another column, or cut the values into classes",
        )
    if labels.nunique() < 2:
        raise InputError(
            f"obs[{column!r}] holds one {noun} ({labels.iloc[0]!r}) ({keyword})",
            "two or more",
            f"drop `{keyword}`",
        )
    return labels.astype("category")


def _strings(values: pd.Series) -> pd.Series:
    """Return labels as strings; NaN for missing or blank ones."""
    if is_like_labels(values):
        values = as_integers(values)
    is_missing = values.isna().to_numpy()
    strings = values.astype(str).astype(object)
    is_missing |= (strings.str.strip() == "").to_numpy()
    return strings.mask(is_missing, np.nan)


def _check_sizes(batch: pd.Series, column: str) -> None:
    sizes = batch.value_counts()
    if sizes.median() < 2:
        raise InputError(
            f"obs[{column!r}] has {len(sizes):,} batches for {len(batch):,} cells (batch_key)",
            "several cells in a batch",
            "name the column of the samples, not of the barcodes",
        )
    small = [str(name) for name in sizes.index[sizes < FEW_CELLS]]
    if small:
        warn(
            f"{len(small)} of {len(sizes)} batches have fewer than {FEW_CELLS} cells "
            f"({first_names(small, 3)}): their peak frequencies are hardly known, and little is "
            "taken out of them; drop these cells or join them with another batch"
        )


def _check_separable(column: str, covariate: pd.Series, earlier: str, labels: pd.Series) -> None:
    """Raise unless the values of two columns are connected by cells, so that both have an effect
    of their own.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if column == earlier:
        raise InputError(
            f"{column!r} is given twice as a batch or a covariate",
            "columns of their own",
            "drop it from `covariates`",
        )
    first, second = covariate.cat.codes.to_numpy(), labels.cat.codes.to_numpy()
    n_first, n_second = len(covariate.cat.categories), len(labels.cat.categories)
    size = n_first + n_second
    graph = coo_matrix((np.ones(len(first)), (first, n_first + second)), (size, size))
    if connected_components(graph, directed=False)[0] > 1:
        raise InputError(
            f"obs[{column!r}] is confounded with obs[{earlier!r}]: some values of one occur with "
            "certain values of the other only",
            "a covariate that varies within the batches",
            f"drop {column!r} from `covariates`: {earlier!r} takes out both",
        )


def _combined(columns: dict[str, pd.Series]) -> Batches:
    """Return the groups of cells with the same labels in all columns."""
    table = np.column_stack([labels.cat.codes.to_numpy() for labels in columns.values()])
    levels, codes = np.unique(table.astype(np.int64), axis=0, return_inverse=True)
    names = [
        tuple(
            str(labels.cat.categories[level])
            for labels, level in zip(columns.values(), group, strict=True)
        )
        for group in levels
    ]
    return Batches(tuple(columns), tuple(names), codes.ravel().astype(np.int32), levels)
