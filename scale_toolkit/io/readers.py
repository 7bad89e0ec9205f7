"""Any accepted input of `prepare`, recognised by what it is: h5ad, h5mu, zarr, table, folder, 10x h5, fragments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import h5py

from scale_toolkit.config import FragmentsConfig
from scale_toolkit.errors import InputError, UsageError
from scale_toolkit.io import files
from scale_toolkit.io.fragments import looks_like_fragments, read_fragments
from scale_toolkit.io.h5ad import open_h5ad
from scale_toolkit.io.mtx import read_folder
from scale_toolkit.io.stores import is_zarr_store
from scale_toolkit.io.table import read_table
from scale_toolkit.io.tenx import is_tenx, read_tenx

if TYPE_CHECKING:
    from anndata import AnnData

ACCEPTED = (
    "an h5ad, h5mu or zarr store, a count table (.txt, .tsv, .csv, also .gz), a folder with counts (.mtx), peaks and barcodes, "
    "a 10x h5, "
    "or --fragments with --peaks"
)
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


def read_any(
    source: str | os.PathLike[str] | None,
    *,
    fragments: str | os.PathLike[str] | None = None,
    peaks: str | os.PathLike[str] | None = None,
    fragments_config: FragmentsConfig | None = None,
    modality: str | None = None,
    stdin: BinaryIO | None = None,
) -> AnnData:
    """Read one input, whatever its format.

    Parameters
    ----------
    source
        A file or folder, or ``-`` for an h5ad on standard input; None with `fragments`.
    fragments, peaks
        A 10x fragments file and the BED of peaks to count it over, instead of `source`.
    fragments_config
        How fragments are counted; None for the defaults.
    modality
        The modality of an h5mu to read, where its name does not say that it is ATAC.
    stdin
        A binary stream instead of the process's standard input.

    Returns
    -------
    AnnData
        Cells × peaks. Text, mtx, 10x h5 and fragments give CSR float32; an h5ad, h5mu or zarr store keeps its form. Values are
        as read: `prepare` refuses what is no count.

    Raises
    ------
    InputError
        The input is none of the accepted formats, or is damaged: found, expected, what to do, in one line.
    """
    if fragments is not None:
        if peaks is None:
            raise UsageError("fragments without peaks", "a BED of peaks to count over", "add --peaks BED")
        if source is not None:
            raise UsageError(f"fragments and the input {source}", "one of the two")
        return read_fragments(fragments, peaks, fragments_config or FragmentsConfig())
    if source is None:
        raise UsageError("no input", ACCEPTED)
    if files.is_stream(source):
        return _read_h5ad(source, stdin, modality)
    path = Path(source)
    if is_zarr_store(path):
        return _read_h5ad(path, modality=modality)
    if modality is not None and not h5py.is_hdf5(files.existing_file(path)):
        raise UsageError(f"--modality {modality}, and {path} has no modalities", "an h5mu", "drop --modality")
    if path.is_dir():
        return read_folder(path)
    files.existing_file(path)
    if h5py.is_hdf5(path):
        return read_tenx(path) if is_tenx(path) else _read_h5ad(path, modality=modality)
    return _read_text(path)


def _read_h5ad(source: str | os.PathLike[str], stdin: BinaryIO | None = None, modality: str | None = None) -> AnnData:
    with open_h5ad(source, stdin=stdin, modality=modality) as file:
        return file.read()


def _read_text(path: Path) -> AnnData:
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix in (".h5ad", ".h5mu", ".h5"):  # not HDF5, or `read_any` had read it
        return _read_h5ad(path)
    if suffix == ".mtx":
        raise InputError(
            f"{path} is the counts without their names",
            ACCEPTED,
            f"give the folder that also has peaks and barcodes: {path.parent}",
        )
    if suffix in (".bed", ".bedgraph", ".narrowpeak"):
        raise InputError(f"{path} holds regions, no counts", ACCEPTED, "a BED of peaks goes with --fragments FILE --peaks BED")
    if looks_like_fragments(path):
        raise InputError(f"{path} is a fragments file", "peaks to count it over", "use --fragments FILE --peaks BED")
    if suffix not in _SEPARATORS:
        raise InputError(f"the format of {path} is unknown", ACCEPTED, "rename it after its format")
    return read_table(path, _SEPARATORS[suffix])
