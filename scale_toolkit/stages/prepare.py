"""``prepare``: one count matrix out of one input or many, without the cells and peaks that hold too little.

The order is SCALE's: regions to leave out, then cells with few open peaks, then peaks open in few of the cells kept.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.config import PrepareConfig
from scale_toolkit.core.intervals import COLUMNS, Overlaps, require_intervals
from scale_toolkit.errors import InputError, NothingLeftError, ScaleWarning
from scale_toolkit.stages._stage import Progress, note, stage
from scale_toolkit.stages.plausible import doubts, doubts_about_several, in_twos, what_was_done

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOG = logging.getLogger("scale_toolkit")


def _reads(config: PrepareConfig) -> tuple[keys.Slot, ...]:
    counts = keys.X if config.layer is None else keys.column("layers", config.layer)
    return (counts, keys.OBS_NAMES, keys.VAR_NAMES)


@stage("prepare", PrepareConfig, reads=_reads)
def prepare(
    adata: AnnData | Sequence[AnnData] | Mapping[str, AnnData],
    config: PrepareConfig,
    *,
    progress: Progress | None = None,
    blacklist: pd.DataFrame | None = None,
) -> AnnData:
    """Check counts, join inputs, and keep the cells and peaks that hold enough.

    Parameters
    ----------
    adata
        Cells × peaks of whole counts (CSR, CSC or dense), as read: never normalised. Several inputs as a list, or as a
        mapping from batch name to input.
    config
        Which cells and peaks are kept; which layer holds the counts; how the peaks of several inputs are joined.
    progress
        Called after each input and each filter.
    blacklist
        Regions (``chrom``, ``start``, ``end``; half-open): peaks that overlap one by a base are dropped.

    Returns
    -------
    AnnData
        A new one; the inputs are not modified. Writes:

        - ``X``: CSR float32, the counts as read; indices sorted, no stored zeros
        - ``obs['n_peaks']`` (int64), ``obs['n_counts']`` (float64), ``var['n_cells']`` (int64): after filtering
        - ``obs['batch']`` (category): of several inputs, the one a cell came from
        - ``uns['scale_qc']``: ``cell_values`` and ``cell_counts`` (int64; so many input cells had that number of open peaks),
          ``peak_values`` and ``peak_counts`` (so many peaks were open in that number of the cells kept), and the limits
          ``cell_least`` and ``peak_least`` in whole numbers

        A single input keeps its columns, ``uns``, ``obsm``, ``varm``, ``obsp``, ``varp`` and ``layers``, cut to the cells
        and peaks kept, but not ``raw``. Several keep the columns of ``obs``, and those of ``var`` that agree.

    Raises
    ------
    InputError
        No counts (missing, NaN, negative or fractional values), an empty matrix, barcodes or peaks twice, an unknown
        layer, inputs that share no peak, or peak names that are no intervals where regions are to be left out.
    NothingLeftError
        A filter leaves no cell or no peak; it tells the distribution and a value that keeps some.
    """
    inputs = _named(adata)
    counts = {}
    for name, one in inputs.items():
        where = f"input {name!r}: " if name else ""
        _check_names(one, where)
        counts[name] = _counts(one, config.layer, where)
        for doubt in doubts(one.obs_names, one.var_names):
            warnings.warn(where + doubt, ScaleWarning, stacklevel=3)
        if twos := in_twos(counts[name]):
            _LOG.info("%s%s", where, twos)
        if progress:
            progress("reading counts", len(counts), len(inputs))
    if list(inputs) == [""]:
        rest, matrix = _rest_of(inputs[""]), counts[""]
    else:
        for doubt in doubts_about_several({name: one.var_names for name, one in inputs.items()}):
            warnings.warn(doubt, ScaleWarning, stacklevel=3)
        rest, matrix = _join(inputs, counts, config.join)
    before = matrix.shape

    peaks = _outside_regions(rest.var_names, config.drop_chromosomes, blacklist)
    matrix = _columns(matrix, peaks)
    found = _tally("cell", _row_counts(matrix), config.min_peaks, matrix.shape[1])
    cells = _enough(_row_counts(matrix), config.min_peaks, matrix.shape[1], "cell", "open peaks", "min_peaks")
    matrix = matrix if cells.all() else matrix[np.flatnonzero(cells)]
    found |= _tally("peak", _column_counts(matrix), config.min_cells, matrix.shape[0])
    kept = _enough(_column_counts(matrix), config.min_cells, matrix.shape[0], "peak", "cells it is open in", "min_cells")
    matrix = _columns(matrix, kept)
    peaks[peaks] = kept
    if progress:
        progress("filtering", 1, 1)

    result = rest[cells, peaks].copy()
    result.X = matrix
    keys.N_PEAKS.set(result, _row_counts(matrix))
    keys.N_COUNTS.set(result, np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel())
    keys.N_CELLS.set(result, _column_counts(matrix))
    keys.QC.set(result, found)
    note(
        result,
        cells_before=before[0],
        peaks_before=before[1],
        cells=matrix.shape[0],
        peaks=matrix.shape[1],
        blacklist=None if blacklist is None else _digest(blacklist),
    )
    _LOG.info(
        "kept %s of %s cells and %s of %s peaks", *(f"{n:,}" for n in (matrix.shape[0], before[0], matrix.shape[1], before[1]))
    )
    return result


def _named(adata: AnnData | Sequence[AnnData] | Mapping[str, AnnData]) -> dict[str, AnnData]:
    """Inputs by batch name; a single one without a batch has the name ''."""
    if isinstance(adata, Mapping):
        named = {str(name): one for name, one in adata.items()}
    elif isinstance(adata, Sequence):
        named = {"": adata[0]} if len(adata) == 1 else {str(number): one for number, one in enumerate(adata)}
    else:
        named = {"": adata}
    if not named:
        raise InputError("no input", "one AnnData or more")
    return {name: one.to_memory() if one.isbacked else one for name, one in named.items()}


def _check_names(adata: AnnData, where: str) -> None:
    if 0 in adata.shape:
        raise InputError(
            f"{where}the matrix is empty ({adata.n_obs:,} cells × {adata.n_vars:,} peaks)",
            "cells and peaks",
            "check the step that made it",
        )
    for names, what, slot in ((adata.obs_names, "barcode", "obs"), (adata.var_names, "peak", "var")):
        again = names[names.duplicated()].unique()
        if len(again):
            more = f" and {len(again) - 1:,} more" if len(again) > 1 else ""
            raise InputError(
                f"{where}the {what} {again[0]!r}{more} is there twice or more",
                f"every {what} once",
                f"remove or rename the copies (adata.{slot}_names_make_unique())",
            )


def _counts(adata: AnnData, layer: str | None, where: str) -> sparse.csr_matrix:
    """The counts as a new CSR float32 matrix in canonical form."""
    layers = [name for name in adata.layers if name is not None]  # from anndata 0.13 on, X is also the layer None
    if layer is not None and layer not in layers:
        raise InputError(
            f"{where}there is no layer {layer!r}", f"one of: {', '.join(layers) or 'none is there'}", "name another layer"
        )
    values = adata.X if layer is None else adata.layers[layer]
    place = "X" if layer is None else f"layers[{layer!r}]"
    if values is None:
        raise InputError(
            f"{where}X is not there", "counts", f"name a layer that holds them: {', '.join(layers) or 'none is there'}"
        )
    if not sparse.issparse(values):
        values = np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise InputError(f"{where}{place} holds values of type {values.dtype}", "counts")
    if not sparse.issparse(values):
        values = sparse.csr_matrix(values.astype(np.float32) if values.dtype == np.float16 else values)  # scipy has no float16
    elif values.format not in ("csr", "csc"):
        values = values.tocsr()
    try:
        values.check_format(full_check=True)
    except ValueError as error:
        raise InputError(f"{where}{place} is damaged ({error})", "a whole sparse matrix", "make or copy it again") from error
    _check_counts(values, adata, f"{where}{place}", layers)
    rows = values.tocsr()
    matrix = sparse.csr_matrix((rows.data.astype(np.float32), rows.indices.copy(), rows.indptr.copy()), shape=rows.shape)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _check_counts(values: Any, adata: AnnData, place: str, layers: list[str]) -> None:
    data = values.data
    if data.dtype.kind in "bu" or not len(data):
        return
    faults = [("negative", data < 0, "counts of 0 or more", "check the step that made them")]
    if data.dtype.kind == "f":
        raw = f"; layers here: {', '.join(layers)}" if layers else ""
        faults = [
            ("missing or infinite", ~np.isfinite(data), "a count everywhere", "write 0 where nothing was counted"),
            *faults,
            (
                "fractional",
                data != np.rint(data),
                "whole counts, not normalised ones",
                f"give the raw counts, or name their layer{raw}",
            ),
        ]
    for what, wrong, expected, do in faults:
        if wrong.any():
            at = int(wrong.argmax())
            line = int(np.searchsorted(values.indptr, at, side="right")) - 1
            cell, peak = (line, values.indices[at]) if values.format == "csr" else (values.indices[at], line)
            if what == "fractional" and (guess := what_was_done(values)):
                do = f"{guess}; {do}"
            raise InputError(
                f"{place} has {int(wrong.sum()):,} {what} values, first {data[at]:g} (cell {adata.obs_names[cell]}, "
                f"peak {adata.var_names[peak]})",
                expected,
                do,
            )


def _rest_of(adata: AnnData) -> AnnData:
    """Everything of a single input but X and raw, not yet copied."""
    if adata.raw is not None:
        _LOG.info("raw is left out: its peaks are not those that are filtered")
    return AnnData(
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns=dict(adata.uns),
        **{
            name: {key: value for key, value in getattr(adata, name).items() if key is not None}
            for name in ("obsm", "varm", "obsp", "varp", "layers")
        },
    )


def _join(inputs: dict[str, AnnData], counts: dict[str, sparse.csr_matrix], join: str) -> tuple[AnnData, sparse.csr_matrix]:
    """Put the inputs under one another; peaks in the order in which they are first met."""
    _check_shared_peaks(inputs, join)
    barcodes = _distinct_barcodes(inputs)
    obs = anndata.concat(
        {name: AnnData(obs=one.obs.set_axis(barcodes[name], axis=0)) for name, one in inputs.items()},
        join="outer",
        label=keys.BATCH.name,
    ).obs
    joined = anndata.concat(
        {
            name: AnnData(counts[name], obs=pd.DataFrame(index=barcodes[name]), var=one.var.copy())
            for name, one in inputs.items()
        },
        join=join,
        merge="same",
    )
    order = _in_order([one.var_names for one in inputs.values()], joined.var_names)
    matrix = joined.X if (order == np.arange(len(order))).all() else joined.X[:, order]
    matrix = sparse.csr_matrix(matrix)
    matrix.sort_indices()
    return AnnData(obs=obs, var=joined.var.iloc[order]), matrix


def _in_order(names: list[pd.Index], joined: pd.Index) -> NDArray[np.intp]:
    """Columns of the joined matrix by first appearance: a library may sort a union of names."""
    met = pd.Index(np.concatenate([one.to_numpy(dtype=object) for one in names])).unique()
    return joined.get_indexer(met[met.isin(joined)])


def _check_shared_peaks(inputs: dict[str, AnnData], join: str) -> None:
    names = {name: one.var_names for name, one in inputs.items()}
    for name, peaks in names.items():
        others = [other for key, other in names.items() if key != name]
        shared = (
            any(peaks.isin(other).any() for other in others)
            if join == "outer"
            else bool(np.logical_and.reduce([np.ones(len(peaks), bool), *(peaks.isin(other) for other in others)]).any())
        )
        if not shared:
            shown = ", ".join(f"{key}: {index[0]}" for key, index in list(names.items())[:3])
            raise InputError(
                f"the {len(inputs)} inputs share no peak (first of {shown})",
                "peaks of one set, named alike",
                "count every input over the same peaks (--fragments with --peaks)",
            )


def _distinct_barcodes(inputs: dict[str, AnnData]) -> dict[str, pd.Index]:
    """Barcodes of each input, with ``-<batch>`` behind those that several inputs have."""
    every = pd.Index(np.concatenate([one.obs_names.to_numpy(dtype=object) for one in inputs.values()]))
    shared = every[every.duplicated()].unique()
    if not len(shared):
        return {name: one.obs_names for name, one in inputs.items()}
    warnings.warn(
        f"{len(shared):,} barcodes are in several inputs: theirs got the name of the batch behind them "
        f"({shared[0]} -> {shared[0]}-{next(n for n, one in inputs.items() if shared[0] in one.obs_names)})",
        ScaleWarning,
        stacklevel=5,
    )
    result = {}
    for name, one in inputs.items():
        old = one.obs_names.to_numpy(dtype=object)
        result[name] = pd.Index(np.where(one.obs_names.isin(shared), [f"{b}-{name}" for b in old], old), dtype=object)
    new = pd.Index(np.concatenate([index.to_numpy() for index in result.values()]))
    if new.has_duplicates:
        raise InputError(
            f"the barcode {new[new.duplicated()][0]!r} is in several inputs, even with the batch behind it",
            "distinct barcodes",
            "give other batch names",
        )
    return result


def _outside_regions(names: pd.Index, chromosomes: tuple[str, ...], blacklist: pd.DataFrame | None) -> NDArray[np.bool_]:
    """Mark the peaks that lie neither on the chromosomes nor in the regions to leave out."""
    keep = np.ones(len(names), bool)
    if not chromosomes and blacklist is None:
        return keep
    purpose = " and ".join(["--drop-chromosomes"] * bool(chromosomes) + ["--blacklist"] * (blacklist is not None))
    peaks = require_intervals(names, purpose)
    here = sorted(peaks["chrom"].unique())
    shown = ", ".join(here[:4]) + (", …" if len(here) > 4 else "")
    if chromosomes:
        keep &= ~peaks["chrom"].isin(chromosomes).to_numpy()
        if keep.all():
            warnings.warn(f"no peak is on {', '.join(chromosomes)} (peaks are on {shown})", ScaleWarning, stacklevel=4)
    if blacklist is not None:
        overlaps = Overlaps(blacklist)
        hit, _ = overlaps.pairs(peaks["chrom"], peaks["start"].to_numpy(), peaks["end"].to_numpy())
        keep[hit] = False
        if not set(here) & set(overlaps.chromosomes):
            there = ", ".join(overlaps.chromosomes[:4])
            warnings.warn(
                f"no chromosome of the blacklist ({there}) has a peak (they are on {shown})", ScaleWarning, stacklevel=4
            )
    if not keep.any():
        raise NothingLeftError(
            f"{purpose} would drop all {len(names):,} peaks (on {shown})", "some peaks outside", "leave out fewer regions"
        )
    return keep


def _columns(matrix: sparse.csr_matrix, keep: NDArray[np.bool_]) -> sparse.csr_matrix:
    return matrix if keep.all() else matrix[:, np.flatnonzero(keep)]


def _row_counts(matrix: sparse.csr_matrix) -> NDArray[np.int64]:
    return np.diff(matrix.indptr).astype(np.int64)


def _column_counts(matrix: sparse.csr_matrix) -> NDArray[np.int64]:
    return np.bincount(matrix.indices, minlength=matrix.shape[1]).astype(np.int64)


def _least(minimum: float, total: int) -> float:
    """A limit in whole numbers: below 1 it is a fraction of `total`."""
    # a fraction of a whole number is off by rounding: 0.07 of 100 is 7.000000000000001
    return math.ceil(minimum * total - 1e-9 * total) if minimum < 1 else minimum


def _tally(what: str, values: NDArray[np.int64], minimum: float, total: int) -> dict[str, Any]:
    """How often each value is there before the filter, and the limit: what a knee plot is drawn from."""
    distinct, counts = np.unique(values, return_counts=True)
    return {f"{what}_values": distinct, f"{what}_counts": counts, f"{what}_least": float(_least(minimum, total))}


def _enough(values: NDArray[np.int64], minimum: float, total: int, what: str, of: str, option: str) -> NDArray[np.bool_]:
    """Mark values of at least `minimum`, below 1 a fraction of `total`; an error that helps where none is."""
    least = _least(minimum, total)
    keep = values >= least
    if keep.any():
        return keep
    low, first, median, third, high = np.percentile(values, [0, 25, 50, 75, 100])
    found = (
        f"no {what} of {len(values):,} reaches {option} {minimum:g}"
        + (f" ({least:,} of {total:,})" if minimum < 1 else "")
        + f"; {of}: lowest {low:g}, quartiles {first:g}, {median:g}, {third:g}, highest {high:g}"
    )
    if high < 1:
        raise NothingLeftError(found, "counts above 0", "check the step that made the matrix")
    some = max(1, math.floor(median))
    raise NothingLeftError(found, "", f"{option} {some} would keep {int((values >= some).sum()):,}")


def _digest(regions: pd.DataFrame) -> str:
    return blake2b(regions[COLUMNS].to_csv(index=False).encode(), digest_size=16).hexdigest()
