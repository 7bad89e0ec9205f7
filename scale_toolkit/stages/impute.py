"""``scale impute``: the probability that each peak is open in each cell, or its binary form."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.config import ImputeConfig
from scale_toolkit.core.decode import UINT8_STEP, BinaryRows, NumericRows
from scale_toolkit.errors import InputError, NothingLeftError, OptionError, ScaleWarning
from scale_toolkit.stages._stage import note, stage
from scale_toolkit.stages.choose import as_names, find_cells, find_peaks
from scale_toolkit.stages.decoder import check_finite, modelled_positions, read_decoder
from scale_toolkit.stages.group_means import mean_by_group
from scale_toolkit.stages.validate import trusted_peaks, validate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from anndata import AnnData

    from scale_toolkit.lazy import RowBlocks
    from scale_toolkit.stages._stage import Progress

_REQUIRES = (keys.DECODER, keys.BIAS, keys.OFFSET, keys.LATENT)
_N_NOTED = 100  # a receipt lists up to this many of the peaks asked for; of more, their number

log = logging.getLogger("scale_toolkit")


def _libraries(config: ImputeConfig) -> tuple[str, ...]:
    """Return the libraries with their own threads: torch, if a model is trained."""
    return ("torch",) if config.validate else ()


def _reads(config: ImputeConfig) -> tuple[keys.Slot, ...]:
    slots = [*_REQUIRES, keys.HIDDEN, keys.VAR_NAMES]
    if config.depth == "equal":
        slots.append(keys.MEDIAN_OFFSET)
    if config.binary:
        slots += [keys.CELL_OPEN_RATE, keys.PEAK_OPEN_RATE]
    if config.per_group is not None:
        slots.append(keys.column("obs", config.per_group))
    if config.only_trusted and not config.validate:
        slots.append(keys.TRUST)
    if config.validate:
        slots += [keys.X, keys.CLUSTER, keys.COMPONENT]
    return tuple(slots)


@stage("impute", ImputeConfig, reads=_reads, requires=_REQUIRES, loads=_libraries)
def impute(
    adata: AnnData,
    config: ImputeConfig,
    *,
    progress: Progress | None = None,
    peaks: str | Sequence[str] | None = None,
    cells: str | Sequence[str] | None = None,
    model: bytes | None = None,
) -> AnnData:
    """Add imputed values to a trained AnnData, in memory; `streamed` does so without holding them.

    A value is sigmoid(w_j · h_i + b_j + s), rounded once to float32, where s is the offset of the
    data's median depth for every cell, or the cell's own (`depth`). X is not read. Peaks are taken
    from this AnnData's own ``var``, so a subset of cells or peaks made after training is imputed
    as such. Peaks that the model has not seen are left out.

    Parameters
    ----------
    adata
        The output of `train`; changed in place (a view is copied first).
    config
        See `ImputeConfig`. With neither `numeric`, `binary`, `per_group` nor `validate`, `numeric`
        is made.
    progress
        Called with a message, the number of cells done and the number of all cells.
    peaks
        Impute only these: peak names, intervals ``chr1:1000-2000`` (the peaks that overlap),
        chromosomes; a text or a list. Not with ``to="layers"``, which have a value for every peak.
    cells
        Keep and impute only these: an expression over obs (``leiden == "3"``), or barcodes. The
        result is then a copy.
    model
        With `validate`: bytes of the model file that `train` kept, to encode thinned counts
        instead of training again.

    Returns
    -------
    AnnData with

    - ``obsm['imputed']`` (cells × modelled peaks, float32): probability that a peak is open, in
      [0, 1]; with ``numeric_format="float16"`` the nearest of those, with ``"uint8"`` the nearest
      number of steps of ``uns['scale_imputed_step']`` (1/255; `unpack_numeric`);
    - ``obsm['binary']`` (cells × modelled peaks, CSR uint8): 1 if the probability at the cell's own
      depth exceeds both the cell's and the peak's open rate; with ``binary_format="packed"``
      instead ``obsm['binary_packed']`` (cells × modelled peaks / 8, uint8; `unpack_binary`);
    - ``uns['scale_imputed_peaks']``: the peak names of the columns, or bits, of these;
    - ``varm['imputed_groups']`` (peaks × groups, float32, a DataFrame; NaN for other peaks): with
      `per_group`, the mean probability in each group;
    - with `validate` what `stages.validate.validate` writes: ``uns['scale_validation']``,
      ``var['scale_trust']`` and more;
    - with ``to="layers"`` instead ``layers['imputed']`` and ``layers['binary']`` (cells × peaks).

    Raises
    ------
    MissingSlotError
        The AnnData does not come from `train`.
    InputError
        The arrays do not fit each other, hold NaN, or layers are asked for although not every peak
        was modelled; a peak, a barcode or a column is missing.
    NothingLeftError
        None of the peaks was modelled, or none of the cells or peaks is asked for.
    """
    adata, results = _begin(adata, config, peaks, cells, model, progress)
    for path, rows in results.items():
        attribute, name = path.split("/")
        log.info("%s: %d cells × %d peaks", path, *rows.shape)
        getattr(adata, attribute)[name] = _in_memory(rows, path, progress)
    return adata


def streamed(
    adata: AnnData,
    config: ImputeConfig | None = None,
    *,
    progress: Progress | None = None,
    peaks: str | Sequence[str] | None = None,
    cells: str | Sequence[str] | None = None,
    model: bytes | None = None,
    **options: Any,
) -> tuple[AnnData, dict[str, RowBlocks]]:
    """Do what `impute` does without holding the matrices.

    Returns
    -------
    The AnnData with the receipt of `impute` and ``uns['scale_imputed_peaks']``; and by path
    (``obsm/imputed``, ``layers/binary``, …) the matrices, which are computed while their blocks
    are read.
    """
    results: dict[str, RowBlocks] = {}
    inputs = {"peaks": peaks, "cells": cells, "model": model, "into": results}
    adata = _impute_streamed(adata, config, progress=progress, **inputs, **options)
    return adata, results


@stage("impute", ImputeConfig, reads=_reads, requires=_REQUIRES, loads=_libraries)
def _impute_streamed(
    adata: AnnData,
    config: ImputeConfig,
    *,
    progress: Progress | None = None,
    peaks: str | Sequence[str] | None = None,
    cells: str | Sequence[str] | None = None,
    model: bytes | None = None,
    into: dict[str, RowBlocks],
) -> AnnData:
    """Write all of `impute` except its matrices, which are put `into` a dict, not yet computed."""
    adata, results = _begin(adata, config, peaks, cells, model, progress)
    into.update(results)
    return adata


def _begin(
    adata: AnnData,
    config: ImputeConfig,
    peaks: str | Sequence[str] | None,
    cells: str | Sequence[str] | None,
    model: bytes | None,
    progress: Progress | None,
) -> tuple[AnnData, dict[str, RowBlocks]]:
    """Return the chosen cells with all that is small, and the matrices, not computed yet."""
    if config.validate:
        validate(adata, config, progress=progress, model=model)
    if cells is not None:
        chosen = find_cells(adata, cells)
        facts = {"n_cells": len(chosen), "of_cells": adata.n_obs}
        adata = adata[chosen].copy()
        note(adata, cells=cells if isinstance(cells, str) else len(cells), **facts)
    columns = _columns(adata, config, peaks)
    results = _row_blocks(adata, config, columns)
    if peaks is not None:
        names = as_names(peaks, "peaks")
        note(adata, n_peaks=len(columns), peaks=names if len(names) <= _N_NOTED else len(names))
    _name_columns(adata, config, results, adata.var_names[columns].to_numpy(dtype=object))
    if config.per_group is not None:
        means = mean_by_group(
            adata, columns, config.per_group, depth=config.depth, n_threads=config.n_threads, progress=progress
        )
        keys.GROUP_MEANS.set(adata, means.reindex(adata.var_names))
        note(adata, groups=list(means.columns))
    return adata, results


def _row_blocks(adata: AnnData, config: ImputeConfig, columns: npt.NDArray[np.int64]) -> dict[str, RowBlocks]:
    """Return the matrices asked for of these peaks, by path; nothing is computed yet."""
    results: dict[str, RowBlocks] = {}
    if config.numeric or not (config.binary or config.per_group or config.validate):
        decoder = read_decoder(adata, columns, config.depth)
        results[f"{config.to}/{keys.IMPUTED.name}"] = NumericRows(decoder, config.numeric_format, n_threads=config.n_threads)
    if config.binary:
        rates = {
            keys.CELL_OPEN_RATE: keys.CELL_OPEN_RATE.get(adata).to_numpy(),
            keys.PEAK_OPEN_RATE: keys.PEAK_OPEN_RATE.get(adata).to_numpy()[columns],
        }
        check_finite(rates)
        packed = config.binary_format == "packed"
        slot = keys.BINARY_PACKED if packed else keys.BINARY
        decoder = read_decoder(adata, columns, "own")  # the rates were measured at the cells' depth
        results[f"{config.to}/{slot.name}"] = BinaryRows(decoder, *rates.values(), packed=packed, n_threads=config.n_threads)
    return results


def _columns(adata: AnnData, config: ImputeConfig, peaks: str | Sequence[str] | None) -> npt.NDArray[np.int64]:
    """Return the positions of the peaks to impute; a layer needs all of them."""
    if peaks is not None:
        if config.to == "layers":
            raise OptionError(
                "to is 'layers' and only some peaks are asked for",
                "obsm: a layer has a value for every peak",
                "drop one of the two",
            )
        return _trusted(adata, find_peaks(adata, peaks), config)
    modelled = _trusted(adata, modelled_positions(adata), config)
    if config.to == "layers" and len(modelled) < adata.n_vars:
        if config.only_trusted:
            what, remedy = "are trusted", "write to obsm with only_trusted"
        else:
            what = "were modelled"
            remedy = "write to obsm, or train on a file that holds the selected peaks only"
        raise InputError(
            f"{len(modelled)} of {adata.n_vars} peaks {what}",
            "all of them: a layer has a value for every peak",
            remedy,
        )
    return modelled


def _trusted(adata: AnnData, columns: npt.NDArray[np.int64], config: ImputeConfig) -> npt.NDArray[np.int64]:
    """Return those of the peaks that are trusted, if only they are asked for."""
    if not config.only_trusted:
        return columns
    trusted: npt.NDArray[np.int64] = columns[trusted_peaks(adata)[columns]]
    if len(trusted) == 0:
        raise NothingLeftError(
            f"none of the {len(columns):,} peaks asked for is trusted",
            "at least one",
            "drop only_trusted or ask for other peaks",
        )
    return trusted


def _name_columns(adata: AnnData, config: ImputeConfig, results: dict[str, RowBlocks], names: npt.NDArray[Any]) -> None:
    """Write the names of the columns and the step of uint8; drop older results of other peaks."""
    if config.numeric_format == "uint8" and any(p.endswith(keys.IMPUTED.name) for p in results):
        keys.IMPUTED_STEP.set(adata, UINT8_STEP)
    if config.to == "layers" or not results:
        return
    if keys.IMPUTED_PEAKS.found_in(adata) and not np.array_equal(keys.IMPUTED_PEAKS.get(adata), names):
        for slot in (keys.IMPUTED, keys.BINARY, keys.BINARY_PACKED):
            if slot.found_in(adata) and slot.path not in results:
                warnings.warn(
                    f"{slot} is removed: its columns are other peaks than the {len(names)} "
                    "imputed now; ask for numeric and binary together",
                    ScaleWarning,
                    stacklevel=4,
                )
                slot.drop(adata)
    keys.IMPUTED_PEAKS.set(adata, names)


def _in_memory(rows: RowBlocks, path: str, progress: Progress | None) -> npt.NDArray[Any] | sparse.csr_matrix:
    """Return all blocks as one matrix; a dense one is filled in place, so that it is held once."""
    dense = np.empty(rows.shape, rows.dtype) if rows.format == "dense" else None
    sparse_blocks: list[sparse.csr_matrix] = []
    start = 0
    for block in rows.blocks():
        if dense is None:
            sparse_blocks.append(block)
        else:
            dense[start : start + block.shape[0]] = block
        start += block.shape[0]
        if progress is not None:
            progress(f"imputing {path}", start, rows.shape[0])
    return sparse.vstack(sparse_blocks, "csr", rows.dtype) if dense is None else dense
