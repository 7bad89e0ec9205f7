"""Which cells and peaks a caller means: names, positions, masks, slices, intervals and queries."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scale_toolkit.core.intervals import Overlaps, parse_names
from scale_toolkit.errors import InputError, NothingLeftError, ScaleWarning
from scale_toolkit.stages.decoder import modelled_positions
from scale_toolkit.text import first_names

if TYPE_CHECKING:
    import numpy.typing as npt
    from anndata import AnnData

    Positions = npt.NDArray[np.int64]

_INTERVAL = re.compile(r"([^:]+):(\d[\d,]*)-(\d[\d,]*)")
# Names that an error lists.
_N_SHOWN = 3


def find_peaks(adata: AnnData, wanted: str | Sequence[str]) -> Positions:
    """Return the positions of modelled peaks, in the order of `adata`.

    Parameters
    ----------
    adata
        The output of `train`.
    wanted
        Peak names; intervals ``chrom:start-end`` (half-open, as in BED), whose overlapping peaks
        are chosen; chromosomes. A string is a list of one. A text that is a peak's name is that
        peak, not an interval.

    Raises
    ------
    InputError
        A name that is not a peak, a chromosome without peaks, or a peak that was not modelled.
    NothingLeftError
        The intervals overlap no modelled peak, or the list is empty.
    """
    modelled = modelled_positions(adata)
    names = adata.var_names
    _check_unique(names, "peak")
    texts = as_names(wanted, "peaks")
    if not texts:
        raise NothingLeftError("peaks is empty", "at least one peak", "omit it for all peaks")
    positions = names.get_indexer(pd.Index(texts, dtype=object))
    unseen = np.setdiff1d(positions[positions >= 0], modelled)
    if len(unseen):
        raise InputError(
            f"{first_names(names[unseen])} {'was' if len(unseen) == 1 else 'were'} not modelled",
            "peaks that `scale train` saw",
            "omit them, or train with them (`scale select-peaks` leaves peaks out)",
        )
    intervals = [text for text, position in zip(texts, positions, strict=True) if position < 0]
    overlapping = _overlapping(names[modelled], intervals) if intervals else np.empty(0, np.int64)
    return np.union1d(positions[positions >= 0], modelled[overlapping])


def _overlapping(names: pd.Index, intervals: list[str]) -> Positions:
    """Return the positions of the peaks that overlap intervals written as text."""
    table = parse_names(names)
    rows = np.flatnonzero(table["chrom"].notna())
    overlaps = Overlaps(table.iloc[rows])
    known = set(overlaps.chromosomes)
    spans = [_interval_of(text, known) for text in intervals]
    unknown = [text for text, span in zip(intervals, spans, strict=True) if span is None]
    if unknown:
        raise InputError(
            f"{first_names(unknown, _N_SHOWN)}: no such peak{'s' * (len(unknown) > 1)}",
            f"names such as {names[0]}, intervals such as chr1:1000-2000, or a file of either",
            "look at var_names",
        )
    chroms, start, end = zip(*(span for span in spans if span is not None), strict=True)
    absent = sorted(set(chroms) - known)
    if absent:
        raise InputError(
            f"no peak is on {first_names(absent, _N_SHOWN)}",
            f"a chromosome of this genome ({first_names(overlaps.chromosomes, _N_SHOWN)})",
            "look at how the chromosomes are named and at the genome build",
        )
    backwards = [text for text, a, b in zip(intervals, start, end, strict=True) if a >= b]
    if backwards:
        raise InputError(
            f"the interval {backwards[0]} ends before it starts",
            "chrom:start-end with start < end",
            "exchange the two numbers",
        )
    interval_rows, peak_rows = overlaps.pairs(list(chroms), np.array(start), np.array(end))
    if len(peak_rows) == 0:
        raise NothingLeftError(
            f"no modelled peak overlaps {first_names(intervals, _N_SHOWN)}",
            "at least one",
            "ask for a wider interval",
        )
    missed = [intervals[row] for row in np.setdiff1d(np.arange(len(intervals)), interval_rows)]
    if missed:
        warnings.warn(
            f"{len(missed):,} of {len(intervals):,} intervals overlap no modelled peak: "
            f"{first_names(missed, _N_SHOWN)}",
            ScaleWarning,
            stacklevel=2,
        )
    return np.asarray(rows[np.unique(peak_rows)], np.int64)


def _interval_of(text: str, chromosomes: set[str]) -> tuple[str, int, int] | None:
    """Return chromosome, start and end of an interval or a whole chromosome; None if it is neither.

    Numbers may have thousands separators; ``chr1-1-2`` and ``chr1_1_2`` are read as peak names are.
    """
    if text in chromosomes:
        return text, 0, int(np.iinfo(np.int64).max)
    match = _INTERVAL.fullmatch(text)
    if match is not None:
        return match[1], int(match[2].replace(",", "")), int(match[3].replace(",", ""))
    chrom, start, end = parse_names([text]).iloc[0]
    return None if chrom is None else (str(chrom), int(start), int(end))


def find_cells(adata: AnnData, query: str | Sequence[str]) -> Positions:
    """Return the positions of cells, in the order of `adata`.

    Parameters
    ----------
    adata
        Any AnnData.
    query
        A pandas expression over the columns of obs (``scale_cluster == "3" and n_peaks > 500``),
        or barcodes. A cell for which the expression is missing (a nullable column) is not chosen.

    Raises
    ------
    InputError
        An expression that pandas cannot evaluate or that does not give True or False for each
        cell; barcodes that are missing.
    NothingLeftError
        No cell is left.
    """
    if isinstance(query, str):
        positions = np.flatnonzero(_evaluated(adata, query))
    else:
        positions = np.unique(_named(as_names(query, "cells"), adata.obs_names, "cell"))
    if len(positions) == 0:
        raise NothingLeftError(
            f"the query {query!r} holds for none of {adata.n_obs:,} cells",
            "at least one",
            "widen it",
        )
    return positions


def _evaluated(adata: AnnData, query: str) -> npt.NDArray[np.bool_]:
    try:
        chosen = adata.obs.eval(query, engine="python", local_dict={}, global_dict={})
    except Exception as error:
        # pandas raises errors of many types for an invalid expression
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the query {query!r} cannot be answered ({reason})",
            f"an expression over obs ({first_names(adata.obs.columns, 8)})",
            "write it as 'column == \"value\"', and a column with other signs than letters in "
            "`backticks`",
        ) from None
    if not isinstance(chosen, pd.Series) or not pd.api.types.is_bool_dtype(chosen.dtype):
        raise InputError(
            f"the query {query!r} is not a condition",
            "an expression that gives True or False for each cell",
            "compare a column with a value",
        )
    return np.asarray(chosen.to_numpy(dtype=bool, na_value=False))


def as_names(values: str | Sequence[str], keyword: str) -> list[str]:
    """Return names as a list of strings; a string becomes a list of one.

    Raises
    ------
    InputError
        The values are not strings.
    """
    if isinstance(values, str):
        return [values]
    names = (
        list(values) if isinstance(values, (Sequence, np.ndarray, pd.Index, pd.Series)) else None
    )
    if names is None or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"{keyword} is {values!r}"[:200],
            "a list of names"
            + (" or intervals such as chr1:1000-2000" if keyword == "peaks" else ""),
            f"give {keyword} as a list of strings",
        )
    return [str(name) for name in names]


def positions_of(key: Any, names: pd.Index, axis: str) -> tuple[slice | Positions, bool]:
    """Return the positions that `key` names along one axis, and whether it is a single one.

    Parameters
    ----------
    key
        A name, names, a position, positions, a slice of positions or a mask.
    names
        Names along the axis.
    axis
        ``"cell"`` or ``"peak"``, for messages.
    """
    if isinstance(key, slice):
        if any(isinstance(bound, str) for bound in (key.start, key.stop)):
            raise InputError(
                f"a slice of {axis} names", "numbers, names or a mask", f"list the {axis}s"
            )
        return key, False
    if isinstance(key, str):
        return _named([key], names, axis), True
    if isinstance(key, (int, np.integer)) and not isinstance(key, (bool, np.bool_)):
        if not -len(names) <= key < len(names):
            raise IndexError(f"{axis} {key} of {len(names):,}")
        return np.array([key % len(names)]), True
    values = _mask_or_values(key, names, axis)
    if values.dtype == bool:
        if values.shape != (len(names),):
            raise InputError(
                f"a mask of shape {values.shape}",
                f"one value for each of the {len(names):,} {axis}s",
                "make the mask from obs or var",
            )
        return np.flatnonzero(values), False
    if values.size == 0:
        return np.empty(0, np.int64), False
    if values.ndim == 1 and values.dtype.kind in "iu":
        if values.min() < -len(names) or values.max() >= len(names):
            raise IndexError(f"{axis}s {values.min()} to {values.max()} of {len(names):,}")
        return values % len(names), False
    if values.ndim == 1 and all(isinstance(value, str) for value in values):
        return _named(list(values), names, axis), False
    raise InputError(
        f"{key!r} does not name a {axis}",
        "names, numbers, a slice or a mask",
        f"ask by the names of the {axis}s",
    )


def _mask_or_values(key: Any, names: pd.Index, axis: str) -> npt.NDArray[Any]:
    """Return `key` as an array; a mask in a Series must be over these names, missing is False."""
    if not isinstance(key, pd.Series) or not pd.api.types.is_bool_dtype(key.dtype):
        return np.asarray(key)
    if not key.index.equals(names):
        raise InputError(
            f"a mask over other {axis}s",
            f"one over these {len(names):,} in their order",
            "make it from obs or var",
        )
    return np.asarray(key.to_numpy(dtype=bool, na_value=False))


def _named(wanted: list[str], names: pd.Index, axis: str) -> Positions:
    _check_unique(names, axis)
    positions = names.get_indexer(pd.Index(wanted, dtype=object))
    missing = [name for name, position in zip(wanted, positions, strict=True) if position < 0]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(wanted)} {axis}s are missing: "
            f"{first_names(missing, _N_SHOWN)}",
            f"names such as {next(iter(names), None)}"
            + (", modelled by `scale train`" if axis == "peak" else ""),
            f"ask for some of the {len(names):,} {axis}s of the file",
        )
    return np.asarray(positions, np.int64)


def _check_unique(names: pd.Index, axis: str) -> None:
    if not names.is_unique:
        raise InputError(
            f"the {axis} name {names[names.duplicated()][0]!r} is duplicated",
            "unique names",
            "make the names unique",
        )
