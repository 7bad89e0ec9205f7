"""Export to other programs: a folder of mtx and text (R), 10x h5, an h5ad for cellxgene, MuData.

A destination appears when it is complete, or not at all.
"""

from __future__ import annotations

import gzip
import logging
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import __version__, keys
from scale_toolkit.core.intervals import parse_names
from scale_toolkit.errors import InputError, ScaleError, UsageError
from scale_toolkit.io import files
from scale_toolkit.io.cellxgene import CELLXGENE_ASKS, ORGANISM, for_cellxgene
from scale_toolkit.io.h5ad import write_anndata, write_h5ad

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

log = logging.getLogger("scale_toolkit")

_FOLDER = ("matrix.mtx.gz", "peaks.tsv.gz", "barcodes.tsv.gz", "metadata.tsv.gz")


def export(
    adata: AnnData,
    destination: str | os.PathLike[str],
    to: str,
    *,
    layer: str | None = None,
) -> list[str]:
    """Write cells in the form of another program.

    Parameters
    ----------
    adata
        Cells × peaks, counts in ``X``; it is not changed.
    destination
        A folder for ``mtx``, a file for the others.
    to
        ``mtx``: ``matrix.mtx.gz`` (peaks × cells), ``peaks.tsv.gz``, ``barcodes.tsv.gz``,
        ``metadata.tsv.gz`` (obs) and a table for each two-dimensional array of obsm,
        ``reduction_NAME.tsv.gz``. ``10x``: Cell Ranger's HDF5 layout, features of type Peaks.
        ``cellxgene``: an h5ad with what its schema (and ``cellxgene launch``) requires as far as it
        is known. ``h5mu``: MuData with the one modality ``atac``.
    layer
        Take the matrix from this layer instead of X.

    Returns
    -------
    What must be added to obs (and uns) before the result can be submitted, as `CELLXGENE_ASKS`;
    only for ``cellxgene``.

    Raises
    ------
    InputError
        No such layer, no matrix; fractional values in a format for counts; no embedding for
        cellxgene.
    UsageError
        The destination cannot be written, or is not ours to replace.
    """
    matrix = _matrix(adata, layer)
    if to == "mtx":
        _write_folder(adata, matrix, destination)
    elif to == "10x":
        _write_tenx(adata, _whole(matrix, to), destination)
    elif to == "h5mu":
        _write_h5mu(_with_matrix(adata, matrix, layer), destination)
    else:
        exported = for_cellxgene(adata, _whole(matrix, to))
        write_h5ad(exported, destination)
        return [name for name in CELLXGENE_ASKS if name not in exported.obs] + [ORGANISM] * (
            ORGANISM not in exported.uns
        )
    return []


def check_place(destination: str | os.PathLike[str], to: str) -> None:
    """Refuse a destination that cannot work, before anything is read."""
    if files.is_stream(destination):
        raise UsageError("the output is -", "a path", "name a file or, for mtx, a folder with -o")
    path = Path(destination)
    if to != "mtx":
        files.check_destination(path)
        return
    if not path.parent.is_dir():
        raise UsageError(
            f"the output folder {path.parent} does not exist",
            "",
            f"make it first: mkdir -p {path.parent}",
        )
    if path.exists() and not path.is_dir():
        raise UsageError(
            f"{path} is a file", "a folder, which mtx is written as", "choose another -o"
        )
    if path.is_dir() and not _is_ours(path):
        raise UsageError(
            f"the folder {path} holds other files",
            "a new folder, or an older export",
            "choose another -o",
        )


def _is_ours(folder: Path) -> bool:
    inside = {item.name for item in folder.iterdir()}
    return all(
        name in _FOLDER or (name.startswith("reduction_") and name.endswith(".tsv.gz"))
        for name in inside
    )


def _matrix(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    if layer is not None and layer not in adata.layers:
        layers = ", ".join(str(name) for name in adata.layers if name is not None) or "none"
        raise InputError(
            f"layers has no {layer!r}",
            f"one of: {layers}",
            "leave out --layer for X",
        )
    values = adata.X if layer is None else adata.layers[layer]
    if values is None:
        raise InputError("X is empty", "counts, cells × peaks", "name a --layer that holds them")
    matrix = sparse.csr_matrix(values)
    if not np.isfinite(matrix.data).all():
        raise InputError(
            "the matrix holds values that are not numbers",
            "numbers",
            "look at the stage that wrote it",
        )
    return matrix


def _whole(matrix: sparse.csr_matrix, to: str) -> sparse.csr_matrix:
    if (matrix.data != np.floor(matrix.data)).any() or (matrix.data < 0).any():
        raise InputError(
            "the matrix holds negative or fractional values",
            f"counts: {to} is a form for them",
            "use --to mtx or --to h5mu",
        )
    return matrix


def _write_folder(
    adata: AnnData, matrix: sparse.csr_matrix, destination: str | os.PathLike[str]
) -> None:
    from scipy.io import mmwrite

    with _new_folder(destination) as folder:
        is_integral = bool((matrix.data == np.floor(matrix.data)).all())
        # peaks × cells, as Cell Ranger and Seurat have it
        upright = matrix.T.tocoo()
        with _gzipped(folder / "matrix.mtx.gz") as file:
            mmwrite(
                file,
                upright.astype(np.int64) if is_integral else upright,
                field="integer" if is_integral else "real",
                symmetry="general",
            )
        for name, names in (("peaks", adata.var_names), ("barcodes", adata.obs_names)):
            with _gzipped(folder / f"{name}.tsv.gz") as file:
                file.write("".join(f"{name_}\n" for name_ in names).encode())
        _write_table(folder / "metadata.tsv.gz", adata.obs)
        for name, values in adata.obsm.items():
            values = np.asarray(values) if isinstance(values, np.ndarray) else None
            if (
                values is not None
                and values.ndim == 2
                and name not in (keys.IMPUTED.name, keys.BINARY_PACKED.name)
            ):
                columns = [
                    f"{name.removeprefix('X_')}_{number + 1}" for number in range(values.shape[1])
                ]
                table = pd.DataFrame(values, index=adata.obs_names, columns=columns)
                _write_table(
                    folder / f"reduction_{name.removeprefix('X_').replace('/', '_')}.tsv.gz", table
                )


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with _gzipped(path) as file:
        table.to_csv(file, sep="\t", index_label="barcode", na_rep="NA")


def _write_tenx(
    adata: AnnData, matrix: sparse.csr_matrix, destination: str | os.PathLike[str]
) -> None:
    matrix = matrix.sorted_indices()
    if len(matrix.data) and matrix.data.max() > np.iinfo(np.int32).max:
        raise InputError(
            f"a count of {matrix.data.max():.0f}",
            "counts below 2³¹, as 10x h5 holds them",
            "use --to mtx",
        )
    names = adata.var_names.astype(str)
    intervals = parse_names(names)
    regions = [
        name if chrom is None else f"{chrom}:{start}-{end}"
        for name, (chrom, start, end) in zip(names, intervals.itertuples(index=False), strict=True)
    ]
    small = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    with _new_hdf5(destination) as root:
        # the root attributes that Cell Ranger's readers look at
        root.attrs["filetype"], root.attrs["version"] = "matrix", np.int64(2)
        root.attrs["software_version"] = f"scale_toolkit {__version__}"
        group = root.create_group("matrix")
        # cells × peaks by rows is peaks × cells by columns: the same three arrays
        group.create_dataset(
            "data", data=matrix.data.astype(np.int32), **_if_any(small, matrix.nnz)
        )
        group.create_dataset(
            "indices", data=matrix.indices.astype(np.int64), **_if_any(small, matrix.nnz)
        )
        group.create_dataset("indptr", data=matrix.indptr.astype(np.int64), **small)
        group.create_dataset("shape", data=np.asarray(matrix.shape[::-1], np.int32))
        group.create_dataset("barcodes", data=_bytes(adata.obs_names))
        features = group.create_group("features")
        columns = {"id": names, "name": names, "interval": regions}
        columns |= {"feature_type": ["Peaks"] * len(names), "genome": [_genome(adata)] * len(names)}
        for name, values in columns.items():
            features.create_dataset(name, data=_bytes(values))
        features.create_dataset("_all_tag_keys", data=_bytes(["genome", "interval"]))


def _genome(adata: AnnData) -> str:
    """Return the genome if a column or ``uns`` names one; 10x files have it for every feature."""
    for genome in (
        adata.uns.get("genome"),
        adata.var["genome"].iloc[0] if "genome" in adata.var and adata.n_vars else None,
    ):
        if isinstance(genome, str) and genome:
            return genome
    return "unknown"


def _if_any(options: dict[str, Any], n: int) -> dict[str, Any]:
    """Filters for a dataset of `n` values: an empty one has no chunks."""
    return options if n else {}


def _bytes(values: Any) -> np.ndarray:
    return (
        np.char.encode(np.asarray([str(value) for value in values], dtype=np.str_), "utf-8")
        if len(values)
        else np.zeros(0, "S1")
    )


def _write_h5mu(adata: AnnData, destination: str | os.PathLike[str]) -> None:
    creator = f"MuData (format-version=0.1.0;creator=scale_toolkit;creator-version={__version__})"
    with _new_hdf5(destination, user_block=creator.encode()) as root:
        from anndata.io import write_elem

        root.attrs.update(
            {"encoding-type": "MuData", "encoding-version": "0.1.0", "axis": np.int64(0)}
        )
        root.attrs.update({"encoder": "scale_toolkit", "encoder-version": __version__})
        modalities = root.create_group("mod")
        modalities.attrs.create("mod-order", ["atac"], dtype=h5py.string_dtype())
        write_anndata(modalities.create_group("atac"), adata)
        for axis, names in (("obs", adata.obs_names), ("var", adata.var_names)):
            index = pd.Index(names.astype(str), dtype=object)
            write_elem(root, axis, pd.DataFrame(index=index))
            write_elem(root, f"{axis}m", {"atac": np.ones(len(index), bool)})
            write_elem(root, f"{axis}map", {"atac": np.arange(1, len(index) + 1, dtype=np.uint32)})
            write_elem(root, f"{axis}p", {})
        write_elem(root, "uns", {})


def _with_matrix(adata: AnnData, matrix: sparse.csr_matrix, layer: str | None) -> AnnData:
    if layer is None:
        return adata
    exported = adata.copy()
    exported.X = matrix
    return exported


@contextmanager
def _new_folder(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new folder beside `destination`, which takes its place on success; on an error
    nothing is left.
    """
    check_place(destination, "mtx")
    final = Path(os.path.realpath(destination))
    try:
        with files.private_folder(final.parent, final.name) as private:
            (private / "new").mkdir()
            yield private / "new"
            if final.exists():
                final.replace(private / files.MOVED_ASIDE)
            (private / "new").replace(final)
    except OSError as error:
        raise _refused(destination, error) from error


@contextmanager
def _new_hdf5(destination: str | os.PathLike[str], user_block: bytes = b"") -> Iterator[h5py.File]:
    """Yield a new HDF5 file beside `destination`, which takes its place on success; with bytes
    before HDF5's own begin.
    """
    size = {"userblock_size": 512} if user_block else {}
    with files.atomic(destination) as private:
        try:
            with h5py.File(private, "w", **size) as root:
                yield root
            if user_block:
                with private.open("r+b") as file:
                    file.write(user_block[:512])
        except OSError as error:
            raise _refused(destination, error) from error


def _refused(destination: str | os.PathLike[str], error: OSError) -> Exception:
    if error.errno is None:
        return error
    return ScaleError(
        f"{destination} cannot be written ({os.strerror(error.errno)})",
        "",
        "free some space or choose another place",
    )


@contextmanager
def _gzipped(path: Path) -> Iterator[gzip.GzipFile]:
    """A gzip file with neither name nor time in it: equal content, equal bytes."""
    with (
        path.open("wb") as plain,
        gzip.GzipFile("", "wb", compresslevel=4, fileobj=plain, mtime=0) as file,
    ):
        yield file
