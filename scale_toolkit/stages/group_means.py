"""Mean imputed values of groups of cells."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scale_toolkit.core.decode import NumericRows
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.stages.decoder import read_decoder
from scale_toolkit.stages.labels import check_column

if TYPE_CHECKING:
    import numpy.typing as npt
    from anndata import AnnData

    from scale_toolkit.stages.stage import Progress

#: Group of the cells whose label is missing or blank.
UNLABELLED = "unlabelled"


def mean_by_group(
    adata: AnnData,
    peak_positions: npt.NDArray[np.int64],
    column: str,
    *,
    depth: str = "equal",
    n_threads: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return the mean probability of some peaks in each group of cells, decoded in blocks.

    Parameters
    ----------
    adata
        The output of `train`.
    peak_positions
        Columns of `adata`.
    column
        Column of obs that names the groups. Cells with a missing or blank label form the group
        ``unlabelled``, and a warning gives their number.
    depth
        As in `read_decoder`.
    n_threads
        Blocks decoded at a time; 0 for the number of cores.
    progress
        Called after each block.

    Returns
    -------
    DataFrame, peaks × groups in the order of the categories (``unlabelled`` last), float32.

    Raises
    ------
    InputError
        obs has no such column, or it names no group.
    """
    codes, names = group_codes(adata, column)
    sums = np.zeros((len(names), len(peak_positions)))
    n_done = 0
    decoder = read_decoder(adata, peak_positions, depth)
    for block in NumericRows(decoder, n_threads=n_threads).blocks():
        block_codes = codes[n_done : n_done + len(block)]
        for code in np.unique(block_codes):
            sums[code] += block[block_codes == code].sum(axis=0, dtype=np.float64)
        n_done += len(block)
        if progress is not None:
            progress(f"averaging by {column}", n_done, adata.n_obs)
    means = (sums / np.bincount(codes, minlength=len(names))[:, None]).T.astype(np.float32)
    return pd.DataFrame(means, index=adata.var_names[peak_positions], columns=names)


def group_codes(adata: AnnData, column: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return the group of each cell as a code, and the names of the groups.

    Raises
    ------
    InputError
        obs has no such column, or none of its labels names a group.
    """
    check_column(adata, column, "per_group")
    labels = adata.obs[column].astype("category").cat.remove_unused_categories()
    categories = [str(name) for name in labels.cat.categories]
    names = list(dict.fromkeys(name for name in categories if name.strip()))
    if not names:
        raise InputError(
            f"obs[{column!r}] is empty in all {adata.n_obs:,} cells",
            "the group of each cell",
            "choose another column",
        )
    # pandas codes a missing label as -1, which picks the last entry
    codes_of_categories = np.array(
        [names.index(name) if name.strip() else -1 for name in categories] + [-1]
    )
    codes = codes_of_categories[labels.cat.codes.to_numpy()]
    n_unlabelled = int(np.count_nonzero(codes < 0))
    if n_unlabelled:
        if UNLABELLED not in names:
            names.append(UNLABELLED)
        codes = np.where(codes < 0, names.index(UNLABELLED), codes)
        warnings.warn(
            f"{n_unlabelled:,} of {adata.n_obs:,} cells have a missing or blank {column}; their "
            f"group is {UNLABELLED!r}",
            ScaleWarning,
            stacklevel=3,
        )
    return codes, names
