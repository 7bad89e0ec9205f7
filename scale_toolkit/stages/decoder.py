"""The decoder's arrays, read from the slots that `train` writes and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit import keys
from scale_toolkit.core.decode import Decoder
from scale_toolkit.errors import InputError, NothingLeftError, OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from anndata import AnnData

DEPTHS = ("equal", "own")


def read_decoder(
    adata: AnnData, peak_positions: npt.NDArray[np.int64], depth: str = "equal"
) -> Decoder:
    """Return the decoder of all cells and of some peaks.

    Parameters
    ----------
    adata
        The output of `train`.
    peak_positions
        Columns of `adata`, in the order of the result.
    depth
        ``"equal"``: every cell has the offset `median_offset`, so that two cells of one kind get
        the same values whatever their depth. ``"own"``: the offset of the cell itself, which is
        the likelihood that was fitted.

    Returns
    -------
    Decoder
        Its arrays are copies: later changes of `adata` do not reach it.

    Raises
    ------
    MissingSlotError
        The AnnData does not come from `train`.
    InputError
        The arrays do not fit each other, or hold NaN.
    """
    if depth not in DEPTHS:
        raise OptionError(f"depth is {depth!r}", f"one of {', '.join(DEPTHS)}")
    hidden_slot = keys.HIDDEN if keys.HIDDEN.found_in(adata) else keys.LATENT
    arrays = {
        hidden_slot: np.array(hidden_slot.get(adata)),
        keys.DECODER: np.asarray(keys.DECODER.get(adata))[peak_positions],
        keys.BIAS: keys.BIAS.get(adata).to_numpy()[peak_positions],
        keys.OFFSET: np.array(keys.OFFSET.get(adata)),
    }
    n_hidden, n_loadings = arrays[hidden_slot].shape[1], arrays[keys.DECODER].shape[1]
    if n_hidden != n_loadings:
        raise InputError(
            f"{hidden_slot} has {n_hidden} columns and {keys.DECODER} has {n_loadings}",
            "the same number, from one run of `scale train`",
            "run `scale train` again on this file",
        )
    check_finite(arrays)
    if depth == "equal":
        arrays[keys.OFFSET] = np.full(adata.n_obs, median_offset(adata))
    return Decoder(*arrays.values())


def median_offset(adata: AnnData) -> float:
    """Return the depth offset s̄ of a cell of median depth.

    `train` stores it, so that a subset of the cells keeps the value of all of them; for a file
    without it (older versions, joined files), it is the median over the cells of `adata`.
    """
    if keys.MEDIAN_OFFSET.found_in(adata):
        return float(keys.MEDIAN_OFFSET.get(adata))
    return float(np.median(keys.OFFSET.get(adata)))


def check_finite(arrays: Mapping[keys.Slot, npt.NDArray[Any]]) -> None:
    """Raise `InputError` if a slot holds NaN or infinity."""
    for slot, values in arrays.items():
        n_bad = np.count_nonzero(~np.isfinite(values))
        if n_bad:
            raise InputError(
                f"{slot} has {n_bad} of {values.size} values that are NaN or infinite",
                "numbers only, as `scale train` writes them",
                "keep the cells and peaks of one trained file (joining files leaves gaps), or "
                "train again",
            )


def modelled_positions(adata: AnnData) -> npt.NDArray[np.int64]:
    """Return the positions of the peaks that the model has seen, in the order of `adata`.

    Raises
    ------
    NothingLeftError
        None of the peaks was modelled.
    """
    modelled = keys.BIAS.get(adata).notna().to_numpy()
    if not modelled.any():
        raise NothingLeftError(
            f"none of the {adata.n_vars} peaks was modelled ({keys.BIAS} is NaN for all)",
            "at least one peak that `scale train` saw",
            "keep the peaks of var['selected'], or train on these peaks",
        )
    return np.flatnonzero(modelled)
