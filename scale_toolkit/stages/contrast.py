"""The part of ``markers`` that compares two conditions within each cluster."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import false_discovery_control

from scale_toolkit import keys
from scale_toolkit.core import differential
from scale_toolkit.core.contrasts import compare_samples, count_samples
from scale_toolkit.errors import InputError, NothingLeftError, warn
from scale_toolkit.receipt_reader import last
from scale_toolkit.stages.counts import open_peaks, over_all
from scale_toolkit.stages.labels import clusters_of
from scale_toolkit.stages.marker_tables import nearest_genes
from scale_toolkit.stages.stage import Result
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.config import MarkersConfig
    from scale_toolkit.stages.stage import Progress

log = logging.getLogger("scale_toolkit")

#: Cells of a sample in a cluster below which it is left out there: its share of open cells is
#: hardly known, and it would add a degree of freedom like any other.
FEW_CELLS = 10
#: What is compared in a cluster.
SAMPLES, CELLS, NOTHING = "samples", "cells", "nothing"
#: Columns of the table that are figures of a peak.
_FIGURES = (
    "score",
    "p_value",
    "fdr",
    "odds_ratio",
    "log2_fold_change",
    "share_first",
    "share_second",
)


@dataclass(frozen=True)
class Conditions:
    """The two conditions of a contrast, and the samples of their cells.

    Attributes
    ----------
    column, first, second
        Column of obs, and its two values.
    side
        1 for a cell of the first condition, 0 for one of the second, −1 for all others, (cells,)
        int64.
    sample
        Sample of each cell, (cells,) int64; −1 for cells that are not compared. None without
        samples.
    in_first
        Whether each sample is of the first condition, (samples,) bool; empty without samples.
    """

    column: str
    first: str
    second: str
    side: np.ndarray
    sample: np.ndarray | None
    in_first: np.ndarray


@dataclass(frozen=True)
class _Compared:
    """One cluster: what was compared, and the figures of its tested peaks."""

    unit: str
    n_cells: tuple[int, int]
    n_samples: tuple[int, int]
    tested: np.ndarray
    figures: dict[str, np.ndarray]
    sample_sd: float = np.nan
    prior_df: float = np.nan


def contrast_columns(config: MarkersConfig) -> tuple[keys.Slot, ...]:
    """Return the columns of obs that a contrast reads besides the clusters."""
    names = [*config.contrast[:1], *([config.sample_key] if config.sample_key else [])]
    return tuple(keys.column("obs", name) for name in names)


def read_conditions(adata: AnnData, config: MarkersConfig) -> Conditions:
    """Return the conditions that `config` names.

    Raises
    ------
    MissingSlotError
        A column is missing.
    InputError
        A column holds measurements, a value does not occur, no cell has a sample, or a sample
        belongs to both conditions.
    """
    column, first, second = config.contrast
    values = clusters_of(adata, column, "contrast")
    names = [str(name) for name in values.cat.remove_unused_categories().cat.categories]
    for name in (first, second):
        if name not in names:
            raise InputError(
                f"no cell has {name!r} in obs[{column!r}] (contrast)",
                f"two of {first_names(names, 12)}",
            )
    side = np.full(adata.n_obs, -1, np.int64)
    side[(values == first).to_numpy()] = 1
    side[(values == second).to_numpy()] = 0
    if config.sample_key is None:
        return Conditions(column, first, second, side, None, np.empty(0, bool))
    samples = clusters_of(adata, config.sample_key, "sample_key")
    unlabelled = (side >= 0) & samples.isna().to_numpy()
    n_cells = int((side >= 0).sum())
    if unlabelled.sum() == n_cells:
        raise InputError(
            f"obs[{config.sample_key!r}] is empty for all {n_cells:,} cells of {first!r} and "
            f"{second!r}",
            "the sample of each cell",
            "name another column with `sample_key`, or leave it out",
        )
    if unlabelled.any():
        warn(
            f"{unlabelled.sum():,} of {n_cells:,} cells of {first!r} and {second!r} have no sample "
            f"in obs[{config.sample_key!r}] and are left out"
        )
    side[unlabelled] = -1
    samples = samples.where(side >= 0).cat.remove_unused_categories()
    codes = samples.cat.codes.to_numpy(np.int64)
    n_samples = len(samples.cat.categories)
    by_side = [np.bincount(codes[side == k], minlength=n_samples) for k in (0, 1)]
    mixed = np.flatnonzero((by_side[0] > 0) & (by_side[1] > 0))
    if len(mixed):
        raise InputError(
            f"{len(mixed)} of {n_samples} samples of obs[{config.sample_key!r}] have cells of "
            f"{first!r} and of {second!r} ({first_names(samples.cat.categories[mixed], 3)})",
            "samples of one condition each",
            "if donors were sampled in both, name a column that joins donor and condition",
        )
    return Conditions(column, first, second, side, codes, by_side[1] > 0)


def contrast(
    adata: AnnData,
    config: MarkersConfig,
    *,
    progress: Progress | None = None,
    genes: pd.DataFrame | None = None,
) -> Result:
    """Compare two conditions within each cluster.

    See `markers` for options, slots and errors.
    """
    conditions = read_conditions(adata, config)
    labels = clusters_of(adata, config.cluster_by, "cluster_by")
    _warn_of_batches(adata, conditions, config)
    nearest = None if genes is None else nearest_genes(adata.var_names, genes)
    is_open = open_peaks(adata)
    is_used = (conditions.side >= 0) & labels.notna().to_numpy() & (np.diff(is_open.indptr) > 0)
    names = [str(name) for name in labels[is_used].cat.remove_unused_categories().cat.categories]
    compared = []
    for k, name in enumerate(names):
        cells = np.flatnonzero(is_used & (labels == name).to_numpy())
        compared.append(_compare(is_open, cells, conditions, config))
        if progress is not None:
            progress("comparing conditions", k + 1, len(names))
    _check_and_warn(names, compared, conditions, config)
    table, positions = _table(adata.var_names, names, compared, conditions, config)
    clusters = _clusters(names, compared, table, conditions)

    def over_peaks(name: str, dtype: type[np.floating[Any]]) -> np.ndarray:
        return np.column_stack(
            [
                over_all(item.figures[name].astype(dtype), item.tested, adata.n_vars, np.nan)
                for item in compared
            ]
        )

    slots: dict[keys.Slot, Any] = {
        keys.CONTRAST: table,
        keys.CONTRAST_CLUSTERS: clusters,
        keys.CONTRAST_SCORE: over_peaks("score", np.float32),
        # float64: the smallest float32 is 10⁻³⁸
        keys.CONTRAST_FDR: over_peaks("fdr", np.float64),
        keys.CONTRAST_LOG_ODDS: over_peaks("log2_odds", np.float32),
    }
    if nearest is not None:
        for slot in (keys.NEAREST_GENE, keys.TSS_DISTANCE):
            slots[slot] = nearest[slot.name].to_numpy()
            table[slot.name] = nearest[slot.name].to_numpy()[positions]
    units = [item.unit for item in compared]
    facts: dict[str, Any] = {
        "n_cells": int(sum(sum(item.n_cells) for item in compared)),
        "n_differences": len(table),
        "clusters_by_unit": {
            unit: units.count(unit) for unit in (SAMPLES, CELLS, NOTHING) if unit in units
        },
        "clusters": {
            name: {
                "unit": item.unit,
                "cells": list(item.n_cells),
                "samples": list(item.n_samples),
                "tested": len(item.tested),
            }
            for name, item in zip(names, compared, strict=True)
        },
    }
    if genes is not None:
        facts["with"] = ["genes"]
    log.info(
        "%d peaks differ between %s and %s in %d clusters (FDR at most %g, odds ratio at least %g)",
        len(table),
        conditions.first,
        conditions.second,
        len(names),
        config.max_fdr,
        config.min_odds_ratio,
    )
    return Result(slots, facts=facts)


def _compare(
    is_open: sparse.csr_matrix, cells: np.ndarray, conditions: Conditions, config: MarkersConfig
) -> _Compared:
    """Compare the two conditions among the cells of one cluster."""
    side = conditions.side[cells]
    n_cells = (int((side == 1).sum()), int((side == 0).sum()))
    samples, in_first = None, np.empty(0, bool)
    if conditions.sample is not None:
        sizes = np.bincount(conditions.sample[cells], minlength=len(conditions.in_first))
        large = np.flatnonzero(sizes >= FEW_CELLS)
        in_first = conditions.in_first[large]
        if min(in_first.sum(), (~in_first).sum()) >= 2:
            number = np.full(len(sizes), -1)
            number[large] = np.arange(len(large))
            samples = number[conditions.sample[cells]]
            cells, side, samples = (values[samples >= 0] for values in (cells, side, samples))
            n_cells = (int((side == 1).sum()), int((side == 0).sum()))
    n_samples = (int(in_first.sum()), int((~in_first).sum()))
    if min(n_cells) == 0:
        none = np.empty(0)
        figures = dict.fromkeys((*_FIGURES, "log2_odds"), none)
        return _Compared(NOTHING, n_cells, n_samples, np.empty(0, np.int64), figures)
    rows = is_open[cells]
    bins = differential.depth_bins(np.diff(rows.indptr))
    counts = differential.count(rows, side, 2, bins)
    tested = np.flatnonzero(counts.open_cells.sum(axis=1) >= config.min_cells)
    open_second, open_first = counts.open_cells[tested].T
    sample_sd, prior_df = np.nan, np.nan
    if samples is None:
        tested_counts = differential.Counts(counts.open_cells[tested], counts.weighted[tested])
        difference = differential.compare(tested_counts, side, bins, n_threads=config.n_threads)
        score, p_value = difference.score[:, 1], difference.p_value[:, 1]
        odds_ratio = difference.odds_ratio[:, 1]
    else:
        by_sample = count_samples(rows, samples, len(in_first), bins).of_peaks(tested)
        result = compare_samples(by_sample, in_first, bins, n_threads=config.n_threads)
        score, p_value, odds_ratio = result.score, result.p_value, result.odds_ratio
        sample_sd, prior_df = result.sample_sd, result.prior_df
    figures = {
        "score": score,
        "p_value": p_value,
        "fdr": false_discovery_control(p_value) if len(p_value) else p_value,
        "odds_ratio": odds_ratio,
        "log2_odds": np.log2(odds_ratio),
        # half an open cell in one more: finite also for peaks open in none
        "log2_fold_change": np.log2((open_first + 0.5) / (n_cells[0] + 1))
        - np.log2((open_second + 0.5) / (n_cells[1] + 1)),
        "share_first": open_first / n_cells[0],
        "share_second": open_second / n_cells[1],
    }
    unit = CELLS if samples is None else SAMPLES
    return _Compared(unit, n_cells, n_samples, tested, figures, sample_sd, prior_df)


def _table(
    peaks: pd.Index,
    names: list[str],
    compared: list[_Compared],
    conditions: Conditions,
    config: MarkersConfig,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the peaks that differ, cluster by cluster, the smallest p first; and their positions.

    A peak differs by the limits of a marker, in either direction.
    """
    tables, positions = [], []
    for k, item in enumerate(compared):
        values = item.figures
        differs = values["fdr"] <= config.max_fdr
        differs &= np.abs(values["log2_odds"]) >= np.log2(config.min_odds_ratio)
        differs &= np.maximum(values["share_first"], values["share_second"]) >= config.min_share
        chosen = np.flatnonzero(differs & (values["score"] != 0))
        chosen = chosen[np.lexsort((-np.abs(values["score"][chosen]), values["p_value"][chosen]))]
        positions.append(item.tested[chosen])
        columns = {
            "cluster": np.full(len(chosen), k),
            "peak": peaks[positions[-1]].to_numpy(dtype=object),
            "higher_in": (values["score"][chosen] < 0).astype(np.int64),
            "unit": np.full(len(chosen), (SAMPLES, CELLS, NOTHING).index(item.unit)),
        }
        tables.append(pd.DataFrame(columns | {name: values[name][chosen] for name in _FIGURES}))
    table = pd.concat(tables, ignore_index=True)
    for name, categories in (
        ("cluster", names),
        ("higher_in", [conditions.first, conditions.second]),
        ("unit", [SAMPLES, CELLS, NOTHING]),
    ):
        table[name] = pd.Categorical.from_codes(table[name].to_numpy(np.int64), categories)
    table["unit"] = table["unit"].cat.remove_unused_categories()
    return table.set_index(pd.RangeIndex(len(table)).astype(str)), np.concatenate(positions)


def _clusters(
    names: list[str], compared: list[_Compared], table: pd.DataFrame, conditions: Conditions
) -> pd.DataFrame:
    """Return a row a cluster: what was compared, and how many peaks differ."""
    is_first = (table["higher_in"] == conditions.first).to_numpy()
    cluster = table["cluster"].cat.codes.to_numpy()
    n_first = np.bincount(cluster[is_first], minlength=len(names))
    n_second = np.bincount(cluster[~is_first], minlength=len(names))
    return pd.DataFrame(
        {
            "cluster": names,
            "first": conditions.first,
            "second": conditions.second,
            "unit": [item.unit for item in compared],
            "cells_first": [item.n_cells[0] for item in compared],
            "cells_second": [item.n_cells[1] for item in compared],
            "samples_first": [item.n_samples[0] for item in compared],
            "samples_second": [item.n_samples[1] for item in compared],
            "n_tested": [len(item.tested) for item in compared],
            "higher_in_first": n_first,
            "higher_in_second": n_second,
            "sample_sd": [item.sample_sd for item in compared],
            "prior_df": [item.prior_df for item in compared],
        },
        index=pd.RangeIndex(len(names)).astype(str),
    )


def _check_and_warn(
    names: list[str], compared: list[_Compared], conditions: Conditions, config: MarkersConfig
) -> None:
    """Raise if nothing was compared, and warn if cells were or if clusters were left out."""
    pair = f"{conditions.first!r} and {conditions.second!r}"
    by_unit = {
        unit: [name for name, item in zip(names, compared, strict=True) if item.unit == unit]
        for unit in (CELLS, NOTHING)
    }
    if len(by_unit[NOTHING]) == len(names):
        raise InputError(
            f"no cluster of obs[{config.cluster_by!r}] has cells of {pair}",
            "a cluster with both",
            "compare other values, or name another column with `cluster_by`",
        )
    if not any(len(item.tested) for item in compared):
        raise NothingLeftError(
            f"in no cluster is a peak open in {config.min_cells} cells of {pair}",
            "at least one",
            "lower `min_cells`",
        )
    if by_unit[NOTHING]:
        warn(
            f"{len(by_unit[NOTHING])} of {len(names)} clusters have no cells of {pair} both and "
            f"are not tested: {first_names(by_unit[NOTHING])}"
        )
    if not by_unit[CELLS]:
        return
    consequence = "cells count as independent, and p-values are too small if samples differ"
    if conditions.sample is None:
        warn(f"`sample_key` is left out: {consequence}")
    else:
        warn(
            f"{len(by_unit[CELLS])} of {len(names)} clusters have fewer than two samples of "
            f"{FEW_CELLS} cells on a side of {pair}: {first_names(by_unit[CELLS])}; there "
            f"{consequence}"
        )


def _warn_of_batches(adata: AnnData, conditions: Conditions, config: MarkersConfig) -> None:
    """Warn if no batch holds both conditions."""
    options = last(adata, "train").get("options", {})
    column = options.get("batch_key") or keys.BATCH.name
    if column not in adata.obs or column in (conditions.column, config.cluster_by):
        return
    batch = adata.obs[column]
    first, second = (set(batch[conditions.side == k].dropna().astype(str)) for k in (1, 0))
    if not first or not second or first & second:
        return
    # batches that are samples, several on either side, are the replicates
    if min(len(first), len(second)) > 1 and config.sample_key is not None:
        return
    warn(
        f"{conditions.first!r} and {conditions.second!r} share no batch of obs[{column!r}] "
        f"({first_names(sorted(first), 3)} against {first_names(sorted(second), 3)}): differences "
        "between batches look like differences between conditions"
    )
