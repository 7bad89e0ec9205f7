"""A reference of `map`: the output of `train`, or a model file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scale_toolkit.io.h5ad import open_h5ad
from scale_toolkit.io.source import open_source
from scale_toolkit.io.stores import is_zarr_store

if TYPE_CHECKING:
    from collections.abc import Collection

    from anndata import AnnData


def read_reference(path: str | Path, without: Collection[str] = ()) -> AnnData | bytes:
    """Read an h5ad (or a zarr store, or the ATAC modality of an h5mu) into memory, or the bytes of
    a model file, which is recognised by its first bytes.

    Parameters
    ----------
    path
        A file, a pipe, or ``-`` for standard input.
    without
        Element paths of the h5ad that are not read, as in `h5ad.H5adFile.read`.
    """
    if is_zarr_store(Path(path)):
        with open_h5ad(str(path)) as file:
            return file.read(without)
    with open_source(str(path)) as source:
        if source.is_torch:
            return source.binary().read()
        with open_h5ad(source) as file:
            return file.read(without)
