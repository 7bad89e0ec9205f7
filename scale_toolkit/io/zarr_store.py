"""AnnData as a zarr store: anndata's layout, matrices in blocks of rows, written atomically."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from scale_toolkit.errors import ScaleError, ScaleWarning
from scale_toolkit.io import files
from scale_toolkit.io.blocks import CHUNK, Runs, dense_chunks, strips, widened

if TYPE_CHECKING:
    from collections.abc import Iterator

    import zarr

    from scale_toolkit.lazy import RowBlocks

# Items that are copied at a time.
_STEP = 16 * CHUNK
# A chunk is a file, so chunks are larger and fewer than in HDF5.
_LARGER = 4


@contextmanager
def new_store(destination: str | os.PathLike[str]) -> Iterator[zarr.Group]:
    """Yield a new zarr group beside `destination`; on success it takes that place, on an error
    nothing is left.

    Raises
    ------
    UsageError
        `destination` is a file, or a folder with something else in it, or its own folder is
        missing.
    ScaleError
        The disk is full or refuses the write.
    """
    import anndata
    import zarr

    final = Path(os.path.realpath(destination))
    files.check_destination(final)
    try:
        with files.private_folder(final.parent, final.name) as private:
            with warnings.catch_warnings():
                # zarr and anndata warn about future formats, which users cannot change
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", ScaleWarning)
                yield zarr.open_group(
                    private / "new", mode="w", zarr_format=anndata.settings.zarr_write_format
                )
                zarr.consolidate_metadata(str(private / "new"))
            files.flush(private / "new", deep=True)
            if not (final.exists() and files.exchange(private / "new", final)):
                if final.exists():
                    final.replace(private / files.MOVED_ASIDE)
                (private / "new").replace(final)
            files.flush(final.parent)
    except OSError as error:
        if error.errno is None:
            raise
        raise ScaleError(
            f"{destination} cannot be written ({os.strerror(error.errno)})",
            "",
            "free some space or choose another place",
        ) from error


def write_blocks(root: zarr.Group, path: str, matrix: RowBlocks) -> None:
    """Write a matrix that is made in blocks of rows; memory is bounded by a strip of chunks."""
    with _threads(getattr(matrix, "n_threads", 1)):
        rows = (_write_csr if matrix.format == "csr" else _write_dense)(root, path, matrix)
    if rows != matrix.shape[0]:
        raise ValueError(f"the blocks of {path} have {rows} rows, its shape says {matrix.shape[0]}")


def _write_dense(root: zarr.Group, path: str, matrix: RowBlocks) -> int:
    chunks = dense_chunks(matrix.shape) or (1, 1)
    height = max(1, min(matrix.shape[0], _LARGER * chunks[0]))
    array = _create(root, path, matrix.shape, matrix.dtype, (height, chunks[1]))
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    rows = 0
    for strip in strips(matrix, height):
        if rows + len(strip) <= matrix.shape[0]:
            array[rows : rows + len(strip)] = strip
        rows += len(strip)
    return rows


def _write_csr(root: zarr.Group, path: str, matrix: RowBlocks) -> int:
    group = root.create_group(path)
    group.attrs.update(
        {
            "encoding-type": "csr_matrix",
            "encoding-version": "0.1.0",
            "shape": [int(n) for n in matrix.shape],
        }
    )
    length = _LARGER * CHUNK
    runs = Runs(matrix, length)
    arrays = {
        name: _create(group, name, (0,), dtype, (length,)) for name, dtype in runs.dtypes.items()
    }
    start = 0
    for run in runs:
        for name, values in run.items():
            arrays[name].resize((start + len(values),))
            arrays[name][start:] = values
        start += len(run["indices"])
    if runs.all_ones:
        # chunks that were never written are read as the fill value, and take no space
        _create(group, "data", (runs.stored,), matrix.dtype, (length,), fill_value=1)
    pointers = runs.pointers
    if pointers.dtype != arrays["indices"].dtype:
        narrow = arrays["indices"]
        # under a name of its own until it is complete: zarr cannot rename, so it is copied twice
        widened(
            narrow, lambda dtype: _create(group, "wide", narrow.shape, dtype, (length,)), length
        )
        del group["indices"]
        widened(
            group["wide"],
            lambda dtype: _create(group, "indices", narrow.shape, dtype, (length,)),
            length,
        )
        del group["wide"]
    _create(group, "indptr", pointers.shape, pointers.dtype, (length,))[:] = pointers
    return len(pointers) - 1


def copy(item: h5py.Group | h5py.Dataset, parent: zarr.Group, name: str) -> None:
    """Copy an element of an h5ad, which uses the same layout, without loading its matrices."""
    from anndata.io import read_elem, write_elem

    if isinstance(item, h5py.Group):
        group = parent.require_group(name)
        for key, value in item.items():
            copy(value, group, key)
        group.attrs.update({key: _plain(value) for key, value in item.attrs.items()})
    elif item.shape and item.dtype.kind in "biuf":
        steps = max(1, _STEP // max(1, int(np.prod(item.shape[1:]))))
        chunks = (
            (min(max(1, item.shape[0]), steps), *item.shape[1:]) if item.size else (1,) * item.ndim
        )
        array = _create(parent, name, item.shape, item.dtype, chunks)
        for start in range(0, item.shape[0] if item.size else 0, steps):
            array[start : start + steps] = item[start : start + steps]
        array.attrs.update({key: _plain(value) for key, value in item.attrs.items()})
    else:
        # names, single values and the like
        write_elem(parent, name, read_elem(item))


def _create(
    parent: zarr.Group, name: str, shape: Any, dtype: Any, chunks: Any, fill_value: int = 0
) -> zarr.Array[Any]:
    return parent.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        chunks=chunks,
        fill_value=np.dtype(dtype).type(fill_value),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


@contextmanager
def _threads(n_threads: int) -> Iterator[None]:
    import zarr

    with zarr.config.set({"threading.max_workers": n_threads} if n_threads else {}):
        yield
