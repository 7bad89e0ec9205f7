"""h5ad files and streams: read only what a stage needs; the rest stays on disk and is copied."""

from __future__ import annotations

import os
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit.core.rows import with_one_index_type
from scale_toolkit.errors import InputError, UsageError
from scale_toolkit.io import files, stores
from scale_toolkit.io.hdf5 import (
    FOR_A_LOOK,
    FOR_THE_REST,
    MORE_MEMORY,
    large_matrices,
    open_hdf5,
    read_compressed,
    stored_sizes,
    unreadable,
    whole,
)
from scale_toolkit.io.loom import is_loom
from scale_toolkit.io.source import Source, open_source
from scale_toolkit.io.tenx import is_tenx
from scale_toolkit.io.write import MAPPINGS, write_anndata, write_h5ad
from scale_toolkit.memory import bounded, check_fits
from scale_toolkit.scratch import check_room

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from anndata import AnnData

__all__ = ["H5adFile", "open_h5ad", "write_anndata", "write_h5ad"]

_RAW = ("X", "var", "varm")


class H5adFile:
    """An open h5ad: `read` what is needed, and pass the file to `write_h5ad` as ``carry``.

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
    counts
        X of the last `read`, if it is sparse; None if it was left on disk.
    """

    def __init__(
        self,
        root: h5py.Group,
        name: str,
        status: os.stat_result | None,
        mudata: h5py.File | None = None,
    ) -> None:
        self.root, self.name, self.status, self._mudata = root, name, status, mudata
        self.left_out: tuple[str, ...] = ()
        self.obs_names = self.var_names = pd.Index([])
        self.counts: Any = None

    def read(self, without: Collection[str] = (), *, counts_on_disk: bool = False) -> AnnData:
        """Read the file into memory.

        Parameters
        ----------
        without
            Element paths to leave on disk (``"X"``, ``"layers"``, ``"raw"``, ``"obsm/imputed"``);
            ``X`` is then None.
        counts_on_disk
            X that is stored as CSR becomes a matrix that reads the rows it is asked for.

        Returns
        -------
        AnnData
            X as stored: CSR, CSC or dense.
        """
        import anndata

        if counts_on_disk and self._is_csr("X") and "X" not in without:
            return self._with_counts_on_disk(without)
        # anndata before 0.7 stores all arrays of obsm in one, which cannot be copied in parts
        on_disk = {path for path in without if not self._is_old(path.split("/")[0])}
        with whole(self.name):
            with bounded(FOR_A_LOOK):
                size = sum(stored_sizes(self.root, on_disk | self._mapped(on_disk)))
                mapped_size = sum(stored_sizes(self.root, on_disk)) - size
            check_fits(size, f"reading {self.name}", MORE_MEMORY)
            check_room(mapped_size, f"reading {self.name}")
            with bounded(FOR_THE_REST + 4 * size + 2 * mapped_size), warnings.catch_warnings():
                # duplicated names are an error of `prepare`, which gives their number; anndata's
                # hint would come first, without it
                warnings.filterwarnings(
                    "ignore", message=".*names are not unique", category=UserWarning
                )
                adata = anndata.AnnData(**self._elements(on_disk))
                if self._mudata is not None:
                    stores.add_shared(adata, self._mudata, self.name)
            self.left_out = tuple(sorted(path for path in on_disk if path in self.root))
        self.obs_names, self.var_names = adata.obs_names.copy(), adata.var_names.copy()
        self.counts = adata.X if sparse.issparse(adata.X) else None
        return adata

    def _with_counts_on_disk(self, without: Collection[str]) -> AnnData:
        from anndata.io import sparse_dataset

        adata = self.read([*without, "X"])
        self.left_out = tuple(path for path in self.left_out if path != "X")
        adata.X = self.counts = sparse_dataset(self.root["X"])
        return adata

    def _is_csr(self, path: str) -> bool:
        element = self.root.get(path)
        return element is not None and element.attrs.get("encoding-type") == "csr_matrix"

    def _mapped(self, without: set[str]) -> set[str]:
        """Arrays that are read into temporary files instead of memory."""
        paths = ["X", "raw/X"] + [f"layers/{name}" for name in self.root.get("layers", ())]
        to_read = [path for path in paths if not without & {path, path.split("/")[0]}]
        large = large_matrices(self.root, to_read)
        return {f"{path}/{name}" for path in large for name in ("data", "indices")}

    def read_only(self, wanted: Collection[str]) -> AnnData:
        """Read obs, var and those of these paths that exist; everything else stays on disk."""
        inside = {
            f"{mapping}/{name}"
            for mapping in MAPPINGS
            if mapping in self.root
            for name in self._members(mapping)
        }
        return self.read(({"X", "raw"} | inside) - set(wanted))

    def _is_old(self, mapping: str) -> bool:
        """Whether a mapping is one compound array, as anndata before 0.7 wrote it."""
        return mapping in MAPPINGS and isinstance(self.root.get(mapping), h5py.Dataset)

    def _members(self, mapping: str) -> list[str]:
        element = self.root[mapping]
        return list(element.dtype.names or ()) if self._is_old(mapping) else list(element)

    def rows(self, path: str, cells: np.ndarray) -> np.ndarray | sparse.csr_matrix:
        """Read some rows (ascending numbers) of a matrix, dense or CSR; one that is stored by
        columns is read whole.
        """
        from anndata.io import sparse_dataset

        element = self.root[path]
        try:
            if isinstance(element, h5py.Dataset):
                return element[cells]
            return sparse.csr_matrix(sparse_dataset(element)[cells])
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise unreadable(self.name, path, error) from error

    def element(self, path: str) -> Any:
        """Read one element; None if the file does not have it."""
        return _read(self, path) if path in self.root else None

    def peaks(self) -> list[str]:
        """Names of the peaks, without reading anything else."""
        return [str(name) for name in self._table("var").index]

    def _elements(self, without: set[str]) -> dict[str, Any]:
        elements: dict[str, Any] = {name: self._table(name) for name in ("obs", "var")}
        if "X" in self.root and "X" not in without:
            elements["X"] = _read(self, "X")
        if "raw" in self.root and "raw" not in without:
            elements["raw"] = {
                element_name: _read(self, f"raw/{element_name}")
                for element_name in _RAW
                if f"raw/{element_name}" in self.root
            }
        for mapping in MAPPINGS:
            if mapping not in self.root or mapping in without:
                continue
            if self._is_old(mapping):
                array = self.root[mapping][()]
                elements[mapping] = {
                    name: np.asarray(array[name]) for name in self._members(mapping)
                }
                continue
            inside = [name for name in self.root[mapping] if f"{mapping}/{name}" not in without]
            elements[mapping] = {name: _read(self, f"{mapping}/{name}") for name in inside}
        return elements

    def _table(self, name: str) -> pd.DataFrame:
        group = self.root[name]
        if not isinstance(group, h5py.Dataset):
            return _read(self, name)
        # anndata before 0.7: one compound array, the index its first field, categories of a column
        # in uns
        table = pd.DataFrame.from_records(group[:], index=group.dtype.names[0])
        table.index = pd.Index([_text(value) for value in table.index], dtype=object)
        for column in table:
            if f"uns/{column}_categories" in self.root:
                categories = [
                    _text(value)
                    for value in np.atleast_1d(self.root[f"uns/{column}_categories"][()])
                ]
                table[column] = pd.Categorical.from_codes(table[column], categories)
            elif table[column].dtype == object:
                table[column] = [_text(value) for value in table[column]]
        return table


@contextmanager
def open_h5ad(
    source: str | os.PathLike[str] | Source,
    *,
    stdin: BinaryIO | None = None,
    modality: str | None = None,
) -> Iterator[H5adFile]:
    """Open an h5ad for reading, or a zarr store or the ATAC modality of an h5mu as if they were
    one.

    Parameters
    ----------
    source
        A path, or ``-`` for standard input. A pipe is copied to an unlinked temporary file in
        TMPDIR; a file redirected to standard input (``< cells.h5ad``) is read where it is. A zarr
        store is copied to such a file as well.
    stdin
        A binary stream instead of the process's standard input.
    modality
        The modality of an h5mu, if its name does not identify it as ATAC.

    Yields
    ------
    H5adFile
        Open until the block ends.

    Raises
    ------
    UsageError
        Standard input is a terminal.
    InputError
        The input is missing, empty, truncated, not HDF5, not an h5ad, compressed with an unknown
        filter, or leads to another file; or the ATAC modality cannot be determined.
    """
    with ExitStack() as stack:
        hdf5_file: Path | IO[bytes]
        status: os.stat_result | None
        if not isinstance(source, Source) and stores.is_zarr_store(Path(source)):
            name, status = os.fspath(source), Path(source).stat()
            hdf5_file = stack.enter_context(files.unlinked())
            with h5py.File(hdf5_file, "w") as copy:
                stores.copy_zarr(Path(source), copy)
        else:
            opened = stack.enter_context(open_source(source, stdin=stdin))
            name, status = opened.name, opened.status
            if not opened.is_hdf5:
                raise InputError(
                    f"{name} is not an HDF5 file",
                    "an h5ad",
                    "other formats enter through `scale prepare`",
                )
            hdf5_file = opened.hdf5_file()
        root = stack.enter_context(open_hdf5(hdf5_file, name))
        yield h5ad_in(root, name, status, modality)


def h5ad_in(
    root: h5py.File, name: str, status: os.stat_result | None, modality: str | None = None
) -> H5adFile:
    """Return the h5ad that an open HDF5 file is, or the modality of an h5mu; see `open_h5ad`."""
    group: h5py.Group = root
    whole_data = root if stores.is_mudata(root) else None
    with whole(name), bounded(FOR_A_LOOK):
        if whole_data is not None:
            group = stores.modality_of(root, name, modality)
        elif modality is not None:
            raise UsageError(
                f"--modality {modality}, and {name} has no modalities",
                "an h5mu",
                "drop --modality",
            )
        _check_is_h5ad(group, name)
    return H5adFile(group, name, status, whole_data)


def _check_is_h5ad(root: h5py.Group, name: str) -> None:
    if "obs" in root and "var" in root:
        return
    kind = "a 10x h5" if is_tenx(root) else "a loom file" if is_loom(root) else None
    if kind is not None:
        raise InputError(f"{name} is {kind}", "an h5ad", "run `scale prepare` on it first")
    elements = ", ".join(sorted(root)[:5]) or "nothing"
    raise InputError(
        f"{name} is not an h5ad (it holds {elements})",
        "obs and var",
        "read it with the program that wrote it",
    )


def _read(file: H5adFile, path: str) -> Any:
    from anndata import OldFormatWarning
    from anndata.io import read_elem

    with whole(file.name, path), warnings.catch_warnings():
        warnings.simplefilter("ignore", OldFormatWarning)
        if large_matrices(file.root, [path]):
            return read_compressed(file.root[path])
        element = read_elem(file.root[path])
    is_compressed = sparse.issparse(element) and element.format in ("csr", "csc")
    return with_one_index_type(element) if is_compressed else element


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
