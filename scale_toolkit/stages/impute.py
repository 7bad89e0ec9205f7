"""``scale impute``: the probability that each peak is open in each cell, and its binarised form, from a trained AnnData."""

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
from scale_toolkit.stages.imputed import check_finite, decoder_of, find_cells, find_peaks, mean_by_group, modelled_peaks
from scale_toolkit.stages.validate import trusted_peaks, validate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData

    from scale_toolkit.lazy import RowBlocks
    from scale_toolkit.stages._stage import Progress

_REQUIRES = (keys.DECODER, keys.BIAS, keys.OFFSET, keys.LATENT)
_NOTED = 100  # peaks asked for that a receipt lists; of more, their number

log = logging.getLogger("scale_toolkit")


def _libraries(config: ImputeConfig) -> tuple[str, ...]:
    """What has threads of its own: torch, where a model is trained."""
    return ("torch",) if config.validate else ()


def _reads(config: ImputeConfig) -> tuple[keys.Slot, ...]:
    slots = [*_REQUIRES, keys.HIDDEN, keys.VAR_NAMES]
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
    peaks: Sequence[str] | None = None,
    cells: str | Sequence[str] | None = None,
    model: bytes | None = None,
) -> AnnData:
    """Add imputed values to a trained AnnData, in memory; `streamed` is the same for results larger than memory.

    A value is sigmoid(w_j · h_i + b_j + s_i), rounded once to float32; X is not read. Peaks are taken from this AnnData's
    own ``var``, so a subset of cells or peaks made after training is imputed as such. Peaks that the model has not seen are
    left out.

    Parameters
    ----------
    adata
        The output of `train`; changed in place (a view is copied first).
    config
        See `ImputeConfig`. With neither `numeric`, `binary`, `per_group` nor `validate`, `numeric` is made.
    progress
        Called with a message, the cells done and the cells in all.
    peaks
        Impute only these: peak names, intervals ``chr1:1000-2000`` (the peaks that overlap), chromosomes. Not with
        ``to="layers"``, which have a value for every peak.
    cells
        Keep and impute only these: an expression over obs (``leiden == "3"``), or barcodes. The result is then a copy.
    model
        With `validate`: bytes of the model file that `train` kept, to encode thinned counts instead of training again.

    Returns
    -------
    AnnData with

    - ``obsm['imputed']`` (cells × modelled peaks, float32): probability that a peak is open, in [0, 1]; with
      ``numeric_format="float16"`` the nearest of those, with ``"uint8"`` the nearest number of steps of
      ``uns['scale_imputed_step']`` (1/255; `unpack_numeric`);
    - ``obsm['binary']`` (cells × modelled peaks, CSR uint8): 1 where it exceeds both the cell's and the peak's open rate;
      with ``binary_format="packed"`` instead ``obsm['binary_packed']`` (cells × modelled peaks / 8, uint8; `unpack_binary`);
    - ``uns['scale_imputed_peaks']``: the peak names of the columns, or bits, of these;
    - ``varm['imputed_groups']`` (peaks × groups, float32, a DataFrame; NaN for other peaks): with `per_group`, the mean
      probability in each group;
    - with `validate` what `stages.validate.validate` writes: ``uns['scale_validation']``, ``var['scale_trust']`` and more;
    - with ``to="layers"`` instead ``layers['imputed']`` and ``layers['binary']`` (cells × all peaks).

    Raises
    ------
    MissingSlotError
        The AnnData does not come from `train`.
    InputError
        The arrays do not fit each other, hold NaN, or layers are asked where not every peak was modelled; a peak, a
        barcode or a column asked for is not here.
    NothingLeftError
        None of the peaks was modelled, or none of the cells or peaks is asked for.
    """
    adata, results = _begin(adata, config, peaks, cells, model, progress)
    for path, rows in results.items():
        where, name = path.split("/")
        log.info("%s: %d cells × %d peaks", path, *rows.shape)
        getattr(adata, where)[name] = _in_memory(rows, lambda done, path=path: _tell(progress, path, done, adata.n_obs))
    return adata


def streamed(
    adata: AnnData,
    config: ImputeConfig | None = None,
    *,
    progress: Progress | None = None,
    peaks: Sequence[str] | None = None,
    cells: str | Sequence[str] | None = None,
    model: bytes | None = None,
    **options: Any,
) -> tuple[AnnData, dict[str, RowBlocks]]:
    """`impute` without holding the result: the AnnData with everything else, and the values as blocks of rows.

    Returns
    -------
    The AnnData with the receipt of `impute` and ``uns['scale_imputed_peaks']``; and by path (``obsm/imputed``,
    ``layers/binary``, …) the matrices, which are computed while their blocks are read.
    """
    results: dict[str, RowBlocks] = {}
    adata = _prepared(adata, config, progress=progress, peaks=peaks, cells=cells, model=model, into=results, **options)
    return adata, results


@stage("impute", ImputeConfig, reads=_reads, requires=_REQUIRES, loads=_libraries)
def _prepared(
    adata: AnnData,
    config: ImputeConfig,
    *,
    progress: Progress | None = None,
    peaks: Sequence[str] | None = None,
    cells: str | Sequence[str] | None = None,
    model: bytes | None = None,
    into: dict[str, RowBlocks],
) -> AnnData:
    """Write everything that `impute` does except its matrices, which are put `into` a dict, not yet computed."""
    adata, results = _begin(adata, config, peaks, cells, model, progress)
    into.update(results)
    return adata


def _begin(
    adata: AnnData,
    config: ImputeConfig,
    peaks: Sequence[str] | None,
    cells: str | Sequence[str] | None,
    model: bytes | None,
    progress: Progress | None,
) -> tuple[AnnData, dict[str, RowBlocks]]:
    """The cells asked for with all that is small, and the matrices, of which nothing is computed yet."""
    if config.validate:
        validate(adata, config, progress=progress, model=model)
    if cells is not None:
        chosen = find_cells(adata, cells)
        facts = {"cells": cells if isinstance(cells, str) else len(cells), "n_cells": len(chosen), "of_cells": adata.n_obs}
        adata = adata[chosen].copy()
        note(adata, **facts)
    columns = _columns(adata, config, peaks)
    results = _row_blocks(adata, config, columns)
    if peaks is not None:
        note(adata, n_peaks=len(columns), peaks=list(peaks) if len(peaks) <= _NOTED else len(peaks))
    _name_columns(adata, config, results, adata.var_names[columns].to_numpy(dtype=object))
    if config.per_group is not None:
        means = mean_by_group(adata, columns, config.per_group, progress)
        keys.GROUP_MEANS.set(adata, means.reindex(adata.var_names))
        note(adata, groups=list(means.columns))
    return adata, results


def _row_blocks(adata: AnnData, config: ImputeConfig, columns: np.ndarray) -> dict[str, RowBlocks]:
    """The matrices asked for of these peaks, by path; nothing is computed yet."""
    decoder = decoder_of(adata, columns)
    results: dict[str, RowBlocks] = {}
    if config.numeric or not (config.binary or config.per_group or config.validate):
        results[f"{config.to}/{keys.IMPUTED.name}"] = NumericRows(decoder, config.numeric_format, n_threads=config.n_threads)
    if config.binary:
        rates = {
            keys.CELL_OPEN_RATE: keys.CELL_OPEN_RATE.get(adata).to_numpy(),
            keys.PEAK_OPEN_RATE: keys.PEAK_OPEN_RATE.get(adata).to_numpy()[columns],
        }
        check_finite(rates)
        packed = config.binary_format == "packed"
        slot = keys.BINARY_PACKED if packed else keys.BINARY
        results[f"{config.to}/{slot.name}"] = BinaryRows(decoder, *rates.values(), packed=packed, n_threads=config.n_threads)
    return results


def _columns(adata: AnnData, config: ImputeConfig, peaks: Sequence[str] | None) -> np.ndarray:
    """Numbers of the peaks that are imputed: the modelled ones, or those asked for; all of them where layers are."""
    if peaks is not None:
        if config.to == "layers":
            raise OptionError(
                "to is 'layers' and only some peaks are asked for",
                "obsm: a layer has a value for every peak",
                "drop one of the two",
            )
        return _trusted(adata, find_peaks(adata, peaks), config)
    modelled = _trusted(adata, modelled_peaks(adata), config)
    if config.to == "layers" and len(modelled) < adata.n_vars:
        if config.only_trusted:
            what, do = "are trusted", "use --to obsm with --only-trusted"
        else:
            what = "were modelled"
            do = "use --to obsm, or run `scale select-peaks` without --mark-only before `scale train`"
        raise InputError(
            f"{len(modelled)} of {adata.n_vars} peaks {what}",
            "all of them: a layer has a value for every peak",
            do,
        )
    return modelled


def _trusted(adata: AnnData, columns: np.ndarray, config: ImputeConfig) -> np.ndarray:
    """Those of the peaks that are trusted, where only they are asked for."""
    if not config.only_trusted:
        return columns
    trusted = columns[trusted_peaks(adata)[columns]]
    if len(trusted) == 0:
        raise NothingLeftError(
            f"none of the {len(columns):,} peaks asked for is trusted",
            "one at least",
            "leave out --only-trusted or ask for others",
        )
    return trusted


def _name_columns(adata: AnnData, config: ImputeConfig, results: dict[str, RowBlocks], names: np.ndarray) -> None:
    """Write the peak names of the columns, and what a uint8 stands for; drop an older result that has other columns."""
    if config.numeric_format == "uint8" and any(path.endswith(keys.IMPUTED.name) for path in results):
        keys.IMPUTED_STEP.set(adata, UINT8_STEP)
    if config.to == "layers" or not results:
        return
    if keys.IMPUTED_PEAKS.found_in(adata) and not np.array_equal(keys.IMPUTED_PEAKS.get(adata), names):
        for slot in (keys.IMPUTED, keys.BINARY, keys.BINARY_PACKED):
            if slot.found_in(adata) and slot.path not in results:
                warnings.warn(
                    f"{slot} is removed: its columns are other peaks than the {len(names)} imputed now; "
                    "ask for --numeric and --binary together",
                    ScaleWarning,
                    stacklevel=4,
                )
                slot.drop(adata)
    keys.IMPUTED_PEAKS.set(adata, names)


def _in_memory(rows: RowBlocks, done: Callable[[int], None]) -> np.ndarray | sparse.csr_matrix:
    """All blocks in one matrix; a dense one is filled in place, so that it is held once."""
    whole = np.empty(rows.shape, rows.dtype) if rows.format == "dense" else []
    start = 0
    for block in rows.blocks():
        if rows.format == "dense":
            whole[start : start + block.shape[0]] = block
        else:
            whole.append(block)
        start += block.shape[0]
        done(start)
    return whole if rows.format == "dense" else sparse.vstack(whole, format="csr", dtype=rows.dtype)


def _tell(progress: Progress | None, path: str, done: int, total: int) -> None:
    if progress is not None:
        progress(f"imputing {path}", done, total)
