"""Adapter that runs episcanpy 0.4.0 with current libraries.

* It imports ``numpy.NaN`` and ``anndata.read`` (and its siblings), which NumPy 2 and anndata 0.12
  removed. They are defined during the import and deleted after it, so that no other code can rely
  on them.
* Its ``select_var_feature(nb_features=n)`` reads the n-th score by position from a labelled Series,
  which pandas 3 refuses. The threshold is computed from the library's own scores and passed as
  ``min_score``.
* Its import loads seaborn, pyplot and a dozen deprecated names: figure settings are restored and
  warnings suppressed.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from scale_toolkit.errors import ScaleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def load() -> ModuleType:
    """Import episcanpy while the names that it misses are defined.

    Raises
    ------
    ScaleError
        episcanpy is not installed, or misses other names.
    """
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings(), _names_put_back():
        warnings.simplefilter("ignore")
        try:
            import episcanpy
        except (ImportError, AttributeError) as error:
            raise ScaleError(
                f"episcanpy cannot be imported ({type(error).__name__}: {error})",
                "episcanpy 0.4",
                "use `method=variability`, which gives the same scores without it",
            ) from error
    return episcanpy


@contextmanager
def _names_put_back() -> Iterator[None]:
    import anndata

    readers = [
        "read_h5ad",
        "read_csv",
        "read_excel",
        "read_hdf",
        "read_loom",
        "read_mtx",
        "read_text",
        "read_umi_tools",
    ]
    expected_names = [(np, "NaN", np.nan), (anndata, "read", anndata.read_h5ad)]
    expected_names += [(anndata, name, getattr(anndata.io, name, None)) for name in readers]
    # vars, not hasattr: anndata still answers for some of them, with a warning
    missing = [
        (module, name, value) for module, name, value in expected_names if name not in vars(module)
    ]
    for module, name, value in missing:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, _ in missing:
            delattr(module, name)


def select_var_feature(
    is_open: sparse.csr_matrix, *, n_peaks: int | None = None, min_score: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Run episcanpy's `select_var_feature` on a binary matrix.

    Parameters
    ----------
    is_open
        Cells × peaks, 1 where a peak is open.
    n_peaks
        As the library's ``nb_features``: it keeps this many and every peak that scores as the next
        one does.
    min_score
        As the library's ``min_score``; with both given, a peak has to meet both.

    Returns
    -------
    The library's variability score of every peak (float64), and which peaks it keeps (bool).
    """
    import anndata
    import pandas as pd

    pp = load().pp
    names = pd.Index([str(j) for j in range(is_open.shape[1])])
    # float64 csr_matrix: the library sums in X's own type, and takes the first row of what sum()
    # returns
    cells = anndata.AnnData(
        sparse.csr_matrix(is_open, dtype=np.float64, copy=True), var=pd.DataFrame(index=names)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pp.cal_var(cells, show=False)
        scores = cells.var["variability_score"].to_numpy(dtype=np.float64)
        threshold = -np.inf if min_score is None else min_score
        if n_peaks is not None and n_peaks < len(scores):
            threshold = max(threshold, np.sort(scores)[::-1][n_peaks])
        selection = pp.select_var_feature(cells, min_score=threshold, show=False, copy=True)
    return scores, names.isin(selection.var_names)
