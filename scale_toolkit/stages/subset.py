"""Some cells and peaks of an AnnData, and copies that share its matrices."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from scale_toolkit.core.rows import selected
from scale_toolkit.scratch import fits_in_memory

if TYPE_CHECKING:
    from anndata import AnnData


def subset(adata: AnnData, cells: Any, peaks: Any) -> AnnData:
    """Return some cells and peaks as a new AnnData; counts that fill much of the memory are
    selected a few rows at a time.
    """
    X = None if adata.isbacked or adata.is_view else adata.X
    kept_cells, kept_peaks = np.arange(adata.n_obs)[cells], np.arange(adata.n_vars)[peaks]
    is_in_order = (np.diff(kept_cells) > 0).all() and (np.diff(kept_peaks) > 0).all()
    if (
        not is_in_order
        or not isinstance(X, sparse.csr_matrix | sparse.csr_array)
        or fits_in_memory(X.data.nbytes)
    ):
        return loaded(adata[cells, peaks])
    without_counts = shallow_copy(adata)
    without_counts.X = None
    target = without_counts[cells, peaks].copy()
    target.X = selected(
        X,
        np.isin(np.arange(adata.n_obs), kept_cells),
        np.isin(np.arange(adata.n_vars), kept_peaks),
    )
    return target


def loaded(view: AnnData) -> AnnData:
    """A view as an AnnData in memory with arrays of its own."""
    return view.to_memory() if view.isbacked else view.copy()


def shallow_copy(adata: AnnData) -> AnnData:
    """Return a new AnnData with its own obs, var and uns that shares the matrices of `adata`."""
    from anndata import AnnData

    if adata.isbacked:
        return adata.to_memory()
    # from anndata 0.13, X is also the layer None
    layers = {name: layer for name, layer in adata.layers.items() if name is not None}
    with warnings.catch_warnings():
        # said when the input was made
        warnings.filterwarnings("ignore", message=".* names are not unique")
        return AnnData(
            adata.X,
            obs=adata.obs.copy(),
            var=adata.var.copy(),
            uns=dict(adata.uns),
            obsm=dict(adata.obsm),
            varm=dict(adata.varm),
            obsp=dict(adata.obsp),
            varp=dict(adata.varp),
            layers=layers,
            raw=adata.raw,
            shape=None if adata.X is not None else adata.shape,
        )
