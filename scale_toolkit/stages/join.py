"""Join several inputs of ``prepare``, and keep what an input already had under a slot's name."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

from scale_toolkit import keys
from scale_toolkit.core.gather import stacked
from scale_toolkit.core.intervals import parse_names
from scale_toolkit.errors import InputError, ScaleWarning

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from scipy import sparse


def join_inputs(
    inputs: dict[str, AnnData], counts: dict[str, sparse.csr_matrix], join: str
) -> tuple[AnnData, sparse.csr_matrix]:
    """Concatenate the cells of several inputs.

    Peaks that are the same interval, spelled in another way (``chr1:1-2``, ``chr1-1-2``), get the
    first input's name. A column of obs that has values of different kinds becomes text. A column
    named like the new ``obs['batch']`` is kept under another name.

    Parameters
    ----------
    inputs
        By the name of the batch.
    counts
        Their counts, cells × peaks, CSR.
    join
        Peaks in all inputs (inner) or in any (outer).

    Returns
    -------
    AnnData
        Cells and peaks without counts; peaks in the order in which they are first met.
    csr_matrix
        The counts.
    """
    peaks = _same_spelling({name: adata.var_names for name, adata in inputs.items()})
    _check_shared_peaks(peaks, join)
    barcodes = _distinct_barcodes(inputs)
    tables = {name: adata.obs.set_axis(barcodes[name], axis=0) for name, adata in inputs.items()}
    tables = _one_kind_a_column(_without_batch(tables))
    obs = anndata.concat(
        {name: AnnData(obs=table) for name, table in tables.items()},
        join="outer",
        label=keys.BATCH.name,
    ).obs
    joined = anndata.concat(
        {
            name: AnnData(
                obs=pd.DataFrame(index=barcodes[name]),
                var=adata.var.set_axis(peaks[name], axis=0),
            )
            for name, adata in inputs.items()
        },
        join=join,
        merge="same",
    )
    order = _in_order(list(peaks.values()), joined.var_names)
    var = joined.var.iloc[order]
    positions = [var.index.get_indexer(peaks[name]) for name in inputs]
    matrix = stacked([counts[name] for name in inputs], positions, len(var))
    return AnnData(obs=obs, var=var), matrix


def _same_spelling(names: dict[str, pd.Index]) -> dict[str, pd.Index]:
    """Give the names of one interval the spelling that comes first."""
    first, *further = names.values()
    if all(index.equals(first) for index in further):
        return names
    spellings: dict[tuple[Any, ...], str] = {}
    result = {}
    for batch, index in names.items():
        intervals = parse_names(index)
        renamed = [
            name if chrom is None else spellings.setdefault((chrom, start, end), name)
            for name, chrom, start, end in zip(
                index, intervals["chrom"], intervals["start"], intervals["end"], strict=True
            )
        ]
        renamed_index = pd.Index(renamed, dtype=object)
        # two spellings of one interval within an input are two peaks: nothing is merged silently
        result[batch] = index if renamed_index.has_duplicates else renamed_index
    changed = {
        batch: int((index != result[batch]).sum())
        for batch, index in names.items()
        if not index.equals(result[batch])
    }
    if changed:
        batch, count = next(iter(changed.items()))
        old_name = names[batch][names[batch] != result[batch]][0]
        new_name = result[batch][names[batch] != result[batch]][0]
        warnings.warn(
            f"{count:,} peaks of {batch!r} are spelled in another way and were matched by interval "
            f"({old_name} -> {new_name})",
            ScaleWarning,
            stacklevel=6,
        )
    return result


def _without_batch(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Rename the user's own column ``batch``, which the new one would replace."""
    if not any(keys.BATCH.name in table for table in tables.values()):
        return tables
    new_name = free_name(keys.BATCH.name, [column for table in tables.values() for column in table])
    warnings.warn(
        f"obs[{keys.BATCH.name!r}] of the inputs is kept as obs[{new_name!r}]: "
        f"obs[{keys.BATCH.name!r}] names the input of each cell",
        ScaleWarning,
        stacklevel=6,
    )
    return {
        name: table.rename(columns={keys.BATCH.name: new_name}) for name, table in tables.items()
    }


def free_name(name: str, taken: Any) -> str:
    """Return ``name_original``, or the first of ``name_original_2``, … that is not taken."""
    used, new_name, number = set(map(str, taken)), f"{name}_original", 1
    while new_name in used:
        number += 1
        new_name = f"{name}_original_{number}"
    return new_name


def _one_kind_a_column(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Turn columns that hold different kinds of values in different inputs into text."""
    columns = dict.fromkeys(column for table in tables.values() for column in table)
    result = {name: table.copy() for name, table in tables.items()}
    as_text = []
    for column in columns:
        parts = [table[column] for table in result.values() if column in table]
        kinds = {_kind(column_values) for column_values in parts}
        is_everywhere = len(parts) == len(result)
        if kinds <= {"text", "category of text"} or (
            len(kinds) == 1 and kinds != {"mixed"} and (kinds != {"bool"} or is_everywhere)
        ):
            continue
        # some cells will have none
        if kinds == {"bool"}:
            convert = _as_nullable
        else:
            convert = _as_text
            if len(kinds) > 1:
                as_text.append(str(column))
        for table in result.values():
            if column in table:
                table[column] = convert(table[column])
                if kinds != {"bool"}:
                    table[column] = table[column].astype("category")
    if as_text:
        warnings.warn(
            f"obs[{', '.join(as_text)}] has values of different kinds in the inputs: "
            "they were turned into text",
            ScaleWarning,
            stacklevel=6,
        )
    return result


def _as_nullable(column: pd.Series) -> pd.Series:
    return column.astype("boolean")


def _as_text(column: pd.Series) -> pd.Series:
    return column.astype(object).map(str, na_action="ignore")


def _kind(column: pd.Series) -> str:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return f"category of {_plain_kind(column.cat.categories)}"
    return _plain_kind(column)


def _plain_kind(values: Any) -> str:
    if pd.api.types.is_bool_dtype(values):
        return "bool"
    if pd.api.types.is_numeric_dtype(values):
        return "number"
    return (
        "text" if pd.api.types.infer_dtype(values, skipna=True) in ("string", "empty") else "mixed"
    )


def _in_order(names: list[pd.Index], joined: pd.Index) -> NDArray[np.intp]:
    """Columns of the joined matrix by first appearance: a library may sort a union of names."""
    met = pd.Index(np.concatenate([index.to_numpy(dtype=object) for index in names])).unique()
    return joined.get_indexer(met[met.isin(joined)])


def _check_shared_peaks(names: Mapping[str, pd.Index], join: str) -> None:
    for name, peaks in names.items():
        further = [further_peaks for key, further_peaks in names.items() if key != name]
        if join == "outer":
            shared = any(peaks.isin(further_peaks).any() for further_peaks in further)
        else:
            in_all = [
                np.ones(len(peaks), bool),
                *(peaks.isin(further_peaks) for further_peaks in further),
            ]
            shared = bool(np.logical_and.reduce(in_all).any())
        if not shared:
            first_peaks = ", ".join(f"{key}: {index[0]}" for key, index in list(names.items())[:3])
            raise InputError(
                f"the {len(names)} inputs share no peak (first of {first_peaks})",
                "peaks of one set",
                "count every input over the same peaks (--fragments with --peaks)",
            )


def _distinct_barcodes(inputs: dict[str, AnnData]) -> dict[str, pd.Index]:
    """Barcodes of each input, with ``-<batch>`` behind those that several inputs have."""
    every = pd.Index(
        np.concatenate([adata.obs_names.to_numpy(dtype=object) for adata in inputs.values()])
    )
    shared = every[every.duplicated()].unique()
    if not len(shared):
        return {name: adata.obs_names for name, adata in inputs.items()}
    holder = next(name for name, adata in inputs.items() if shared[0] in adata.obs_names)
    warnings.warn(
        f"{len(shared):,} barcodes are in several inputs: the name of the batch was added to them "
        f"({shared[0]} -> {shared[0]}-{holder})",
        ScaleWarning,
        stacklevel=6,
    )
    result = {}
    for name, adata in inputs.items():
        old = adata.obs_names.to_numpy(dtype=object)
        new = [f"{barcode}-{name}" for barcode in old]
        result[name] = pd.Index(np.where(adata.obs_names.isin(shared), new, old), dtype=object)
    every = pd.Index(np.concatenate([index.to_numpy() for index in result.values()]))
    if every.has_duplicates:
        raise InputError(
            f"the barcode {every[every.duplicated()][0]!r} is in several inputs, "
            "even with the batch added",
            "distinct barcodes",
            "give other batch names",
        )
    return result
