"""Other containers of an AnnData: a zarr store, and one modality of a MuData."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from scale_toolkit.errors import InputError

if TYPE_CHECKING:
    import zarr
    from anndata import AnnData

log = logging.getLogger("scale_toolkit")

_METADATA = (".zarray", ".zmetadata", "zarr.json")
_PICKLE = {"pickle", "numcodecs.pickle"}
# Items that are copied at a time.
_STEP = 1 << 22
#: Names of the ATAC modality of a multiome; of several modalities, one must have such a name.
ATAC = ("atac", "peaks", "peak", "chromatin", "accessibility", "scatac", "snatac")


def is_zarr_store(path: Path) -> bool:
    """Whether the folder is a zarr group, of version 2 or 3, whatever its name."""
    return path.is_dir() and any((path / name).is_file() for name in (".zgroup", "zarr.json"))


def check_inside(folder: Path, path: str | os.PathLike[str], what: str) -> None:
    """Refuse a symbolic link in a folder of data that leads out of it.

    A folder from a stranger could otherwise name any file of this machine as one of its chunks
    or tables, and its content would arrive in the output. The folder itself may be a link.

    Parameters
    ----------
    folder
        The folder.
    path
        A file in it.
    what
        What the folder is, for the message.
    """
    root, target = os.path.realpath(folder), os.path.realpath(path)
    if os.path.commonpath((root, target)) != root:
        raise InputError(
            f"{folder}: {Path(path).name} is a symbolic link to {target}",
            f"a {what} that contains all its files",
            "replace the link with a copy, if you know where the folder comes from",
        )


def check_store(store: Path) -> None:
    """Refuse a zarr store with links that leave it, or with arrays whose decoding could run code.

    Raises
    ------
    InputError
        Such a store.
    """
    waiting = [os.path.realpath(store)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    check_inside(store, entry.path, "zarr store")
                elif entry.is_dir():
                    waiting.append(entry.path)
                elif not entry.is_file():
                    raise InputError(
                        f"{store}: {entry.name} is not a file", "a zarr store", "remove it"
                    )
                if entry.name in _METADATA and _is_pickled(entry.path):
                    raise InputError(
                        f"{store}: {entry.path} asks for pickle, which can run code when it is "
                        "read",
                        "arrays of numbers and text",
                        "do not use this store if you do not know its source; otherwise write it "
                        "again",
                    )


def _is_pickled(metadata: str) -> bool:
    """Whether the codecs of an array, or of any array of a group, include pickle."""
    try:
        waiting = [json.loads(Path(metadata).read_bytes())]
    except (OSError, ValueError):
        # damaged: its reader reports it
        return False
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if _PICKLE & {value.get("id"), value.get("name")}:
                return True
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return False


def copy_zarr(path: Path, root: h5py.File) -> None:
    """Copy a zarr store into a new HDF5 file, element by element in blocks, so that readers need to
    know one format.

    Raises
    ------
    InputError
        It cannot be read as one.
    """
    import zarr

    check_store(path)
    try:
        with warnings.catch_warnings():
            # zarr warns about names and codecs of other versions; what it cannot read raises
            warnings.simplefilter("ignore")
            _copy_group(zarr.open_group(path, mode="r"), root)
    except MemoryError:
        raise
    # any failure of the reader is a fault of the store, except of the disk it is copied to
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise InputError(
            f"{path} cannot be read as a zarr store ({reason})",
            "a complete store",
            "regenerate it or copy it again",
        ) from error


def _copy_group(source: zarr.Group, target: h5py.Group) -> None:
    import zarr
    from anndata.io import read_elem, write_elem

    for name, item in source.members():
        if isinstance(item, zarr.Group):
            _copy_group(item, target.create_group(name))
        elif item.shape and item.dtype.kind in "biuf":
            _copy_array(item, target.create_dataset(name, item.shape, item.dtype))
        else:
            # names, single values and the like
            write_elem(target, name, read_elem(item))
    _copy_attributes(source, target)


def _copy_array(source: zarr.Array[Any], target: h5py.Dataset) -> None:
    rows = max(1, _STEP // max(1, int(np.prod(source.shape[1:]))))
    for start in range(0, source.shape[0] if source.size else 0, rows):
        target[start : start + rows] = source[start : start + rows]
    _copy_attributes(source, target)


def _copy_attributes(source: Any, target: Any) -> None:
    for name, value in source.attrs.asdict().items():
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            target.attrs.create(name, value, dtype=h5py.string_dtype())
        elif value is not None and not isinstance(value, dict):
            target.attrs[name] = value


def is_mudata(root: h5py.Group) -> bool:
    """Whether the file holds modalities (MuData, ``.h5mu``)."""
    return isinstance(root.get("mod"), h5py.Group) and len(root["mod"]) > 0


def modality_of(root: h5py.Group, name: str, wanted: str | None = None) -> h5py.Group:
    """Return the ATAC modality of a MuData, or the requested one; its layout is that of an h5ad.

    It is recognised by its name (`ATAC`), or by ``var['feature_types']`` with 10x's type Peaks.

    Raises
    ------
    InputError
        No modality can be ATAC, several can, or the requested one is missing.
    """
    modalities = root["mod"]
    if wanted is not None:
        if wanted not in modalities:
            raise InputError(
                f"{name} has no modality {wanted!r}", "one of " + ", ".join(modalities)
            )
        return modalities[wanted]
    names = list(modalities)
    chosen = [key for key in names if key.lower() in ATAC] or [
        key for key in names if _holds_peaks(modalities[key])
    ]
    if len(names) == 1 and not chosen:
        chosen = names
    if len(chosen) != 1:
        raise InputError(
            f"{name} has the modalities {', '.join(names)}, and "
            f"{'none' if not chosen else ' and '.join(chosen)} may be ATAC",
            "one that is named atac or peaks",
            "say which: scale prepare --modality NAME",
        )
    log.info("%s: the modality %s of %s", name, chosen[0], ", ".join(names))
    return modalities[chosen[0]]


def add_shared(adata: AnnData, root: h5py.Group, name: str) -> None:
    """Add what a MuData knows of all modalities together to the cells of one: obs and obsm.

    Cell types and embeddings are often there and not in a modality. What the modality has itself
    stays; the masks that say which cells a modality has are left out.

    Parameters
    ----------
    adata
        The modality; columns and arrays are added.
    root
        The open file.
    name
        Its name for messages.
    """
    from anndata.io import read_elem

    if "obs" not in root or not adata.obs_names.is_unique:
        return
    modalities = set(root["mod"])
    shared = read_elem(root["obs"])
    if not shared.index.is_unique:
        return
    rows = shared.index.get_indexer(adata.obs_names)
    if (rows < 0).any():
        return
    added = []
    for column in shared:
        # muon writes a modality's own columns a second time, with its name in front
        modality, _, inner = str(column).partition(":")
        if column in adata.obs or (modality in modalities and inner in adata.obs):
            continue
        adata.obs[column] = shared[column].iloc[rows].set_axis(adata.obs_names)
        added.append(f"obs[{column!r}]")
    for key in root.get("obsm", ()):
        if key in modalities or key in adata.obsm:
            continue
        values = read_elem(root[f"obsm/{key}"])
        if isinstance(values, np.ndarray) and values.ndim == 2 and len(values) == len(shared):
            adata.obsm[key] = values[rows]
            added.append(f"obsm[{key!r}]")
    if added:
        log.info("%s: from all modalities: %s", name, ", ".join(added))


def _holds_peaks(group: h5py.Group) -> bool:
    from anndata.io import read_elem

    kinds = group.get("var/feature_types")
    return kinds is not None and set(np.unique(np.asarray(read_elem(kinds), dtype=str))) == {
        "Peaks"
    }
