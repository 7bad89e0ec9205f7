"""Receipts: what each stage read, its options and library versions, its time and memory."""

from __future__ import annotations

import functools
import json
import platform
import resource
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.errors import InputError

#: Bytes of a piece of a large array, which is digested apart.
PIECE = 1 << 26

#: Libraries whose version can change a result. Those that are not installed are left out.
LIBRARIES = (
    "anndata",
    "igraph",
    "leidenalg",
    "numba",
    "numpy",
    "pynndescent",
    "scanpy",
    "scikit-learn",
    "scipy",
    "torch",
    "umap-learn",
)


def receipts(adata: Any) -> list[dict[str, Any]]:
    """Return the receipts of every stage that has worked on `adata`, oldest first."""
    return entries(adata, keys.RECEIPTS)


def entries(adata: Any, slot: keys.Slot) -> list[dict[str, Any]]:
    """Return the list in a JSON slot (`keys.RECEIPTS`, `keys.RUNTIME`); empty if the slot is
    missing.

    Raises
    ------
    InputError
        The slot holds something else, for example the entry of another program.
    """
    return parsed(getattr(adata, "uns", {}).get(slot.name), slot)


def parsed(text: Any, slot: keys.Slot = keys.RECEIPTS) -> list[dict[str, Any]]:
    """Return the list that the text of a JSON slot holds; empty for None. Raises as `entries`."""
    if text is None:
        return []
    try:
        content = json.loads(str(text))
    except ValueError:
        content = None
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise InputError(
            f"{slot} does not hold the receipts of scale_toolkit",
            "a JSON list",
            f"rename or delete uns[{slot.name!r}] first",
        )
    return content


def appended(previous: list[dict[str, Any]], entry: dict[str, Any]) -> str:
    """Return the JSON text of `previous` with one more entry; NumPy numbers and arrays become
    plain ones.
    """
    return json.dumps([*previous, entry], sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"a receipt cannot hold a {type(value).__name__}")


def digest(adata: Any, slots: Iterable[keys.Slot], n_threads: int = 1) -> str:
    """Return the BLAKE2b digest (32 hex digits) of what a stage reads.

    Parameters
    ----------
    adata
        AnnData, in memory or backed; a list of them (digested in order); a mapping (with its
        names); or None for a stage that reads nothing.
    slots
        What is read. A slot that is missing counts as missing, so that adding it changes the
        digest.
    n_threads
        Threads that share large arrays; the digest is the same for any number.

    Notes
    -----
    A CSR, CSC or dense X of the same counts gives different digests; a backed and a loaded one the
    same.
    """
    state = blake2b(digest_size=16)
    if isinstance(adata, Mapping):
        state.update("\n".join(map(str, adata)).encode())
        adata = list(adata.values())
    slots = tuple(slots)
    for source in adata if isinstance(adata, (list, tuple)) else [adata]:
        if source is None:
            continue
        state.update("\n".join(map(str, source.shape)).encode())
        for slot in slots:
            if slot.found_in(source):
                _feed(state, slot.get(source), n_threads)
            else:
                state.update(f"missing: {slot.path}".encode())
    return state.hexdigest()


def _feed(state: Any, value: Any, n_threads: int) -> None:
    # the sparse X of a backed AnnData is not a SciPy matrix
    if hasattr(value, "to_memory") and hasattr(value, "group"):
        stored = value.group
        _feed_array(state, stored["indptr"][:].astype(np.int64), n_threads)
        _feed_stored(state, stored["indices"], np.dtype(np.int32))
        _feed_stored(state, stored["data"], stored["data"].dtype)
    elif sparse.issparse(value):
        _feed_array(state, value.indptr.astype(np.int64), n_threads)
        _feed_array(state, value.indices, n_threads, np.dtype(np.int32))
        _feed_array(state, value.data, n_threads)
    elif isinstance(value, Mapping):
        for key in sorted(value):
            state.update(key.encode())
            _feed(state, value[key], n_threads)
    elif value is not None:
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            _feed_array(state, array, n_threads)
        else:
            state.update("\n".join(map(str, array.ravel())).encode())


def _feed_array(
    state: Any, array: np.ndarray, n_threads: int, dtype: np.dtype[Any] | None = None
) -> None:
    """Feed the bytes of an array, as this type if one is given; of a large one the digests of its
    pieces, which threads share: each piece is converted by itself.
    """
    values = np.ascontiguousarray(array).reshape(-1)
    dtype = values.dtype if dtype is None else dtype
    length = PIECE // dtype.itemsize
    if len(values) <= length:
        state.update(values.astype(dtype, copy=False))
        return

    def digest_of(first: int) -> bytes:
        piece: Any = values[first : first + length].astype(dtype, copy=False)
        return blake2b(piece, digest_size=32).digest()

    with ThreadPoolExecutor(n_threads) as pool:
        for piece_digest in pool.map(digest_of, range(0, len(values), length)):
            state.update(piece_digest)


def _feed_stored(state: Any, dataset: Any, dtype: np.dtype[Any]) -> None:
    """Feed an array on disk as `_feed_array` does one of this type in memory, a piece at a time."""
    length = PIECE // dtype.itemsize
    for first in range(0, max(len(dataset), 1), length):
        piece = dataset[first : first + length].astype(dtype, copy=False)
        is_small = len(dataset) <= length
        state.update(piece if is_small else blake2b(piece, digest_size=32).digest())


@functools.cache
def _versions() -> dict[str, str]:
    installed = {}
    for name in LIBRARIES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def versions() -> dict[str, str]:
    """Return the installed version of each library that results depend on."""
    return dict(_versions())


def runtime_entry(name: str, seconds: float) -> dict[str, Any]:
    """Return one entry of ``uns['scale_runtime']``: seconds, peak memory of the process, host."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    megabytes = peak / (1024**2 if sys.platform == "darwin" else 1024)
    return {
        "stage": name,
        "seconds": round(seconds, 3),
        "peak_memory_mb": round(megabytes, 1),
        "host": platform.node(),
    }
