"""``scale impute``: the probability that each peak is open in each cell, and its binarised form, from a trained AnnData."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.config import ImputeConfig
from scale_toolkit.core.decode import BinaryRows, Decoder, NumericRows
from scale_toolkit.errors import InputError, NothingLeftError, ScaleWarning
from scale_toolkit.stages._stage import stage
from scale_toolkit.stages.validate import trusted_peaks, validate

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from scale_toolkit.lazy import RowBlocks
    from scale_toolkit.stages._stage import Progress

_READS = (keys.DECODER, keys.BIAS, keys.OFFSET, keys.LATENT)

log = logging.getLogger("scale_toolkit")


@stage("impute", ImputeConfig, reads=_READS)
def impute(adata: AnnData, config: ImputeConfig, *, progress: Progress | None = None, model: bytes | None = None) -> AnnData:
    """Add imputed values to a trained AnnData, in memory; `streamed` is the same for results larger than memory.

    A value is sigmoid(w_j · h_i + b_j + s_i), in float32; X is not read. Peaks are taken from this AnnData's own ``var``,
    so a subset of cells or peaks made after training is imputed as such. Peaks that the model has not seen are left out.

    Parameters
    ----------
    adata
        The output of `train`; changed in place (a view is copied first).
    config
        See `ImputeConfig`. With neither `numeric` nor `binary`, `numeric` is made.
    progress
        Called with a message, the cells done and the cells in all.
    model
        With `validate`: bytes of the model file that `train` kept, to encode thinned counts instead of training again.

    Returns
    -------
    AnnData with, where asked for,

    - ``obsm['imputed']`` (cells × modelled peaks, float32): probability that a peak is open, in [0, 1];
    - ``obsm['binary']`` (cells × modelled peaks, CSR uint8): 1 where it exceeds both the cell's and the peak's open rate;
    - ``uns['scale_imputed_peaks']``: the peak names of the columns of both;
    - with `validate` what `stages.validate.validate` writes: ``uns['scale_validation']``, ``var['scale_trust']`` and more;
    - with ``to="layers"`` instead ``layers['imputed']`` and ``layers['binary']`` (cells × all peaks).

    Raises
    ------
    MissingSlotError
        The AnnData does not come from `train`.
    InputError
        The arrays do not fit each other, hold NaN, or layers are asked where not every peak was modelled.
    NothingLeftError
        None of the peaks was modelled.
    """
    if config.validate:
        validate(adata, config, progress=progress, model=model)
    results = _row_blocks(adata, config)
    _name_columns(adata, config, results)
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
    model: bytes | None = None,
    **options: Any,
) -> tuple[AnnData, dict[str, RowBlocks]]:
    """`impute` without holding the result: the AnnData with everything else, and the values as blocks of rows.

    Returns
    -------
    The AnnData with the receipt of `impute` and ``uns['scale_imputed_peaks']``; and by path (``obsm/imputed``,
    ``layers/binary``, …) the matrices, which are computed while their blocks are read.
    """
    adata = _prepared(adata, config, progress=progress, model=model, **options)
    return adata, _row_blocks(adata, config if config is not None else ImputeConfig(**options))


@stage("impute", ImputeConfig, reads=_READS)
def _prepared(adata: AnnData, config: ImputeConfig, *, progress: Progress | None = None, model: bytes | None = None) -> AnnData:
    """Write everything that `impute` does except its matrices."""
    if config.validate:
        validate(adata, config, progress=progress, model=model)
    results = _row_blocks(adata, config)
    _name_columns(adata, config, results)
    return adata


def _row_blocks(adata: AnnData, config: ImputeConfig) -> dict[str, RowBlocks]:
    """The matrices asked for, by path; nothing is computed yet."""
    if _writes_nothing(config):
        return {}
    modelled = _modelled_peaks(adata, config)
    hidden_slot = keys.HIDDEN if keys.HIDDEN.found_in(adata) else keys.LATENT
    arrays = {
        hidden_slot: np.asarray(hidden_slot.get(adata)),
        keys.DECODER: np.asarray(keys.DECODER.get(adata))[modelled],
        keys.BIAS: keys.BIAS.get(adata).to_numpy()[modelled],
        keys.OFFSET: keys.OFFSET.get(adata).to_numpy(),
    }
    if arrays[hidden_slot].shape[1] != arrays[keys.DECODER].shape[1]:
        raise InputError(
            f"{hidden_slot} has {arrays[hidden_slot].shape[1]} columns and {keys.DECODER} has {arrays[keys.DECODER].shape[1]}",
            "the same number, from one run of `scale train`",
            "run `scale train` again on this file",
        )
    _check_finite(arrays)
    decoder = Decoder(*arrays.values())
    results: dict[str, RowBlocks] = {}
    if config.numeric or not config.binary:
        results[f"{config.to}/{keys.IMPUTED.name}"] = NumericRows(decoder)
    if config.binary:
        rates = {
            keys.CELL_OPEN_RATE: keys.CELL_OPEN_RATE.get(adata).to_numpy(),
            keys.PEAK_OPEN_RATE: keys.PEAK_OPEN_RATE.get(adata).to_numpy()[modelled],
        }
        _check_finite(rates)
        results[f"{config.to}/{keys.BINARY.name}"] = BinaryRows(decoder, *rates.values())
    return results


def _modelled_peaks(adata: AnnData, config: ImputeConfig) -> np.ndarray:
    """Which peaks the model has seen, as a mask; all of them where layers are asked."""
    modelled = keys.BIAS.get(adata).notna().to_numpy()
    if not modelled.any():
        raise NothingLeftError(
            f"none of the {adata.n_vars} peaks was modelled ({keys.BIAS} is NaN for all)",
            "at least one peak that `scale train` saw",
            "keep the peaks of var['selected'], or train on these peaks",
        )
    if config.only_trusted:
        modelled = modelled & trusted_peaks(adata)
        if config.to == "layers" and not modelled.all():
            raise InputError(
                f"{np.count_nonzero(modelled)} of {adata.n_vars} peaks are trusted",
                "all of them: a layer has a value for every peak",
                "use --to obsm with --only-trusted",
            )
    if config.to == "layers" and not modelled.all():
        raise InputError(
            f"{np.count_nonzero(modelled)} of {adata.n_vars} peaks were modelled",
            "all of them: a layer has a value for every peak",
            "use --to obsm, or run `scale select-peaks` without --mark-only before `scale train`",
        )
    return modelled


def _writes_nothing(config: ImputeConfig) -> bool:
    """Whether only a validation is asked for."""
    return config.validate and not config.numeric and not config.binary


def _check_finite(arrays: dict[keys.Slot, np.ndarray]) -> None:
    for slot, values in arrays.items():
        bad = np.count_nonzero(~np.isfinite(values))
        if bad:
            raise InputError(
                f"{slot} has {bad} of {values.size} values that are NaN or infinite",
                "numbers only, as `scale train` writes them",
                "keep the cells and peaks of one trained file (joining files leaves gaps), or train again",
            )


def outdated(adata: AnnData, config: ImputeConfig) -> list[keys.Slot]:
    """Former results in obsm whose columns are other peaks than those `impute` would write now, asked before it does."""
    if config.to == "layers" or not keys.IMPUTED_PEAKS.found_in(adata) or _writes_nothing(config):
        return []
    same = np.array_equal(keys.IMPUTED_PEAKS.get(adata), _column_names(adata, config))
    return [] if same else [keys.IMPUTED, keys.BINARY]


def _column_names(adata: AnnData, config: ImputeConfig) -> np.ndarray:
    return adata.var_names[_modelled_peaks(adata, config)].to_numpy(dtype=object)


def _name_columns(adata: AnnData, config: ImputeConfig, results: dict[str, RowBlocks]) -> None:
    """Write the peak names of the columns, and drop an older result that has other columns."""
    if config.to == "layers" or _writes_nothing(config):
        return
    names = _column_names(adata, config)
    for slot in outdated(adata, config):
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
