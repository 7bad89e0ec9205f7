"""Any accepted input of `prepare`, recognised by what it is: h5ad, h5mu, zarr, table, folder,
10x h5, fragments.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from scale_toolkit.config import FragmentsConfig
from scale_toolkit.errors import InputError, UsageError
from scale_toolkit.io import files
from scale_toolkit.io.cells import keep_cells
from scale_toolkit.io.fragments import looks_like_fragments, read_fragments
from scale_toolkit.io.h5ad import h5ad_in, open_h5ad
from scale_toolkit.io.hdf5 import open_hdf5
from scale_toolkit.io.loom import is_loom, read_loom
from scale_toolkit.io.mtx import read_folder
from scale_toolkit.io.source import Source, open_source
from scale_toolkit.io.stores import is_zarr_store
from scale_toolkit.io.table import read_table
from scale_toolkit.io.tenx import is_tenx, read_tenx

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

ACCEPTED = (
    "an h5ad, h5mu or zarr store, a count table (.txt, .tsv, .csv, also .gz), a folder with counts "
    "(.mtx), peaks and barcodes, "
    "a 10x h5 or loom file, "
    "or --fragments with --peaks"
)
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


def read_any(
    source: str | os.PathLike[str] | None,
    *,
    fragments: str | os.PathLike[str] | None = None,
    peaks: str | os.PathLike[str] | pd.DataFrame | None = None,
    fragments_config: FragmentsConfig | None = None,
    barcodes: Sequence[str] | None = None,
    genes: pd.DataFrame | None = None,
    modality: str | None = None,
    stdin: BinaryIO | None = None,
) -> AnnData:
    """Read one input, whatever its format.

    Parameters
    ----------
    source
        A file, pipe or folder, or ``-`` for standard input; None with `fragments`.
    fragments, peaks
        A 10x fragments file and the BED of peaks to count it over, instead of `source`.
    fragments_config
        How fragments are counted; None for the defaults.
    barcodes
        Keep these cells; None for all.
    genes
        With `fragments`: starts of transcription, for the TSS enrichment of each cell.
    modality
        The modality of an h5mu to read, if its name does not identify it as ATAC.
    stdin
        A binary stream instead of the process's standard input.

    Returns
    -------
    AnnData
        Cells × peaks. Text, mtx, 10x h5 and fragments give CSR float32; an h5ad, h5mu or zarr store
        keeps its form. Values are as read: `prepare` refuses what is not a count.

    Raises
    ------
    InputError
        The input is none of the accepted formats, or is damaged: found, expected, what to do, in
        one line.
    """
    if fragments is not None:
        if peaks is None:
            raise UsageError(
                "fragments without peaks", "a BED of peaks to count over", "add --peaks BED"
            )
        if source is not None:
            raise UsageError(f"fragments and the input {source}", "one of the two")
        return read_fragments(
            fragments, peaks, fragments_config or FragmentsConfig(), barcodes=barcodes, genes=genes
        )
    if source is None:
        raise UsageError("no input", ACCEPTED)
    adata = _read(source, modality, stdin)
    return adata if barcodes is None else keep_cells(adata, list(barcodes), os.fspath(source))


def _read(source: str | os.PathLike[str], modality: str | None, stdin: BinaryIO | None) -> AnnData:
    path = Path(source)
    if not files.is_stream(source) and path.is_dir():
        if is_zarr_store(path):
            with open_h5ad(path, modality=modality) as file:
                return file.read()
        _check_no_modality(modality, os.fspath(path))
        return read_folder(path)
    with open_source(source, stdin=stdin) as opened:
        if opened.is_hdf5:
            with open_hdf5(opened.hdf5_file(), opened.name) as root:
                if is_loom(root):
                    _check_no_modality(modality, opened.name)
                    return read_loom(root, opened.name)
                if not is_tenx(root):
                    return h5ad_in(root, opened.name, opened.status, modality).read()
                _check_no_modality(modality, opened.name)
                return read_tenx(root, opened.name)
        _check_no_modality(modality, opened.name)
        return _read_text(opened)


def _check_no_modality(modality: str | None, name: str) -> None:
    if modality is not None:
        raise UsageError(
            f"--modality {modality}, and {name} has no modalities", "an h5mu", "drop --modality"
        )


def _read_text(source: Source) -> AnnData:
    name, lines = source.name, source.first_lines()
    content = [line for line in lines if line.strip() and not line.startswith("#")]
    if source.suffix in (".h5ad", ".h5mu", ".h5", ".loom"):
        raise InputError(
            f"{name} is not an HDF5 file", f"an {source.suffix[1:]}", "check that it is complete"
        )
    if lines and lines[0].lower().startswith("%%matrixmarket"):
        folder = source.path.parent if source.path else "FOLDER"
        raise InputError(
            f"{name} contains counts without their names",
            ACCEPTED,
            f"give the folder that also has peaks and barcodes: {folder}",
        )
    if looks_like_fragments(lines):
        raise InputError(
            f"{name} is a fragments file",
            "peaks to count it over",
            "use `scale prepare --fragments FILE --peaks BED`",
        )
    if source.suffix in (".bed", ".bedgraph", ".narrowpeak") or _looks_like_bed(content):
        raise InputError(
            f"{name} contains regions without counts",
            ACCEPTED,
            "a BED of peaks goes with --fragments FILE --peaks BED",
        )
    separator = _SEPARATORS.get(source.suffix) or _separator(content)
    if separator is None:
        raise InputError(
            f"the format of {name} is unknown",
            ACCEPTED,
            "check that this is the right file; a count table has commas or tabs between its "
            "columns",
        )
    return read_table(source, separator)


def _looks_like_bed(lines: list[str]) -> bool:
    """Whether the first lines have three columns, an interval: no counts."""
    rows = [line.split("\t") for line in lines[:20]]
    return bool(rows) and all(
        len(row) == 3 and row[1].isdigit() and row[2].isdigit() for row in rows
    )


def _separator(lines: list[str]) -> str | None:
    """Return what separates the columns of the first two lines, or None."""
    for separator in ("\t", ","):
        if len(lines) > 1 and all(separator in line for line in lines[:2]):
            return separator
    return None
