"""Open HDF5 files safely: refuse links and data outside the file, and bound its memory."""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import h5py
import numpy as np
from scipy import sparse

from scale_toolkit import scratch
from scale_toolkit.core.rows import MOST_INT32, compressed, entry_chunks
from scale_toolkit.errors import InputError, ScaleError
from scale_toolkit.memory import bounded

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

#: Bytes that looking at a file, and reading it, may take besides the data; an undamaged file needs
#: a hundredth of it.
FOR_A_LOOK, FOR_THE_REST = 1 << 29, 2 << 30

#: What to do if a file does not fit.
MORE_MEMORY = (
    "ask for more memory, or prepare fewer cells and peaks; a file that is small on disk is damaged"
)

_FILTERS = {32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32015: "zstd", 32026: "blosc2"}
#: SciPy's classes of the matrices that anndata stores by these names.
_COMPRESSED = {"csr_matrix": sparse.csr_matrix, "csc_matrix": sparse.csc_matrix}
# How a virtual data set names its own file.
_SELF = "."


@contextmanager
def open_hdf5(file: Path | IO[bytes], name: str, *, kind: str = "h5ad") -> Iterator[h5py.File]:
    """Open an HDF5 file for reading, after checking that it contains all its data.

    Every reader of HDF5 in this package uses this function. A file can store its data in other
    files of this machine: by an external link, by external raw storage, or by a virtual data set.
    Such a file from a stranger could copy any file that the user can read into the output. All
    three are refused, in every group, whether it is read or only copied. A soft link stays inside
    the file and is allowed.

    Parameters
    ----------
    file
        A path, or an open file that can seek.
    name
        Its name for messages.
    kind
        The format for messages.

    Raises
    ------
    InputError
        Not HDF5, truncated or damaged; a part of it lies in another file; a compression that
        neither HDF5 nor the package hdf5plugin knows.
    """
    with bounded(FOR_A_LOOK):
        root = _open(file, name, kind)
    with root:
        with whole(name, kind=kind), bounded(FOR_A_LOOK):
            filters = _check_objects(root, name)
            _check_filters(filters, name)
        yield root


def _open(file: Path | IO[bytes], name: str, kind: str) -> h5py.File:
    # HDF5 refuses the descriptor paths of unlinked files, so a stream goes in as an object, which
    # is as fast
    try:
        return h5py.File(file, "r")
    except OSError as error:
        text = str(error)
        if "truncated" in text or "eof" in text.lower():
            raise InputError(
                f"{name} is truncated", f"a complete {kind}", "regenerate or re-download it"
            ) from error
        if isinstance(error, BlockingIOError) or "unable to lock file" in text:
            raise InputError(
                f"{name} is open for writing in another program",
                "a file that nobody writes to",
                "close it there, or wait; on a file system without locks set "
                "HDF5_USE_FILE_LOCKING=FALSE",
            ) from error
        if "signature" in text:
            raise InputError(
                f"{name} is not an HDF5 file",
                f"an {kind}" if kind[0] in "ah" else f"a {kind}",
                "other formats enter through `scale prepare`",
            ) from error
        raise unreadable(name, "the file", error, kind) from error


def _check_objects(root: h5py.File, name: str) -> set[int]:
    """Refuse links and data that lead out of the file; return the numbers of all filters in use."""
    filters: set[int] = set()
    waiting: list[tuple[str, h5py.Group | h5py.Dataset]] = [("", root)]
    visited = {h5py.h5o.get_info(root.id).addr}
    while waiting:
        path, item = waiting.pop()
        targets = [(f"{path} (by a reference)", target) for target in _referenced(item)]
        if isinstance(item, h5py.Dataset):
            filters |= _check_dataset(item, path, name)
        elif isinstance(item, h5py.Group):
            targets += _members(item, path, name)
        for target_path, target in targets:
            address = h5py.h5o.get_info(target.id).addr
            # a group may contain itself
            if address not in visited:
                visited.add(address)
                waiting.append((target_path, target))
    return filters


def _members(
    group: h5py.Group, path: str, name: str
) -> list[tuple[str, h5py.Group | h5py.Dataset]]:
    """Return what the hard links of a group lead to; a soft link leads to something that a hard
    link leads to.
    """
    members = []
    for key in group:
        member_path = f"{path}/{key}".lstrip("/")
        kind = group.id.links.get_info(key.encode("utf-8", "surrogateescape")).type
        if kind == h5py.h5l.TYPE_HARD:
            try:
                item = group[key]
            except (OSError, KeyError, RuntimeError):
                # damaged: its reader meets the same error, and reports it
                continue
            members.append((member_path, item))
        elif kind != h5py.h5l.TYPE_SOFT:
            raise _outside(name, member_path, "a link to another file (external link)")
    return members


def _referenced(item: h5py.Group | h5py.Dataset) -> list[h5py.Group | h5py.Dataset]:
    """Return what object references in the attributes of `item` point to: it need not have a
    name.
    """
    targets = []
    for key in item.attrs:
        attribute = item.attrs.get_id(key)
        if h5py.check_ref_dtype(attribute.dtype) is None:
            continue
        for reference in np.atleast_1d(np.asarray(item.attrs[key], dtype=object)).ravel():
            try:
                target = item.file[reference] if reference else None
            except (OSError, KeyError, RuntimeError, ValueError):
                # damaged, as above
                continue
            if target is not None:
                targets.append(target)
    return targets


def _check_dataset(item: h5py.Dataset, path: str, name: str) -> set[int]:
    properties = item.id.get_create_plist()
    if properties.get_external_count():
        raise _outside(
            name,
            path,
            f"data stored in the file {_first_external(properties)!r} (external raw storage)",
        )
    if properties.get_layout() == h5py.h5d.VIRTUAL:
        for number in range(properties.get_virtual_count()):
            source = properties.get_virtual_filename(number)
            if source != _SELF:
                raise _outside(
                    name, path, f"a view of data in the file {source!r} (virtual data set)"
                )
    return {properties.get_filter(number)[0] for number in range(properties.get_nfilters())}


def _first_external(properties: h5py.h5p.PropDCID) -> str:
    return properties.get_external(0)[0].decode("utf-8", "replace")


def _outside(name: str, path: str, found: str) -> InputError:
    return InputError(
        f"{name}: {path} is {found}",
        "a file that contains all its data",
        "do not use this file if you do not know its source; otherwise write its data into one "
        "file",
    )


def _check_filters(filters: set[int], name: str) -> None:
    """Make sure that every compression can be undone, with hdf5plugin if HDF5 itself cannot."""
    unknown = _unavailable(filters)
    if not unknown:
        return
    words = ", ".join(_FILTERS.get(number, f"filter {number}") for number in sorted(unknown))
    try:
        import hdf5plugin  # noqa: F401  registers its filters
    except ImportError:
        raise InputError(
            f"{name} is compressed with {words}, as SnapATAC2 does, which HDF5 alone does not know",
            "the package hdf5plugin",
            "pip install hdf5plugin",
        ) from None
    if _unavailable(filters):
        raise InputError(
            f"{name} is compressed with {words}, which hdf5plugin does not know",
            "gzip, lzf or zstd",
            "write it again with one of these",
        )


def _unavailable(filters: set[int]) -> set[int]:
    return {number for number in filters if not h5py.h5z.filter_avail(number)}


def stored_sizes(root: h5py.Group, without: Collection[str] = frozenset()) -> list[int]:
    """Return the bytes that each data set under `root` takes in memory, as its header states.

    Parameters
    ----------
    root
        An open group.
    without
        Paths to pass over.
    """
    sizes: list[int] = []
    waiting, visited = [("", root)], set()
    while waiting:
        path, group = waiting.pop()
        for key in group:
            item_path = f"{path}/{key}".lstrip("/")
            try:
                item = None if item_path in without else group.get(key)
                address = None if item is None else h5py.h5o.get_info(item.id).addr
            except (OSError, KeyError, RuntimeError):
                # damaged: its reader reports it
                continue
            if address is None or address in visited:
                continue
            # a group may contain itself
            visited.add(address)
            if isinstance(item, h5py.Group):
                waiting.append((item_path, item))
            elif isinstance(item, h5py.Dataset):
                sizes.append(math.prod(item.shape or (1,)) * item.dtype.itemsize)
    return sizes


def read_values(dataset: h5py.Dataset, dtype: Any) -> np.ndarray:
    """Read a one-dimensional data set a block at a time: into memory, or into a temporary file if
    it takes much of the memory that this job may use.
    """
    values = scratch.empty(dataset.shape[0], dtype)
    for chunk in entry_chunks(len(values)):
        values[chunk] = dataset[chunk]
    return values


def large_matrices(root: h5py.Group, paths: Iterable[str]) -> list[str]:
    """Those of these CSR or CSC matrices that `read_compressed` puts into a temporary file."""
    return [
        path
        for path in paths
        if isinstance(group := root.get(path), h5py.Group)
        and group.attrs.get("encoding-type") in _COMPRESSED
        and not scratch.fits_in_memory(group["data"].nbytes)
    ]


def read_compressed(group: h5py.Group) -> sparse.csr_matrix | sparse.csc_matrix:
    """Read a CSR or CSC matrix as anndata stores it, a block at a time (`read_values`).

    Both index arrays get one type, as SciPy needs it.
    """
    n_rows, n_columns = (int(length) for length in group.attrs["shape"])
    largest = max(group["indices"].shape[0], n_rows, n_columns)
    index_type = np.int32 if largest <= MOST_INT32 else np.int64
    parts = (
        read_values(group["data"], group["data"].dtype),
        read_values(group["indices"], index_type),
        group["indptr"][:].astype(index_type),
    )
    return compressed(*parts, (n_rows, n_columns), _COMPRESSED[group.attrs["encoding-type"]])


@contextmanager
def whole(name: str, what: str = "the file", kind: str = "h5ad") -> Iterator[None]:
    """Report any error of HDF5, h5py or anndata as a damaged file: its bytes can cause any."""
    try:
        yield
    except ScaleError:
        raise
    except MemoryError as error:
        # its size was checked before, so the file requests memory that its size does not explain
        raise unreadable(name, what, MemoryError("it asks for too much memory"), kind) from error
    except Exception as error:
        raise unreadable(name, what, error, kind) from error


def unreadable(name: str, what: str, error: Exception, kind: str = "h5ad") -> InputError:
    """Return the error for a part of a file that cannot be read, with the first line of the
    reason.
    """
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return InputError(
        f"{name}: {what} cannot be read ({reason})",
        f"a complete {kind}",
        "regenerate or re-download it",
    )
