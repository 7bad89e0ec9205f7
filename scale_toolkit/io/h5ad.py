"""h5ad files and streams: read without what a stage does not need, write atomically, copy the rest group by group."""

from __future__ import annotations

import math
import os
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit.errors import InputError, ScaleError, ScaleWarning, UsageError
from scale_toolkit.io import files, stores, zarr_store
from scale_toolkit.io.blocks import CHUNK, Hdf5Chunks, Runs, dense_chunks, strips, write_chunks
from scale_toolkit.memory import bounded, check_fits

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    import zarr
    from anndata import AnnData

    from scale_toolkit.lazy import RowBlocks

_MAPPINGS = ("layers", "obsm", "varm", "obsp", "varp", "uns")
_RAW = ("X", "var", "varm")
# gzip, because every HDF5 reader knows it, at level 1 with shuffle: 2 to 5 times smaller counts, 20 million of them in 5 s.
# Not on a pipe, where the next stage would only undo it.
_GZIP = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


class H5adFile:
    """An open h5ad: `read` what is needed, hand the rest to `write_h5ad` as ``carry``.

    Attributes
    ----------
    name
        Its name for messages.
    root
        The open HDF5 file, read only.
    left_out
        Element paths that the last `read` left on disk.
    obs_names, var_names
        Barcodes and peaks as the last `read` found them.
    """

    def __init__(self, root: h5py.File, name: str, status: os.stat_result | None) -> None:
        self.root, self.name, self.status = root, name, status
        self.left_out: tuple[str, ...] = ()
        self.obs_names = self.var_names = pd.Index([])

    def read(self, without: Collection[str] = ()) -> AnnData:
        """Read the file into memory.

        Parameters
        ----------
        without
            Element paths to leave on disk (``"X"``, ``"layers"``, ``"raw"``, ``"obsm/imputed"``); ``X`` is then None.

        Returns
        -------
        AnnData
            X as stored: CSR, CSC or dense.
        """
        import anndata

        without = set(without)
        with whole(self.name):
            with bounded(FOR_A_LOOK):
                size = sum(stored_sizes(self.root, without))
            check_fits(size, f"reading {self.name}", MORE_MEMORY)
            with bounded(FOR_THE_REST + 4 * size), warnings.catch_warnings():
                # duplicate names are an error of `prepare`, with figures; anndata's hint would come first, and without them
                warnings.filterwarnings("ignore", message=".*names are not unique", category=UserWarning)
                adata = anndata.AnnData(**self._elements(without))
            self.left_out = tuple(sorted(path for path in without if path in self.root))
        self.obs_names, self.var_names = adata.obs_names.copy(), adata.var_names.copy()
        return adata

    def read_only(self, wanted: Collection[str]) -> AnnData:
        """Read obs, var and the elements of these paths, as far as they are there; the rest stays on disk."""
        inside = {f"{mapping}/{name}" for mapping in _MAPPINGS if mapping in self.root for name in self.root[mapping]}
        return self.read(({"X", "raw"} | inside) - set(wanted))

    def rows(self, path: str, cells: np.ndarray) -> np.ndarray | sparse.csr_matrix:
        """Read some rows (ascending numbers) of a matrix, dense or CSR; one that is stored by columns is read whole."""
        from anndata.io import sparse_dataset

        element = self.root[path]
        try:
            if isinstance(element, h5py.Dataset):
                return element[cells]
            return sparse.csr_matrix(sparse_dataset(element)[cells])
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise _unreadable(self.name, path, error) from error

    def peaks(self) -> list[str]:
        """Names of the peaks, without reading anything else."""
        return [str(name) for name in self._table("var").index]

    def _elements(self, without: set[str]) -> dict[str, Any]:
        found: dict[str, Any] = {name: self._table(name) for name in ("obs", "var")}
        if "X" in self.root and "X" not in without:
            found["X"] = _read(self, "X")
        if "raw" in self.root and "raw" not in without:
            found["raw"] = {part: _read(self, f"raw/{part}") for part in _RAW if f"raw/{part}" in self.root}
        for mapping in _MAPPINGS:
            if mapping in self.root and mapping not in without:
                inside = [name for name in self.root[mapping] if f"{mapping}/{name}" not in without]
                found[mapping] = {name: _read(self, f"{mapping}/{name}") for name in inside}
        return found

    def _table(self, name: str) -> pd.DataFrame:
        group = self.root[name]
        if not isinstance(group, h5py.Dataset):
            return _read(self, name)
        # anndata before 0.7: one compound array, the index its first field, categories of a column in uns
        table = pd.DataFrame.from_records(group[:], index=group.dtype.names[0])
        table.index = pd.Index([_text(value) for value in table.index], dtype=object)
        for column in table:
            if f"uns/{column}_categories" in self.root:
                categories = [_text(value) for value in np.atleast_1d(self.root[f"uns/{column}_categories"][()])]
                table[column] = pd.Categorical.from_codes(table[column], categories)
            elif table[column].dtype == object:
                table[column] = [_text(value) for value in table[column]]
        return table


#: Bytes that looking at a file, and reading it, may take besides the data; an undamaged file needs a hundredth of it.
FOR_A_LOOK, FOR_THE_REST = 1 << 29, 2 << 30

#: What to do where a file does not fit.
MORE_MEMORY = "ask for more memory, or prepare fewer cells and peaks; a file that is small on disk is damaged"


def stored_sizes(root: h5py.Group, without: set[str] = frozenset()) -> list[int]:
    """Bytes that each dataset under `root` takes in memory, by what its header promises; `without`: paths to pass over."""
    sizes: list[int] = []
    waiting, seen = [("", root)], set()
    while waiting:
        path, group = waiting.pop()
        for name in group:
            here = f"{path}/{name}".lstrip("/")
            try:
                item = None if here in without else group.get(name)
                address = None if item is None else h5py.h5o.get_info(item.id).addr
            except (OSError, KeyError, RuntimeError):  # damaged: what reads it says so
                continue
            if address is None or address in seen:
                continue
            seen.add(address)  # a group may hold itself
            if isinstance(item, h5py.Group):
                waiting.append((here, item))
            elif isinstance(item, h5py.Dataset):
                sizes.append(math.prod(item.shape or (1,)) * item.dtype.itemsize)
    return sizes


@contextmanager
def open_h5ad(
    source: str | os.PathLike[str], *, stdin: BinaryIO | None = None, modality: str | None = None
) -> Iterator[H5adFile]:
    """Open an h5ad for reading, or a zarr store or the ATAC modality of an h5mu as if they were one.

    Parameters
    ----------
    source
        A path, or ``-`` for standard input. A pipe is copied to an unlinked temporary file in TMPDIR; a file redirected
        to standard input (``< cells.h5ad``) is read where it is. A zarr store is copied to such a file as well.
    stdin
        A binary stream instead of the process's standard input.
    modality
        The modality of an h5mu, where its name does not say that it is ATAC.

    Yields
    ------
    H5adFile
        Open until the block ends.

    Raises
    ------
    UsageError
        Standard input is a terminal.
    InputError
        The input is absent, empty, truncated, no HDF5, HDF5 that is no h5ad, or compressed in a way unknown here; or it has no
        modality, or several, that may be ATAC.
    """
    with ExitStack() as stack:
        if files.is_stream(source):
            name = "standard input"
            stream = files.input_stream(stdin)
            if not stream.seekable():
                spool = stack.enter_context(files.unlinked())
                files.seekable_copy(stream, spool)
                stream = spool
            if stream.seek(0, os.SEEK_END) == 0:
                raise InputError(
                    "standard input is empty (0 bytes)", "the h5ad of the stage before", "look at that stage's error above"
                )
            stream.seek(0)
            place, status = stream, files.status_of(stream)
        elif stores.is_zarr_store(Path(source)):
            name = os.fspath(source)
            place = stack.enter_context(files.unlinked())
            with h5py.File(place, "w") as root:
                stores.copy_zarr(Path(source), root)
            status = Path(source).stat()
        else:
            name = os.fspath(source)
            place = files.existing_file(source)
            status = place.stat()
        with bounded(FOR_A_LOOK):
            root = stack.enter_context(_open(place, name))
        with whole(name), bounded(FOR_A_LOOK):
            stores.check_filters(root, name)
            if stores.is_mudata(root):
                root = stores.modality_of(root, name, modality)
            elif modality is not None:
                raise UsageError(f"--modality {modality}, and {name} has no modalities", "an h5mu", "drop --modality")
            _check_is_h5ad(root, name)
        yield H5adFile(root, name, status)


def write_h5ad(
    adata: AnnData,
    destination: str | os.PathLike[str],
    *,
    carry: H5adFile | None = None,
    streamed: Mapping[str, RowBlocks] | None = None,
    stdout: BinaryIO | None = None,
) -> None:
    """Write an AnnData as h5ad: to a path whole or not at all, or to standard output (``-``); to ``*.zarr`` as a zarr store.

    Equal AnnData give equal bytes.

    Parameters
    ----------
    adata
        What to write; it is not modified.
    destination
        A path, or ``-``.
    carry
        The file `adata` was read from: what its `read` left out is copied from it without being loaded, unless `adata`
        or `streamed` has that element. Elements whose cells or peaks are no longer those of `adata` are dropped, with a
        `ScaleWarning`.
    streamed
        Element path -> matrix made in blocks of rows, for example ``{"obsm/imputed": blocks}``; memory is bounded by a block.
    stdout
        A binary stream instead of the process's standard output.

    Raises
    ------
    UsageError
        Standard output is a terminal, the folder is missing, or `destination` is the file that is carried from.
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
        sink = files.output_stream(stdout)
        with files.unlinked(buffering=0) as spool:
            with _new_file(spool, "the temporary file in TMPDIR") as (root, made):
                _write(root, made, adata, carry, streamed, _GZIP if files.is_regular(sink) else {})
            files.copy_to_stdout(spool, sink)
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
        _new_file(file, os.fspath(destination)) as (root, made),
    ):
        _write(root, made, adata, carry, streamed, _GZIP)


def write_anndata(group: h5py.Group, adata: AnnData) -> None:
    """Write an AnnData into a group of an open HDF5 file, compressed as `write_h5ad` does it."""
    _write(group, None, adata, None, {}, _GZIP)


def _open(place: Path | IO[bytes], name: str) -> h5py.File:
    # HDF5 refuses the descriptor paths of unlinked files, so a stream goes in as an object, which is as fast
    try:
        return h5py.File(place, "r")
    except OSError as error:
        text = str(error)
        if "truncated" in text or "eof" in text.lower():
            raise InputError(f"{name} is truncated", "a whole h5ad", "make or copy it again") from error
        if "signature" in text:
            raise InputError(f"{name} is no HDF5 file", "an h5ad", "other formats enter through `scale prepare`") from error
        raise _unreadable(name, "the file", error) from error


def _check_is_h5ad(root: h5py.File, name: str) -> None:
    if "obs" in root and "var" in root:
        return
    if "matrix" in root and "barcodes" in root["matrix"]:
        raise InputError(f"{name} is a 10x h5", "an h5ad", "run `scale prepare` on it first")
    found = ", ".join(sorted(root)[:5]) or "nothing"
    raise InputError(f"{name} is no h5ad (it holds {found})", "obs and var", "read it with the program that wrote it")


@contextmanager
def whole(name: str, what: str = "the file", kind: str = "h5ad") -> Iterator[None]:
    """Say of whatever HDF5, h5py or anndata raise that the file is damaged: its bytes can make them raise anything."""
    try:
        yield
    except ScaleError:
        raise
    except MemoryError as error:  # its size was looked at before: it asks for what its size does not explain
        raise _unreadable(name, what, MemoryError("it asks for too much memory"), kind) from error
    except Exception as error:
        raise _unreadable(name, what, error, kind) from error


def _read(file: H5adFile, path: str) -> Any:
    from anndata import OldFormatWarning
    from anndata.io import read_elem

    with whole(file.name, path), warnings.catch_warnings():
        warnings.simplefilter("ignore", OldFormatWarning)
        return read_elem(file.root[path])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _unreadable(name: str, what: str, error: Exception, kind: str = "h5ad") -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return InputError(f"{name}: {what} cannot be read ({reason})", f"a whole {kind}", "make or copy it again")


class _Checked:
    """Row blocks that stop being made when the disk is full."""

    def __init__(self, matrix: RowBlocks, made: _Sink) -> None:
        self._matrix, self._made = matrix, made
        self.shape, self.dtype, self.format = matrix.shape, matrix.dtype, matrix.format
        self.n_threads, self.all_ones = getattr(matrix, "n_threads", 1), getattr(matrix, "all_ones", False)

    def blocks(self) -> Iterator[np.ndarray | sparse.csr_matrix]:
        for block in self._matrix.blocks():
            self._made.check()
            yield block
            del block  # or it would live on while the next one is made


class _Sink:
    """The file HDF5 writes to. When the disk refuses a write, that and all later ones are kept in memory instead.

    HDF5 does not survive a failed write: it reports it again for every object it closes, past any `except`, and may
    crash. So it is told that all is well, reads back what it wrote, and `check` stops the work after the current piece.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._at = 0
        self._kept: list[tuple[int, bytes]] = []
        self.failure: OSError | None = None

    def check(self) -> None:
        """Raise what the disk refused."""
        if self.failure is not None:
            raise self.failure

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            offset += max([self._file.seek(0, os.SEEK_END), *(start + len(data) for start, data in self._kept)])
        self._at = offset + (self._at if whence == os.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.failure is None:
            try:
                self._file.seek(self._at)
                done = 0
                while done < len(view):  # one call writes 2 GiB at most, and less where the disk is about to be full
                    done += self._file.write(view[done:])
            except OSError as error:
                self.failure = error
        if self.failure is not None:
            self._kept.append((self._at, bytes(view)))
        self._at += len(view)
        return len(view)

    def read(self, size: int) -> bytes:
        buffer = bytearray(size)
        self.readinto(buffer)
        return bytes(buffer)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._at)
        got = 0
        while more := self._file.readinto(view[got:]):
            got += more
        view[got:] = bytes(len(view) - got)
        for start, data in self._kept:
            first, last = max(start, self._at), min(start + len(data), self._at + len(view))
            if first < last:
                view[first - self._at : last - self._at] = data[first - start : last - start]
        self._at += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        if self.failure is None:
            self._file.truncate(size)
        return self._at if size is None else size

    def flush(self) -> None:
        if self.failure is None:
            self._file.flush()


@contextmanager
def _new_file(file: IO[bytes], name: str) -> Iterator[tuple[h5py.File, _Sink]]:
    """Yield a new HDF5 file inside an unbuffered open one; a full disk becomes one line."""
    sink = _Sink(file)
    try:
        with h5py.File(sink, "w") as root:
            yield root, sink
        sink.check()
    except OSError as error:
        if error is not sink.failure:
            raise
        raise ScaleError(
            f"{name} cannot be written ({error.strerror})", "", "free some space or choose another place"
        ) from error


def _check_shapes(adata: AnnData, streamed: Mapping[str, RowBlocks]) -> None:
    for path, blocks in streamed.items():
        wanted = adata.shape if path == "X" or path.startswith("layers/") else (adata.n_obs, blocks.shape[1])
        if tuple(blocks.shape) != tuple(wanted):
            raise ValueError(f"{path} has shape {tuple(blocks.shape)}, the cells have {tuple(wanted)}")


def _write(
    root: h5py.File | zarr.Group,
    made: _Sink | None,
    adata: AnnData,
    carry: H5adFile | None,
    streamed: Mapping[str, RowBlocks],
    compression: dict[str, Any],
) -> None:
    from anndata.io import write_elem

    root.attrs["encoding-type"], root.attrs["encoding-version"] = "anndata", "0.1.0"
    if adata.X is not None and "X" not in streamed:
        write_elem(root, "X", _plain_matrix(adata.X), dataset_kwargs=compression)
        if made is not None:
            made.check()
    write_elem(root, "obs", _plain_table(adata.obs))
    write_elem(root, "var", _plain_table(adata.var))
    for mapping in _MAPPINGS:
        # from anndata 0.13 on, X is also the layer None
        elements = {k: v for k, v in getattr(adata, mapping).items() if k is not None and f"{mapping}/{k}" not in streamed}
        write_elem(root, mapping, _sorted(elements), dataset_kwargs=compression if mapping == "layers" else {})
    if adata.raw is not None:
        write_elem(root, "raw", adata.raw, dataset_kwargs=compression)
    for path, blocks in sorted(streamed.items()):
        _put_blocks(root, made, path, blocks, compression)
    if carry is not None:
        _carry(root, made, adata, carry, compression)


def _sorted(value: Any) -> Any:
    """Order nested dicts by key, so that equal content gives equal bytes however it was built; strings become plain."""
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
    """Turn strings into what every reader knows, whatever pandas made them: plain, or a category where some are missing."""
    table = pd.DataFrame(table)
    if isinstance(table.index.dtype, pd.StringDtype):
        table = table.set_axis(table.index.astype(object), axis=0)
    columns = {}
    for name in table.columns:
        column = table[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            if isinstance(column.cat.categories.dtype, pd.StringDtype):
                columns[name] = column.cat.rename_categories(column.cat.categories.astype(object))
        elif isinstance(column.dtype, pd.StringDtype) or (
            column.dtype == object and pd.api.types.infer_dtype(column, skipna=True) == "string"
        ):
            columns[name] = column.astype(object) if column.notna().all() else column.astype(object).astype("category")
    return table.assign(**columns) if columns else table


def _put_blocks(
    root: h5py.File | zarr.Group, made: _Sink | None, path: str, blocks: RowBlocks, compression: dict[str, Any]
) -> None:
    if made is None:
        zarr_store.write_blocks(root, path, blocks)
        return
    made.check()
    _write_blocks(root, path, _Checked(blocks, made), compression)


def _carry(
    root: h5py.File | zarr.Group, made: _Sink | None, adata: AnnData, carry: H5adFile, compression: dict[str, Any]
) -> None:
    if not carry.left_out:
        return
    same_cells = carry.obs_names.equals(adata.obs_names)
    same_peaks = carry.var_names.equals(adata.var_names)
    kept = None if same_cells else _kept_rows(carry.obs_names, adata.obs_names)
    stale = []
    for path in _leaves(carry):
        if path in root:
            continue
        place = path.split("/")[0]
        needs_cells = place in ("X", "layers", "raw", "obsm", "obsp")
        needs_peaks = place in ("X", "layers", "varm", "varp")
        if kept is not None and place in ("X", "layers", "obsm") and (same_peaks or not needs_peaks):
            rows = _rows_of(carry.root[path], kept)
            if rows is not None:
                _put_blocks(root, made, path, rows, compression if place != "obsm" else {})
                continue
        if (needs_cells and not same_cells) or (needs_peaks and not same_peaks):
            stale.append(path)
            continue
        parent, _, name = path.rpartition("/")
        place = root[parent] if parent else root
        if isinstance(root, h5py.File):
            carry.root.copy(path, place, name=name)
        else:
            zarr_store.copy(carry.root[path], place, name)
    if stale:
        warnings.warn(
            f"dropped {', '.join(stale)}: their cells or peaks are no longer those of the file; run their stage again",
            ScaleWarning,
            stacklevel=4,
        )


def _kept_rows(before: pd.Index, now: pd.Index) -> np.ndarray | None:
    """Numbers of the cells that are left of those that were, where they are some of them in the same order."""
    if not before.is_unique or not now.is_unique:
        return None
    rows = before.get_indexer(now)
    return rows if (rows >= 0).all() and (np.diff(rows) > 0).all() else None


def _rows_of(element: h5py.Group | h5py.Dataset, kept: np.ndarray) -> RowBlocks | None:
    """Some rows of a dense or CSR matrix on disk, read block by block; None for what has no rows at hand."""
    kind = element.attrs.get("encoding-type")
    if kind == "csr_matrix":
        return _SomeRows(element, tuple(element.attrs["shape"]), element["data"].dtype, "csr", kept)
    if kind == "array" and element.ndim == 2:
        return _SomeRows(element, element.shape, element.dtype, "dense", kept)
    return None


class _SomeRows:
    """Some rows of a matrix on disk, read in blocks of so many values."""

    step = 1 << 23

    def __init__(self, element: Any, shape: tuple[int, int], dtype: np.dtype, format: str, kept: np.ndarray) -> None:
        self._element, self._kept = element, kept
        self.shape, self.dtype, self.format = (len(kept), int(shape[1])), dtype, format

    def blocks(self) -> Iterator[np.ndarray | sparse.csr_matrix]:
        if self.format == "csr":
            ends = self._element["indptr"][:].astype(np.int64)
        else:
            ends = np.arange(self._element.shape[0] + 1) * self.shape[1]
        start = 0
        while start < len(ends) - 1:
            stop = max(start + 1, int(np.searchsorted(ends, ends[start] + self.step, "right")) - 1)
            chosen = self._kept[np.searchsorted(self._kept, start) : np.searchsorted(self._kept, stop)] - start
            if len(chosen):
                yield self._read(ends, start, stop)[chosen]
            start = stop

    def _read(self, ends: np.ndarray, start: int, stop: int) -> np.ndarray | sparse.csr_matrix:
        if self.format == "dense":
            return self._element[start:stop]
        part = slice(ends[start], ends[stop])
        arrays = (self._element["data"][part], self._element["indices"][part], ends[start : stop + 1] - ends[start])
        return sparse.csr_matrix(arrays, (stop - start, self.shape[1]))


def _leaves(carry: H5adFile) -> Iterator[str]:
    """Elements to copy: a mapping left out whole is copied member by member, for some may be stale or replaced."""
    for path in carry.left_out:
        if path in _MAPPINGS:
            yield from (f"{path}/{name}" for name in carry.root[path])
        else:
            yield path


def _write_blocks(root: h5py.File, path: str, matrix: RowBlocks, compression: dict[str, Any]) -> None:
    write = _write_csr if matrix.format == "csr" else _write_dense
    rows = write(root, path, matrix, compression)
    if rows != matrix.shape[0]:
        raise ValueError(f"the blocks of {path} have {rows} rows, its shape says {matrix.shape[0]}")


def _write_dense(root: h5py.File, path: str, matrix: RowBlocks, compression: dict[str, Any]) -> int:
    chunks = dense_chunks(matrix.shape)
    dataset = root.create_dataset(path, matrix.shape, matrix.dtype, chunks=chunks, **(compression if chunks else {}))
    dataset.attrs["encoding-type"], dataset.attrs["encoding-version"] = "array", "0.2.0"
    if chunks is None:
        return sum(len(block) for block in matrix.blocks())
    target, (height, width), rows = Hdf5Chunks(dataset), chunks, 0

    def pieces() -> Iterator[tuple[Hdf5Chunks, tuple[int, int], np.ndarray]]:
        nonlocal rows
        for strip in strips(matrix, height):
            top, rows = rows, rows + len(strip)
            if rows > matrix.shape[0]:
                continue  # counted, for the error
            for left in range(0, matrix.shape[1], width):
                yield target, (top, left), strip[:, left : left + width]
            del strip

    write_chunks(pieces(), getattr(matrix, "n_threads", 1))
    return rows


def _write_csr(root: h5py.File, path: str, matrix: RowBlocks, compression: dict[str, Any]) -> int:
    group = root.create_group(path)
    group.attrs["encoding-type"], group.attrs["encoding-version"] = "csr_matrix", "0.1.0"
    group.attrs["shape"] = np.asarray(matrix.shape, np.int64)
    runs = Runs(matrix, CHUNK)
    growing = {"shape": (0,), "maxshape": (None,), "chunks": (CHUNK,)} | compression
    targets = {name: Hdf5Chunks(group.create_dataset(name, dtype=dtype, **growing)) for name, dtype in runs.dtypes.items()}

    def pieces() -> Iterator[tuple[Hdf5Chunks, tuple[int], np.ndarray]]:
        for number, run in enumerate(runs):
            for name, values in run.items():
                yield targets[name], (number * CHUNK,), values

    write_chunks(pieces(), getattr(matrix, "n_threads", 1))
    if runs.all_ones:  # chunks that were never written are read as this value, and take no room
        ones = {"shape": (runs.stored,), "chunks": (CHUNK,), "maxshape": (None,), "fillvalue": 1}
        group.create_dataset("data", dtype=matrix.dtype, **ones)
    group.create_dataset("indptr", data=runs.pointers, **compression)
    return len(runs.pointers) - 1
