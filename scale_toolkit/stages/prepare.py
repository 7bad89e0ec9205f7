"""``prepare``: one count matrix from one or several inputs, without the cells and peaks that have
too few counts.

The order is SCALE's: regions to leave out, then cells with few open peaks, then peaks open in few
of the cells kept.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.config import PrepareConfig
from scale_toolkit.core.features import dropped, peaks_only
from scale_toolkit.core.intervals import COLUMNS, Overlaps, require_intervals
from scale_toolkit.core.rows import column_counts, row_sums, selected
from scale_toolkit.errors import InputError, NothingLeftError, ScaleWarning
from scale_toolkit.scratch import fits_in_memory
from scale_toolkit.stages.input_counts import RAW, input_counts
from scale_toolkit.stages.join import free_name, join_inputs
from scale_toolkit.stages.plausible import (
    doubts,
    doubts_about_several,
    in_twos,
    without_intervals,
)
from scale_toolkit.stages.stage import Progress, Result, stage
from scale_toolkit.stages.subset import subset

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Where 10x and muon say what a feature is.
_TYPES = "feature_types"

_LOG = logging.getLogger("scale_toolkit")


def _reads(config: PrepareConfig) -> tuple[keys.Slot, ...]:
    counts = keys.X if config.layer is None else keys.column("layers", config.layer)
    return (counts, keys.OBS_NAMES, keys.VAR_NAMES)


_WRITES = (keys.N_PEAKS, keys.N_COUNTS, keys.N_CELLS, keys.BATCH, keys.QC)


@stage("prepare", PrepareConfig, reads=_reads, writes=_WRITES, makes_new=True)
def prepare(
    adata: AnnData | Sequence[AnnData] | Mapping[str, AnnData],
    config: PrepareConfig,
    *,
    progress: Progress | None = None,
    blacklist: pd.DataFrame | None = None,
    metadata: pd.DataFrame | None = None,
    may_overwrite: bool = False,
) -> Result:
    """Check counts, join inputs, and keep the cells and peaks that hold enough.

    Parameters
    ----------
    adata
        Cells × peaks, integer counts (CSR, CSC or dense), as read: never normalised. Several inputs
        as a list, or as a mapping from batch name to input.
    config
        Which cells and peaks are kept; which layer holds the counts; how the peaks of several
        inputs are joined.
    progress
        Called after each input and each filter.
    blacklist
        Regions (``chrom``, ``start``, ``end``; half-open): peaks that overlap one by a base are
        dropped.
    metadata
        Columns to add to obs, indexed by barcode (with ``-<batch>``, if several inputs share it).
    may_overwrite
        Take the memory of the inputs' counts, which are lost: float32 CSR counts are then never in
        memory twice.

    Returns
    -------
    AnnData
        A new one; the inputs are not modified, except with `may_overwrite`. Writes:

        - ``X``: CSR float32, the counts as read; indices sorted, no stored zeros
        - ``obs['n_peaks']`` (int64), ``obs['n_counts']`` (float64), ``var['n_cells']`` (int64):
          after filtering
        - ``obs['batch']`` (category): of several inputs, the one a cell came from
        - ``uns['scale_qc']``: ``cell_values`` and ``cell_counts`` (int64; how many input cells had
          that number of open peaks), ``peak_values`` and ``peak_counts`` (how many peaks were open
          in that number of the cells kept), and the limits ``cell_least`` and ``peak_least`` as
          integers

        A single input keeps its columns, ``uns``, ``obsm``, ``varm``, ``obsp``, ``varp`` and
        ``layers``, cut to the cells and peaks kept, but not ``raw``. Several keep the columns of
        ``obs``, and those of ``var`` that agree.

    Raises
    ------
    InputError
        No counts (missing, NaN, negative or fractional values), an empty matrix, duplicated
        barcodes or peaks, an unknown layer, inputs that share no peak, or peak names that are not
        intervals if regions are to be left out.
    NothingLeftError
        A filter leaves no cell or no peak; the error has the distribution and a value that keeps
        some.
    """
    inputs = _named(adata, config.layer)
    counts = {}
    for name, source in inputs.items():
        prefix = f"input {name!r}: " if name else ""
        _check_names(source, prefix)
        layer = config.layer if config.layer in source.layers or config.layer != RAW else None
        counts[name] = input_counts(source, layer, prefix, may_overwrite=may_overwrite)
        for doubt in doubts(source.obs_names, source.var_names):
            warnings.warn(prefix + doubt, ScaleWarning, stacklevel=3)
        if missing := without_intervals(source.var_names):
            _LOG.warning("%s%s", prefix, missing)
        if twos := in_twos(counts[name]):
            _LOG.info("%s%s", prefix, twos)
        if progress:
            progress("reading counts", len(counts), len(inputs))
    if list(inputs) == [""]:
        remaining, matrix = _rest_of(inputs[""]), counts[""]
    else:
        for doubt in doubts_about_several(
            {name: source.var_names for name, source in inputs.items()}
        ):
            warnings.warn(doubt, ScaleWarning, stacklevel=3)
        remaining, matrix = join_inputs(inputs, counts, config.join)
        _keep_foreign(remaining, is_ours=all(_is_ours(adata) for adata in inputs.values()))
    if metadata is not None:
        _add_metadata(remaining, metadata)
    shape_before = matrix.shape

    peaks = _outside_regions(remaining.var_names, config.drop_chromosomes, blacklist)
    matrix = selected(matrix, None, peaks, in_place=True)
    qc = _tally("cell", _row_counts(matrix), config.min_peaks, matrix.shape[1])
    cells = _enough(
        _row_counts(matrix), config.min_peaks, matrix.shape[1], "cell", "open peaks", "min_peaks"
    )
    matrix = selected(matrix, cells, None, in_place=True)
    open_cells = column_counts(matrix)
    qc |= _tally("peak", open_cells, config.min_cells, matrix.shape[0])
    kept_peaks = _enough(
        open_cells,
        config.min_cells,
        matrix.shape[0],
        "peak",
        "cells it is open in",
        "min_cells",
    )
    matrix = selected(matrix, None, kept_peaks, in_place=True)
    peaks[peaks] = kept_peaks
    if progress:
        progress("filtering", 1, 1)

    target = subset(remaining, cells, peaks)
    target.X = matrix
    facts = {
        "cells_before": shape_before[0],
        "peaks_before": shape_before[1],
        "cells": matrix.shape[0],
        "peaks": matrix.shape[1],
        "blacklist": None if blacklist is None else _digest(blacklist[COLUMNS]),
    }
    if metadata is not None:
        facts["metadata"] = _digest(metadata.reset_index())
    _LOG.info(
        "kept %s of %s cells and %s of %s peaks",
        *(f"{n:,}" for n in (matrix.shape[0], shape_before[0], matrix.shape[1], shape_before[1])),
    )
    slots = {
        keys.N_PEAKS: _row_counts(matrix),
        keys.N_COUNTS: row_sums(matrix),
        keys.N_CELLS: open_cells[kept_peaks],
        keys.QC: qc,
    }
    return Result(target=target, slots=slots, facts=facts)


def _named(
    adata: AnnData | Sequence[AnnData] | Mapping[str, AnnData], layer: str | None
) -> dict[str, AnnData]:
    """Inputs by batch name, in memory, with peaks only; a single one without a batch has the
    name ''.
    """
    if isinstance(adata, Mapping):
        named = {str(name): source for name, source in adata.items()}
    elif isinstance(adata, Sequence):
        named = (
            {"": adata[0]}
            if len(adata) == 1
            else {str(number): source for number, source in enumerate(adata)}
        )
    else:
        named = {"": adata}
    if not named:
        raise InputError("no input", "one AnnData or more")
    read = {name: adata.to_memory() if adata.isbacked else adata for name, adata in named.items()}
    if layer == RAW and not any(RAW in adata.layers for adata in read.values()):
        read = {name: _with_raw(adata, name) for name, adata in read.items()}
    return {
        name: _peaks_of(adata, f"input {name!r}: " if name else "") for name, adata in read.items()
    }


def _with_raw(adata: AnnData, name: str) -> AnnData:
    """Return the cells with the counts and peaks of ``raw``."""
    if adata.raw is None:
        prefix = f"input {name!r}: " if name else ""
        raise InputError(f"{prefix}raw is missing", "an AnnData with raw", "drop --layer raw")
    return AnnData(
        adata.raw.X,
        obs=adata.obs,
        var=adata.raw.var,
        uns=dict(adata.uns),
        obsm=dict(adata.obsm),
        obsp=dict(adata.obsp),
    )


def _peaks_of(adata: AnnData, where: str) -> AnnData:
    """Leave out what ``var['feature_types']`` calls anything but peaks: the genes of a multiome."""
    if _TYPES not in adata.var:
        return adata
    kinds = adata.var[_TYPES].astype(str).to_numpy(dtype=object)
    is_peak = peaks_only(kinds, f"{where}var[{_TYPES!r}]", known_words=False)
    if is_peak.all():
        return adata
    _LOG.info("%skept %s peaks; dropped %s", where, f"{is_peak.sum():,}", dropped(kinds))
    if sparse.issparse(adata.X) and not fits_in_memory(adata.X.data.nbytes):
        return subset(adata, slice(None), is_peak)
    return adata[:, is_peak]


def _check_names(adata: AnnData, where: str) -> None:
    if 0 in adata.shape:
        raise InputError(
            f"{where}the matrix is empty ({adata.n_obs:,} cells × {adata.n_vars:,} peaks)",
            "cells and peaks",
            "check the step that made it",
        )
    for names, kind, slot in (
        (adata.obs_names, "barcode", "obs"),
        (adata.var_names, "peak", "var"),
    ):
        again = names[names.duplicated()].unique()
        if len(again):
            more = f" and {len(again) - 1:,} more" if len(again) > 1 else ""
            raise InputError(
                f"{where}the {kind} {again[0]!r}{more} is duplicated",
                f"unique {kind}s",
                f"remove or rename the copies (adata.{slot}_names_make_unique())",
            )


def _rest_of(adata: AnnData) -> AnnData:
    """Everything of a single input but X and raw, not yet copied."""
    if adata.raw is not None:
        _LOG.info("raw is left out: its peaks are not those that are filtered")
    remaining = AnnData(
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns=dict(adata.uns),
        **{
            name: {key: value for key, value in getattr(adata, name).items() if key is not None}
            for name in ("obsm", "varm", "obsp", "varp", "layers")
        },
    )
    _keep_foreign(remaining, is_ours=_is_ours(adata))
    return remaining


def _add_metadata(rest: AnnData, metadata: pd.DataFrame) -> None:
    """Add columns to obs by barcode; a cell that the table lacks gets missing values."""
    known = rest.obs_names.isin(metadata.index)
    if not known.any():
        raise InputError(
            f"no cell is in the metadata (first cell {rest.obs_names[0]!r}, "
            f"first row {metadata.index[0]!r})",
            "the barcodes of these cells",
            "check --metadata: suffixes such as -1 are part of a barcode",
        )
    if not known.all():
        warnings.warn(
            f"{int((~known).sum()):,} of {len(known):,} cells are not in the metadata: "
            "their values are missing",
            ScaleWarning,
            stacklevel=5,
        )
    rows = metadata.reindex(rest.obs_names)
    for name in metadata:
        new_name = str(name)
        # written after the filters
        is_ours = new_name in (keys.N_PEAKS.name, keys.N_COUNTS.name)
        if new_name in rest.obs or is_ours:
            new_name = f"{new_name}_metadata"
            while new_name in rest.obs or new_name in metadata:
                new_name += "_"
            warnings.warn(
                f"obs has a column {name!r}: that of the metadata is called {new_name!r}",
                ScaleWarning,
                stacklevel=5,
            )
        rest.obs[new_name] = rows[name].to_numpy() if rows[name].dtype != "category" else rows[name]


def _keep_foreign(rest: AnnData, *, is_ours: bool) -> None:
    """Keep what another program calls as this stage calls its results, under another name."""
    if is_ours:
        return
    renamed = []
    for slot in (keys.RECEIPTS, keys.RUNTIME, keys.QC, keys.N_PEAKS, keys.N_COUNTS, keys.N_CELLS):
        holder = getattr(rest, slot.where)
        if slot.name in holder:
            new_name = free_name(slot.name, holder)
            holder[new_name] = holder[slot.name]
            del holder[slot.name]
            renamed.append(f"{slot} as {new_name!r}")
    if renamed:
        warnings.warn(
            "the input has values under names of this stage, which were kept: "
            f"{', '.join(renamed)}",
            ScaleWarning,
            stacklevel=5,
        )


def _is_ours(adata: AnnData) -> bool:
    """Whether ``uns['scale']`` is a list of receipts, as every stage leaves it."""
    text = adata.uns.get(keys.RECEIPTS.name)
    try:
        entries = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return False
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)


def _outside_regions(
    names: pd.Index, chromosomes: tuple[str, ...], blacklist: pd.DataFrame | None
) -> NDArray[np.bool_]:
    """Mark the peaks that lie neither on the chromosomes nor in the regions to leave out."""
    keep = np.ones(len(names), bool)
    if not chromosomes and blacklist is None:
        return keep
    purpose = " and ".join(
        ["--drop-chromosomes"] * bool(chromosomes) + ["--blacklist"] * (blacklist is not None)
    )
    peaks = require_intervals(names, purpose)
    peak_chromosomes = sorted(peaks["chrom"].unique())
    chromosome_list = ", ".join(peak_chromosomes[:4]) + (", …" if len(peak_chromosomes) > 4 else "")
    if chromosomes:
        keep &= ~peaks["chrom"].isin(chromosomes).to_numpy()
        if keep.all():
            warnings.warn(
                f"no peak is on {', '.join(chromosomes)} (peaks are on {chromosome_list})",
                ScaleWarning,
                stacklevel=4,
            )
    if blacklist is not None:
        overlaps = Overlaps(blacklist)
        hit, _ = overlaps.pairs(peaks["chrom"], peaks["start"].to_numpy(), peaks["end"].to_numpy())
        keep[hit] = False
        if not set(peak_chromosomes) & set(overlaps.chromosomes):
            region_chromosomes = ", ".join(overlaps.chromosomes[:4])
            warnings.warn(
                f"no chromosome of the blacklist ({region_chromosomes}) has a peak (they are on "
                f"{chromosome_list})",
                ScaleWarning,
                stacklevel=4,
            )
    if not keep.any():
        raise NothingLeftError(
            f"{purpose} would drop all {len(names):,} peaks (on {chromosome_list})",
            "some peaks outside",
            "leave out fewer regions",
        )
    return keep


def _row_counts(matrix: sparse.csr_matrix) -> NDArray[np.int64]:
    return np.diff(matrix.indptr).astype(np.int64)


def _least(minimum: float, total: int) -> float:
    """A limit as a count: below 1 it is a fraction of `total`."""
    # rounding errors of fractions: 0.07 of 100 is 7.000000000000001
    return math.ceil(minimum * total - 1e-9 * total) if minimum < 1 else minimum


def _tally(what: str, values: NDArray[np.int64], minimum: float, total: int) -> dict[str, Any]:
    """Return how often each value occurs before the filter, and the limit, for a knee plot."""
    distinct, counts = np.unique(values, return_counts=True)
    return {
        f"{what}_values": distinct,
        f"{what}_counts": counts,
        f"{what}_least": float(_least(minimum, total)),
    }


def _enough(
    values: NDArray[np.int64], minimum: float, total: int, what: str, of: str, option: str
) -> NDArray[np.bool_]:
    """Mark values of at least `minimum`, below 1 a fraction of `total`; if there is none, the
    error proposes a limit.
    """
    least = _least(minimum, total)
    keep = values >= least
    if keep.any():
        return keep
    low, first, median, third, high = np.percentile(values, [0, 25, 50, 75, 100])
    qc = (
        f"no {what} of {len(values):,} reaches {option} {minimum:g}"
        + (f" ({least:,} of {total:,})" if minimum < 1 else "")
        + f"; {of}: lowest {low:g}, quartiles {first:g}, {median:g}, {third:g}, highest {high:g}"
    )
    if high < 1:
        raise NothingLeftError(qc, "counts above 0", "check the step that made the matrix")
    first_values = max(1, math.floor(median))
    raise NothingLeftError(
        qc, "", f"{option} {first_values} would keep {int((values >= first_values).sum()):,}"
    )


def _digest(table: pd.DataFrame) -> str:
    return blake2b(table.to_csv(index=False).encode(), digest_size=16).hexdigest()
