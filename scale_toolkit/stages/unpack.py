"""The packed forms that `impute` writes, as matrices again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit import keys
from scale_toolkit.core.decode import UINT8_STEP
from scale_toolkit.errors import InputError, MissingSlotError

if TYPE_CHECKING:
    import numpy.typing as npt
    from anndata import AnnData
    from scipy import sparse


def unpack_binary(
    adata: AnnData, cells: Any = None, *, dense: bool = False
) -> sparse.csr_matrix | npt.NDArray[Any]:
    """Return the binary matrix of some cells from packed bits.

    The bits are those of ``impute(binary=True, binary_format="packed")``.

    Parameters
    ----------
    adata
        With ``obsm['binary_packed']`` and ``uns['scale_imputed_peaks']``; not changed.
    cells
        Names, numbers, a mask or a slice; None for all.
    dense
        Give a dense array, 1 byte a value, instead of a CSR, 5 bytes a one.

    Returns
    -------
    Cells × modelled peaks, uint8, 0 or 1; the columns are the peaks of
    ``uns['scale_imputed_peaks']``.

    Raises
    ------
    MissingSlotError
        The AnnData has no packed values.
    InputError
        Their width is not that of the peaks.
    """
    n_peaks = len(keys.IMPUTED_PEAKS.get(adata))
    bits = np.asarray(keys.BINARY_PACKED.get(adata if cells is None else adata[cells]))
    if bits.shape[1] != -(-n_peaks // 8):
        raise InputError(
            f"{keys.BINARY_PACKED} has {bits.shape[1]} bytes a cell",
            f"{-(-n_peaks // 8)} for the {n_peaks} peaks of {keys.IMPUTED_PEAKS}",
            "run `scale impute --binary --binary-format packed` again",
        )
    if dense:
        return np.unpackbits(bits, axis=1, count=n_peaks, bitorder="little")
    from scale_toolkit.core.threshold import as_csr

    # `as_csr` reads 64-bit words
    padded = np.zeros((len(bits), -(-n_peaks // 64) * 8), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return as_csr(padded, n_peaks)


def unpack_numeric(adata: AnnData, cells: Any = None) -> npt.NDArray[Any]:
    """Return the probabilities of some cells, whatever the form in which `impute` stored them.

    Parameters
    ----------
    adata
        With ``obsm['imputed']`` or ``layers['imputed']``; not changed.
    cells
        Names, numbers, a mask or a slice; None for all.

    Returns
    -------
    Cells × peaks, float32, in [0, 1]: within 1/510 of what was imputed if it was stored as uint8,
    within 0.00025 as float16.

    Raises
    ------
    MissingSlotError
        The AnnData has no imputed values.
    """
    name = keys.IMPUTED.name
    attribute = "obsm" if name in adata.obsm else "layers"
    if name not in getattr(adata, attribute):
        raise MissingSlotError(
            f"{keys.IMPUTED} is missing",
            "the output of `scale impute --numeric`",
            "run `scale impute --numeric` first",
        )
    stored = np.asarray(getattr(adata if cells is None else adata[cells], attribute)[name])
    values = stored.astype(np.float32)
    if stored.dtype == np.uint8:
        values *= np.float32(UINT8_STEP)
    return values
