"""``scale impute``: the probability that each peak is open in each cell, or its binary form."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit import keys
from scale_toolkit.config import ImputeConfig
from scale_toolkit.core.decode import UINT8_STEP, BinaryRows, NumericRows
from scale_toolkit.errors import InputError, NothingLeftError, OptionError, ScaleWarning
from scale_toolkit.stages.choose import as_names, find_cells, find_peaks
from scale_toolkit.stages.decoder import check_finite, modelled_positions, read_decoder
from scale_toolkit.stages.group_means import mean_by_group
from scale_toolkit.stages.labels import check_column
from scale_toolkit.stages.stage import Result, stage
from scale_toolkit.stages.validate import WRITES as VALIDATED
from scale_toolkit.stages.validate import trusted_peaks, validate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from anndata import AnnData

    from scale_toolkit.lazy import RowBlocks
    from scale_toolkit.stages.stage import Progress

_REQUIRES = (keys.DECODER, keys.BIAS, keys.OFFSET, keys.LATENT)
_MATRICES = (keys.IMPUTED, keys.BINARY, keys.BINARY_PACKED)
_WRITES = (*_MATRICES, keys.IMPUTED_PEAKS, keys.IMPUTED_STEP, keys.GROUP_MEANS, *VALIDATED)
# A receipt lists up to this many requested peaks; of more it gives the number.
_N_NOTED = 100


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
        if config.validate_by is not None:
            slots.append(keys.column("obs", config.validate_by))
    return tuple(slots)


def _check(
    adata: AnnData,
    config: ImputeConfig,
    *,
    peaks: str | Sequence[str] | None = None,
    cells: str | Sequence[str] | None = None,
    model: bytes | None = None,
) -> None:
    """Raise what can be known before `validate` trains a model."""
    if peaks is not None and config.to == "layers":
        raise OptionError(
            "to is 'layers' and only some peaks are requested",
            "obsm: a layer has a value for every peak",
            "drop one of the two",
        )
    if not keys.BIAS.found_in(adata):
        # a stage before this one will train the model, and may write the columns
        return
    for keyword in ("per_group", "validate_by"):
        column = getattr(config, keyword)
        if column is not None:
            check_column(adata, column, keyword)
    if cells is not None:
        find_cells(adata, cells)
    if peaks is not None:
        with warnings.catch_warnings():
            # `impute` calls the function again and gives the warning then
            warnings.simplefilter("ignore", ScaleWarning)
            find_peaks(adata, peaks)


@stage(
    "impute",
    ImputeConfig,
    reads=_reads,
    requires=_REQUIRES,
    writes=_WRITES,
    check=_check,
    loads=_libraries,
)
def impute(
    adata: AnnData,
    config: ImputeConfig,
    *,
    progress: Progress | None = None,
    peaks: str | Sequence[str] | None = None,
    cells: str | Sequence[str] | None = None,
    model: bytes | None = None,
) -> Result:
    """Add imputed values to a trained AnnData; `impute.streamed` gives the matrices as blocks.

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
    - with `validate` what `stages.validate.validate` gives: ``uns['scale_validation']``,
      ``var['scale_trust']`` and more;
    - with ``to="layers"`` instead ``layers['imputed']`` and ``layers['binary']`` (cells × peaks).

    Raises
    ------
    MissingSlotError
        The AnnData does not come from `train`.
    InputError
        The arrays do not fit each other, hold NaN, or layers are requested although not every peak
        was modelled; a peak, a barcode or a column is missing.
    NothingLeftError
        None of the peaks was modelled, or no cell or peak is requested.
    """
    result = Result()
    if config.validate:
        result = validate(adata, config, progress=progress, model=model)
    trust = result.slots.get(keys.TRUST)
    if cells is not None:
        result.cells = find_cells(adata, cells)
        result.facts |= {
            "cells": cells if isinstance(cells, str) else len(cells),
            "n_cells": len(result.cells),
            "of_cells": adata.n_obs,
        }
        if keys.CELL_RECOVERY in result.slots:
            result.slots[keys.CELL_RECOVERY] = result.slots[keys.CELL_RECOVERY][result.cells]
        adata = adata[result.cells]
    columns = _columns(adata, config, peaks, trust)
    if peaks is not None:
        names = as_names(peaks, "peaks")
        listed = names if len(names) <= _N_NOTED else len(names)
        result.facts |= {"n_peaks": len(columns), "peaks": listed}
    result.blocks = _row_blocks(adata, config, columns)
    _name_columns(adata, config, result, adata.var_names[columns].to_numpy(dtype=object))
    if config.per_group is not None:
        means = mean_by_group(
            adata,
            columns,
            config.per_group,
            depth=config.depth,
            n_threads=config.n_threads,
            progress=progress,
        )
        result.slots[keys.GROUP_MEANS] = means.reindex(adata.var_names)
        result.facts["groups"] = list(means.columns)
    return result


#: The same without holding the matrices, which are computed while their blocks are read.
streamed = impute.streamed


def _row_blocks(
    adata: AnnData, config: ImputeConfig, columns: npt.NDArray[np.int64]
) -> dict[keys.Slot, RowBlocks]:
    """Return the requested matrices of these peaks as blocks; nothing is computed yet."""
    blocks: dict[keys.Slot, RowBlocks] = {}
    if config.numeric or not (config.binary or config.per_group or config.validate):
        decoder = read_decoder(adata, columns, config.depth)
        blocks[_placed(keys.IMPUTED, config)] = NumericRows(
            decoder, config.numeric_format, n_threads=config.n_threads
        )
    if config.binary:
        rates = {
            keys.CELL_OPEN_RATE: keys.CELL_OPEN_RATE.get(adata).to_numpy(),
            keys.PEAK_OPEN_RATE: keys.PEAK_OPEN_RATE.get(adata).to_numpy()[columns],
        }
        check_finite(rates)
        packed = config.binary_format == "packed"
        # the open rates were measured at each cell's own depth
        decoder = read_decoder(adata, columns, "own")
        blocks[_placed(keys.BINARY_PACKED if packed else keys.BINARY, config)] = BinaryRows(
            decoder, *rates.values(), packed=packed, n_threads=config.n_threads
        )
    return blocks


def _placed(slot: keys.Slot, config: ImputeConfig) -> keys.Slot:
    """Return the slot in obsm or in layers."""
    return dataclasses.replace(slot, where=config.to)


def _columns(
    adata: AnnData,
    config: ImputeConfig,
    peaks: str | Sequence[str] | None,
    trust: npt.NDArray[np.bool_] | None,
) -> npt.NDArray[np.int64]:
    """Return the positions of the peaks to impute; a layer needs all of them."""
    modelled = modelled_positions(adata) if peaks is None else find_peaks(adata, peaks)
    if config.only_trusted:
        modelled = _trusted(modelled, trusted_peaks(adata, trust))
    if config.to == "layers" and len(modelled) < adata.n_vars:
        if config.only_trusted:
            verdict, remedy = "are trusted", "write to obsm with only_trusted"
        else:
            verdict = "were modelled"
            remedy = "write to obsm, or train on a file that holds the selected peaks only"
        raise InputError(
            f"{len(modelled)} of {adata.n_vars} peaks {verdict}",
            "all of them: a layer has a value for every peak",
            remedy,
        )
    return modelled


def _trusted(columns: npt.NDArray[np.int64], trust: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return those of the peaks that are trusted."""
    trusted: npt.NDArray[np.int64] = columns[trust[columns]]
    if len(trusted) == 0:
        raise NothingLeftError(
            f"none of the {len(columns):,} requested peaks is trusted",
            "at least one",
            "drop only_trusted or ask for other peaks",
        )
    return trusted


def _name_columns(
    adata: AnnData, config: ImputeConfig, result: Result, names: npt.NDArray[Any]
) -> None:
    """Add the names of the columns and the step of uint8; drop older matrices of other peaks."""
    if config.numeric_format == "uint8" and _placed(keys.IMPUTED, config) in result.blocks:
        result.slots[keys.IMPUTED_STEP] = UINT8_STEP
    if config.to == "layers" or not result.blocks:
        return
    result.slots[keys.IMPUTED_PEAKS] = names
    if not keys.IMPUTED_PEAKS.found_in(adata):
        return
    if np.array_equal(keys.IMPUTED_PEAKS.get(adata), names):
        return
    stale = [slot for slot in _MATRICES if slot.found_in(adata) and slot not in result.blocks]
    for slot in stale:
        warnings.warn(
            f"{slot} is removed: its columns are other peaks than the {len(names)} imputed now; "
            "ask for numeric and binary together",
            ScaleWarning,
            stacklevel=4,
        )
    result.drops = (*result.drops, *stale)
