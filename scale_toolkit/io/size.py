"""Size of an input from its header: cells, peaks and stored counts, without reading the counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from scale_toolkit.errors import InputError
from scale_toolkit.io import files
from scale_toolkit.io.h5ad import h5ad_in
from scale_toolkit.io.hdf5 import open_hdf5, whole
from scale_toolkit.io.loom import is_loom
from scale_toolkit.io.mtx import size_of_folder
from scale_toolkit.io.source import open_source
from scale_toolkit.io.stores import check_store, is_zarr_store
from scale_toolkit.io.tenx import is_tenx
from scale_toolkit.needs import Size


def size_of(
    source: str | os.PathLike[str], *, modality: str | None = None, stdin: BinaryIO | None = None
) -> Size:
    """Look up the size of an h5ad, h5mu, zarr store, 10x h5, loom or mtx folder.

    Parameters
    ----------
    source
        A file or folder, or ``-`` for an h5ad on standard input.
    modality
        The modality of an h5mu, if its name does not identify it as ATAC.
    stdin
        A binary stream instead of the process's standard input.

    Returns
    -------
    Size
        Cells, peaks, and stored counts: an upper bound of the open peaks, since zeros may be
        stored. Of a multiome's 10x h5 all features count.

    Raises
    ------
    InputError
        The input is damaged, has no counts, or is of a format that does not state its size first
        (text, fragments).
    """
    path = Path(source)
    if not files.is_stream(source):
        if is_zarr_store(path):
            import zarr

            check_store(path)
            with whole(str(path), kind="zarr store"):
                return _of_matrix(zarr.open_group(path, mode="r"), str(path), zarr.Group)
        if path.is_dir():
            return Size(*size_of_folder(path))
    with open_source(source, stdin=stdin) as opened:
        if not opened.is_hdf5:
            raise InputError(
                f"{opened.name} does not state its size at its beginning",
                "an h5ad, h5mu, zarr store, 10x h5 or a folder with counts (.mtx)",
                "run `scale prepare` on it, and plan for what that writes",
            )
        with open_hdf5(opened.hdf5_file(), opened.name) as root:
            if is_tenx(root):
                with whole(opened.name, kind="10x h5"):
                    peaks, cells = (int(number) for number in root["matrix/shape"][:])
                    return Size(cells, peaks, root["matrix/data"].shape[0])
            if is_loom(root):
                peaks, cells = root["matrix"].shape
                return Size(
                    cells, peaks, cells * peaks
                )  # a dense matrix: how many are 0 is unknown
            file = h5ad_in(root, opened.name, opened.status, modality)
            return _of_matrix(file.root, file.name, h5py.Group)


def _of_matrix(root: Any, name: str, kind: type[Any]) -> Size:
    """The size of ``X`` in an open HDF5 file or zarr group."""
    # anndata up to 0.12 writes an absent X as an array without a shape
    if "X" not in root or root["X"].attrs.get("encoding-type") == "null":
        raise InputError(
            f"{name} has no counts (X)",
            "cells × peaks in X",
            "give the file that `scale prepare` reads or writes",
        )
    counts = root["X"]
    with whole(name, "X"):
        if isinstance(counts, kind):
            cells, peaks = (int(number) for number in counts.attrs["shape"])
            return Size(cells, peaks, int(counts["data"].shape[0]))
        cells, peaks = counts.shape
        return Size(cells, peaks, cells * peaks)
