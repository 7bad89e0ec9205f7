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
    """Return some cells and peaks as a new AnnData; CSR matrices of X and layers that fill much of
    the memory are selected a few rows at a time.
    """
    kept_cells, kept_peaks = np.arange(adata.n_obs)[cells], np.arange(adata.n_vars)[peaks]
    is_in_order = (np.diff(kept_cells) > 0).all() and (np.diff(kept_peaks) > 0).all()
    large = {} if adata.isbacked or adata.is_view or not is_in_order else _large_matrices(adata)
    if not large:
        return loaded(adata[cells, peaks])
    without_large = shallow_copy(adata)
    for name in large:
        if name is None:
            without_large.X = None
        else:
            del without_large.layers[name]
    target = without_large[cells, peaks].copy()
    flags = [
        np.isin(np.arange(n), kept_numbers)
        for n, kept_numbers in zip(adata.shape, (kept_cells, kept_peaks), strict=True)
    ]
    for name, matrix in large.items():
        selection = selected(matrix, *flags)
        if name is None:
            target.X = selection
        else:
            target.layers[name] = selection
    return target


def _large_matrices(adata: AnnData) -> dict[str | None, sparse.csr_matrix]:
    """CSR matrices of which a copy does not fit into memory: of X (None) and layers, by name."""
    matrices = {None: adata.X} | {name: layer for name, layer in adata.layers.items() if name}
    return {
        name: matrix
        for name, matrix in matrices.items()
        if isinstance(matrix, sparse.csr_matrix | sparse.csr_array)
        and not fits_in_memory(matrix.data.nbytes)
    }


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
