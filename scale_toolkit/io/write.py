"""Write an AnnData as h5ad or zarr, atomically; elements that a stage left on disk are copied."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit.errors import ScaleWarning
from scale_toolkit.io import files, zarr_store
from scale_toolkit.io.blocks import (
    CHUNK,
    Hdf5Chunks,
    Runs,
    dense_chunks,
    strips,
    widened,
    write_chunks,
)
from scale_toolkit.io.kept_rows import kept_rows, rows_of
from scale_toolkit.io.sink import CheckedBlocks, Sink, new_hdf5

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import zarr
    from anndata import AnnData

    from scale_toolkit.io.h5ad import H5adFile
    from scale_toolkit.lazy import RowBlocks

MAPPINGS = ("layers", "obsm", "varm", "obsp", "varp", "uns")
# gzip, because every HDF5 reader knows it, at level 1 with shuffle: 2 to 5 times smaller counts, 20
# million of them in 5 s. Not on a pipe, where the next stage would only undo it.
_GZIP = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


def write_h5ad(
    adata: AnnData,
    destination: str | os.PathLike[str],
    *,
    carry: H5adFile | None = None,
    streamed: Mapping[str, RowBlocks] | None = None,
    stdout: BinaryIO | None = None,
) -> None:
    """Write an AnnData as h5ad: to a path whole or not at all, or to standard output (``-``); to
    ``*.zarr`` as a zarr store.

    Equal AnnData give equal bytes.

    Parameters
    ----------
    adata
        What to write; it is not modified.
    destination
        A path, or ``-``.
    carry
        The file `adata` was read from: what its `read` left out is copied from it without being
        loaded, unless `adata` or `streamed` has that element. Elements whose cells or peaks are no
        longer those of `adata` are dropped, with a `ScaleWarning`.
    streamed
        Element path -> matrix made in blocks of rows, for example ``{"obsm/imputed": blocks}``;
        memory is bounded by a block.
    stdout
        A binary stream instead of the process's standard output.

    Raises
    ------
    UsageError
        Standard output is a terminal, the folder is missing, or `destination` is the file that is
        carried from.
    ScaleError
        The disk is full or refuses the write; nothing is left behind.
    """
    streamed = dict(streamed or {})
    _check_shapes(adata, streamed)
    if files.is_zarr(destination):
        with zarr_store.new_store(destination) as store:
            _write(store, None, adata, carry, streamed, {})
        return
    if files.is_stream(destination):
        output = files.output_stream(stdout)
        with files.unlinked(buffering=0) as spool:
            with new_hdf5(spool, "the temporary file in TMPDIR") as (root, hdf5_sink):
                _write(
                    root,
                    hdf5_sink,
                    adata,
                    carry,
                    streamed,
                    _GZIP if files.is_regular(output) else {},
                )
            files.copy_to_stdout(spool, output)
        return
    if (
        carry is not None
        and carry.status is not None
        and Path(destination).exists()
        and os.path.samestat(carry.status, Path(destination).stat())
    ):
        raise files.same_file(destination)
    with (
        files.atomic(destination) as private,
        private.open("w+b", buffering=0) as file,
        new_hdf5(file, os.fspath(destination)) as (root, sink),
    ):
        _write(root, sink, adata, carry, streamed, _GZIP)


def write_anndata(group: h5py.Group, adata: AnnData) -> None:
    """Write an AnnData into a group of an open HDF5 file, compressed as `write_h5ad` does it."""
    _write(group, None, adata, None, {}, _GZIP)


def _check_shapes(adata: AnnData, streamed: Mapping[str, RowBlocks]) -> None:
    for path, blocks in streamed.items():
        expected_shape = (
            adata.shape
            if path == "X" or path.startswith("layers/")
            else (adata.n_obs, blocks.shape[1])
        )
        if tuple(blocks.shape) != tuple(expected_shape):
            raise ValueError(
                f"{path} has shape {tuple(blocks.shape)}, the cells have {tuple(expected_shape)}"
            )


def _write(
    root: h5py.File | zarr.Group,
    made: Sink | None,
    adata: AnnData,
    carry: H5adFile | None,
    streamed: Mapping[str, RowBlocks],
    compression: dict[str, Any],
) -> None:
    from anndata.io import write_elem

    root.attrs["encoding-type"], root.attrs["encoding-version"] = "anndata", "0.1.0"
    # unchanged counts are copied as they are stored: compressing them again takes longer than some
    # stages
    is_as_stored = carry is not None and carry.counts is not None and adata.X is carry.counts
    if adata.X is not None and "X" not in streamed and not is_as_stored:
        write_elem(root, "X", _plain_matrix(adata.X), dataset_kwargs=compression)
        if made is not None:
            made.check()
    is_zarr = not isinstance(root, h5py.Group)
    for axis in ("obs", "var"):
        table = _plain_table(getattr(adata, axis))
        if is_zarr:
            table = table.rename(columns=_without_slashes(table.columns, axis))
        write_elem(root, axis, table)
    for mapping in MAPPINGS:
        # from anndata 0.13 on, X is also the layer None
        elements = {
            key: value
            for key, value in getattr(adata, mapping).items()
            if key is not None and f"{mapping}/{key}" not in streamed
        }
        if is_zarr:
            renamed = _without_slashes(elements, mapping)
            elements = {renamed.get(key, key): value for key, value in elements.items()}
        options = compression if mapping == "layers" else {}
        write_elem(root, mapping, _sorted(elements), dataset_kwargs=options)
    if adata.raw is not None:
        _write_raw(root, adata.raw, compression)
    for path, blocks in sorted(streamed.items()):
        _put_blocks(root, made, path, blocks, compression)
    if carry is not None:
        left_out = ("X",) * is_as_stored + carry.left_out
        _carry(root, made, adata, carry, left_out, compression)


def _write_raw(root: h5py.Group | zarr.Group, raw: Any, compression: dict[str, Any]) -> None:
    """Write ``raw`` as anndata does, with a plain table of its peaks."""
    from anndata.io import write_elem

    group = root.create_group("raw")
    group.attrs["encoding-type"], group.attrs["encoding-version"] = "raw", "0.1.0"
    write_elem(group, "X", _plain_matrix(raw.X), dataset_kwargs=compression)
    write_elem(group, "var", _plain_table(raw.var))
    write_elem(group, "varm", dict(raw.varm))


def _sorted(value: Any) -> Any:
    """Order nested dicts by key, so that equal content gives equal bytes however it was built;
    strings become plain.
    """
    if isinstance(value, pd.DataFrame):
        return _plain_table(value)
    if isinstance(value, dict):
        return {str(key): _sorted(value[key]) for key in sorted(value, key=str)}
    return value


def _plain_matrix(matrix: Any) -> Any:
    if sparse.issparse(matrix) and not matrix.has_sorted_indices:
        matrix = matrix.sorted_indices()
    return matrix


def _plain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table that every reader of h5ad knows, whatever pandas made of its values.

    Strings become plain strings, or a category if some are missing; objects become what they all
    are; dates and mixtures become text, with a warning. A column called ``_index``, as SeuratDisk
    writes it, has a name that the format reserves: it is left out if it repeats the names, else
    renamed.
    """
    table = pd.DataFrame(table)
    if isinstance(table.index.dtype, pd.StringDtype):
        table = table.set_axis(table.index.astype(object), axis=0)
    if _RESERVED in table:
        repeats = (table[_RESERVED].astype(str) == table.index.astype(str)).all()
        new_name = next(name for name in ("index", "index_", "index__") if name not in table)
        renamed = table.rename(columns={_RESERVED: new_name})
        table = renamed.drop(columns=new_name) if repeats else renamed
    columns, as_text = {}, []
    for name in table.columns:
        column = table[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            if isinstance(column.cat.categories.dtype, pd.StringDtype):
                columns[name] = column.cat.rename_categories(column.cat.categories.astype(object))
        elif isinstance(column.dtype, pd.StringDtype):
            columns[name] = _plain_strings(column)
        elif column.dtype == object:
            kind = pd.api.types.infer_dtype(column, skipna=True)
            if kind in ("string", "empty"):
                columns[name] = _plain_strings(column)
            elif kind in _NULLABLE:
                columns[name] = column.astype(_NULLABLE[kind])
            else:
                columns[name] = _plain_strings(column.map(str, na_action="ignore"))
                as_text.append(str(name))
        elif column.dtype.kind in "mM":
            columns[name] = _plain_strings(column.astype(object).map(str, na_action="ignore"))
            as_text.append(str(name))
    if as_text:
        warnings.warn(
            f"the columns {', '.join(as_text)} hold dates or values of several kinds, "
            "which h5ad cannot store: they were written as text",
            ScaleWarning,
            stacklevel=5,
        )
    return table.assign(**columns) if columns else table


#: What objects that are all of one kind become.
_NULLABLE = {
    "boolean": "boolean",
    "integer": "Int64",
    "floating": "float64",
    "mixed-integer-float": "float64",
}
#: The name under which the format stores the names of a table.
_RESERVED = "_index"


def _plain_strings(column: pd.Series) -> pd.Series:
    strings = column.astype(object)
    return strings if strings.notna().all() else strings.astype("category")


def _without_slashes(names: Iterable[Any], place: str) -> dict[Any, str]:
    """Map names with ``/``, which a zarr store takes for folders, to names without; with a
    warning.
    """
    used_names = set(map(str, names))
    renamed = {}
    for name in names:
        if "/" not in str(name):
            continue
        new_name = str(name).replace("/", "_")
        while new_name in used_names:
            new_name += "_"
        used_names.add(new_name)
        renamed[name] = new_name
    if renamed:
        renamings = ", ".join(f"{old!r} as {new!r}" for old, new in renamed.items())
        warnings.warn(
            f"{place}: zarr allows no / in a name; written: {renamings}", ScaleWarning, stacklevel=5
        )
    return renamed


def _put_blocks(
    root: h5py.File | zarr.Group,
    made: Sink | None,
    path: str,
    blocks: RowBlocks,
    compression: dict[str, Any],
) -> None:
    if made is None:
        zarr_store.write_blocks(root, path, blocks)
        return
    made.check()
    _write_blocks(root, path, CheckedBlocks(blocks, made), compression)


def _carry(
    root: h5py.File | zarr.Group,
    made: Sink | None,
    adata: AnnData,
    carry: H5adFile,
    left_out: Sequence[str],
    compression: dict[str, Any],
) -> None:
    if not left_out:
        return
    same_cells = carry.obs_names.equals(adata.obs_names)
    same_peaks = carry.var_names.equals(adata.var_names)
    kept_cells = None if same_cells else kept_rows(carry.obs_names, adata.obs_names)
    stale = []
    for path in _leaves(carry, left_out):
        if path in root:
            continue
        mapping = path.split("/")[0]
        needs_cells = mapping in ("X", "layers", "raw", "obsm", "obsp")
        needs_peaks = mapping in ("X", "layers", "varm", "varp")
        if (
            kept_cells is not None
            and mapping in ("X", "layers", "obsm")
            and (same_peaks or not needs_peaks)
        ):
            rows = rows_of(carry.root[path], kept_cells)
            if rows is not None:
                _put_blocks(root, made, path, rows, compression if mapping != "obsm" else {})
                continue
        if (needs_cells and not same_cells) or (needs_peaks and not same_peaks):
            stale.append(path)
            continue
        parent, _, name = path.rpartition("/")
        group: Any = root[parent] if parent else root
        if isinstance(root, h5py.Group):
            # a soft link becomes its target: an element that is copied alone may lack it
            carry.root.copy(path, group, name=name, expand_soft=True)
        else:
            zarr_store.copy(carry.root[path], group, name)
    if stale:
        warnings.warn(
            f"dropped {', '.join(stale)}: their cells or peaks are no longer those of the file; "
            "run their stage again",
            ScaleWarning,
            stacklevel=4,
        )


def _leaves(carry: H5adFile, left_out: Sequence[str]) -> Iterator[str]:
    """Yield the elements to copy; a mapping is copied member by member, as some may be stale or
    replaced.
    """
    for path in left_out:
        if path in MAPPINGS:
            yield from (f"{path}/{name}" for name in carry.root[path])
        else:
            yield path


def _write_blocks(
    root: h5py.File, path: str, matrix: RowBlocks, compression: dict[str, Any]
) -> None:
    write = _write_csr if matrix.format == "csr" else _write_dense
    rows = write(root, path, matrix, compression)
    if rows != matrix.shape[0]:
        raise ValueError(f"the blocks of {path} have {rows} rows, its shape says {matrix.shape[0]}")


def _write_dense(root: h5py.File, path: str, matrix: RowBlocks, compression: dict[str, Any]) -> int:
    chunks = dense_chunks(matrix.shape)
    dataset = root.create_dataset(
        path, matrix.shape, matrix.dtype, chunks=chunks, **(compression if chunks else {})
    )
    dataset.attrs["encoding-type"], dataset.attrs["encoding-version"] = "array", "0.2.0"
    if chunks is None:
        return sum(len(block) for block in matrix.blocks())
    target, (height, width), rows = Hdf5Chunks(dataset), chunks, 0

    def pieces() -> Iterator[tuple[Hdf5Chunks, tuple[int, int], np.ndarray]]:
        nonlocal rows
        for strip in strips(matrix, height):
            top, rows = rows, rows + len(strip)
            if rows > matrix.shape[0]:
                # only counted, for the error
                continue
            for first_column in range(0, matrix.shape[1], width):
                yield target, (top, first_column), strip[:, first_column : first_column + width]
            del strip

    write_chunks(pieces(), getattr(matrix, "n_threads", 1))
    return rows


def _write_csr(root: h5py.File, path: str, matrix: RowBlocks, compression: dict[str, Any]) -> int:
    group = root.create_group(path)
    group.attrs["encoding-type"], group.attrs["encoding-version"] = "csr_matrix", "0.1.0"
    group.attrs["shape"] = np.asarray(matrix.shape, np.int64)
    runs = Runs(matrix, CHUNK)
    growing = {"shape": (0,), "maxshape": (None,), "chunks": (CHUNK,)} | compression
    targets = {
        name: Hdf5Chunks(group.create_dataset(name, dtype=dtype, **growing))
        for name, dtype in runs.dtypes.items()
    }

    def pieces() -> Iterator[tuple[Hdf5Chunks, tuple[int], np.ndarray]]:
        for number, run in enumerate(runs):
            for name, values in run.items():
                yield targets[name], (number * CHUNK,), values

    write_chunks(pieces(), getattr(matrix, "n_threads", 1))
    if runs.all_ones:
        # chunks that were never written are read as the fill value, and take no space
        data_options = {
            "shape": (runs.stored,),
            "chunks": (CHUNK,),
            "maxshape": (None,),
            "fillvalue": 1,
        }
        group.create_dataset("data", dtype=matrix.dtype, **data_options)
    pointers = runs.pointers
    if pointers.dtype != group["indices"].dtype:
        group.move("indices", "narrow")
        same_shape = growing | {"shape": group["narrow"].shape}
        widened(
            group["narrow"],
            lambda dtype: group.create_dataset("indices", dtype=dtype, **same_shape),
        )
        del group["narrow"]
    group.create_dataset("indptr", data=pointers, **compression)
    return len(pointers) - 1
