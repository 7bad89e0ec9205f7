"""SCALE's binarisation of imputed values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit.errors import InputError

# Values compared at once: tens of MB.
_BLOCK_VALUES = 4_000_000


def binarization(imputed: Any, raw: Any) -> Any:
    """Turn imputed probabilities into open (1) and closed (0) by the open rates of the raw data.

    1 if a value is greater than the mean of its row *and* than the mean of its column in the
    **binarised** raw data, so orientation does not matter. SCALE 1.1.2 takes the means of the
    counts, which leaves a quarter of the ones (Leukemia 4.5 % instead of 17.7 %).

    Parameters
    ----------
    imputed
        Probabilities, array or DataFrame.
    raw
        Counts or 0/1 of the same shape, array, DataFrame or scipy sparse.

    Returns
    -------
    CSR of int8; for a DataFrame a DataFrame of int8 with the same labels.
    """
    values = np.asarray(imputed)
    is_open = raw != 0 if sparse.issparse(raw) else np.asarray(raw) != 0
    if values.shape != is_open.shape:
        raise InputError(
            f"imputed is {values.shape} and raw is {is_open.shape}",
            "the same shape",
            "give raw as it was imputed from",
        )
    rows, columns = (
        np.asarray(is_open.mean(axis=axis, dtype=np.float64)).ravel() for axis in (1, 0)
    )
    if isinstance(imputed, pd.DataFrame):
        return pd.DataFrame(
            _exceeds(values, rows, columns), index=imputed.index, columns=imputed.columns
        )
    n_rows = max(1, _BLOCK_VALUES // max(1, values.shape[1]))
    blocks = [
        sparse.csr_matrix(_exceeds(values[i : i + n_rows], rows[i : i + n_rows], columns))
        for i in range(0, len(values), n_rows)
    ]
    return (
        sparse.vstack(blocks, format="csr")
        if blocks
        else sparse.csr_matrix(values.shape, dtype=np.int8)
    )


def _exceeds(
    values: np.ndarray[Any, Any], rows: np.ndarray[Any, Any], columns: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    return ((values > rows[:, None]) & (values > columns)).astype(np.int8)
