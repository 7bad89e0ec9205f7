"""Keep what a file held under a slot's name before a stage writes that slot.

A column, embedding or graph that no stage wrote, and that a result would overwrite, moves to
another name: ``obs['leiden']`` to ``obs['leiden_original']``. Receipts identify the slots of the
stages: each lists what its stage wrote, with the categories of categorical columns, so that a
column whose categories were renamed by hand counts as the user's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit import keys
from scale_toolkit.errors import warn

Receipts = Sequence[Mapping[str, Any]]

#: Added to the name of what is kept; a number follows if that name is taken as well.
SUFFIX = "_original"
_GRAPH = {slot.path for slot in (keys.NEIGHBORS, keys.DISTANCES, keys.CONNECTIVITIES)}
#: scanpy's names of the matrices that a description of neighbours points to.
_GRAPH_KEYS = {"distances_key": "distances", "connectivities_key": "connectivities"}


@dataclass
class Kept:
    """Values that move to other names before a result is written.

    Attributes
    ----------
    names
        New name of each slot that moves, by its path (``{"obs/leiden": "leiden_original"}``).
    values
        The values to store under those names.
    """

    names: dict[str, str] = field(default_factory=dict)
    values: dict[keys.Slot, Any] = field(default_factory=dict)

    def write(self, target: Any) -> None:
        """Store the values under their new names and warn about each of them."""
        for slot, value in self.values.items():
            slot.set(target, value)
        for path, name in self.names.items():
            slot = keys.parse(path)
            new = keys.column(slot.where, name)
            warn(f"{slot} was not written by scale_toolkit and is kept as {new}")


def keep_foreign(
    source: Any,
    target: Any,
    values: Mapping[keys.Slot, Any],
    history: Receipts,
    *,
    is_new: bool = False,
) -> Kept:
    """Find what `values` would overwrite that no stage of ours has written.

    Parameters
    ----------
    source
        The AnnData that the stage was given.
    target
        The AnnData that receives the values: `source`, some of its cells and peaks, or a new one.
    values
        What the stage writes, by slot: arrays, or matrices that are computed block by block.
    history
        The receipts of `source`.
    is_new
        Whether the stage made `target`, so that a slot found there may hold its own values.
    """
    moved = Kept()
    for slot, value in values.items():
        if slot.where == "" or not hasattr(source, "obs"):
            continue
        if not slot.found_in(source) or is_ours(source, slot, history):
            continue
        if not is_new and slot.found_in(target):
            old = slot.get(target)
        else:
            old = _on_axes_of(target, source, slot)
        if old is None or equal(old, value) or _is_kept_already(target, slot, old):
            continue
        name = free_name(source, slot, target)
        moved.names[slot.path] = name
        moved.values[keys.column(slot.where, name)] = old
    described = keys.column("uns", moved.names.get(keys.NEIGHBORS.path, ""))
    if isinstance(moved.values.get(described), Mapping):
        moved.values[described] = _renamed_graph(moved.values[described], moved.names)
    return moved


def is_ours(adata: Any, slot: keys.Slot, history: Receipts) -> bool:
    """Return whether a stage of ours wrote what the slot holds, by the receipts.

    Parameters
    ----------
    adata
        An AnnData that holds the slot.
    slot
        The slot.
    history
        The receipts of `adata`.
    """
    value = slot.get(adata)
    if slot.path in _GRAPH and keys.NEIGHBORS.found_in(adata):
        # `scanpy.pp.neighbors` writes a description of its own, without the stage
        return "stage" in keys.NEIGHBORS.get(adata)
    receipt = _receipt_of(slot.path, history)
    if receipt is None:
        return False
    return "writes" not in receipt or _has_categories(value, receipt["writes"][slot.path])


def is_explained(path: str, history: Receipts) -> bool:
    """Return whether a receipt says that a stage of ours wrote the element at `path`, which is not
    loaded.
    """
    return _receipt_of(path, history) is not None


def _receipt_of(path: str, history: Receipts) -> Mapping[str, Any] | None:
    """Return the last receipt of a stage that wrote the element at `path`."""
    mapping, _, name = path.partition("/")
    # `impute` writes the same matrices to obsm and to layers
    stage = keys.parse(f"obsm/{name}" if mapping == "layers" else path).stage.split(" ")[0]
    for receipt in reversed(history):
        if path in receipt.get("writes", ()):
            return receipt
        if "writes" not in receipt and stage and stage == receipt.get("stage"):
            # a receipt of 0.1, which does not list what was written
            return receipt
    return None


def slots_of(adata: Any, stage: str) -> dict[keys.Slot, Any]:
    """Return the slots of a stage that an AnnData holds, with their values."""
    slots = (slot for slot in keys.all_slots() if slot.where and slot.stage.split(" ")[0] == stage)
    return {slot: slot.get(adata) for slot in slots if slot.found_in(adata)}


def written(values: Mapping[keys.Slot, Any], paths: Sequence[str]) -> dict[str, list[str] | None]:
    """Return what a receipt lists as written: categories of categorical columns, None otherwise."""
    entries: dict[str, list[str] | None] = dict.fromkeys(paths)
    for slot, value in values.items():
        entries[slot.path] = _categories(value)
    return dict(sorted(entries.items()))


def kept_column(name: str, history: Receipts) -> str | None:
    """Return under which name obs[`name`] of the user was kept last, None if it never was."""
    for receipt in reversed(history):
        if f"obs/{name}" in receipt.get("kept", {}):
            return str(receipt["kept"][f"obs/{name}"])
    return None


def equal(first: Any, second: Any) -> bool:
    """Return whether two values of a slot hold the same."""
    if first is second:
        return True
    # not computed yet: it may be larger than memory
    if hasattr(second, "blocks"):
        return False
    if sparse.issparse(first) and sparse.issparse(second):
        return first.shape == second.shape and (first != second).nnz == 0
    if isinstance(first, Mapping) or isinstance(second, Mapping):
        return False
    if isinstance(first, pd.DataFrame) or isinstance(second, pd.DataFrame):
        return type(first) is type(second) and first.equals(second)
    if sparse.issparse(first) or sparse.issparse(second):
        return False
    old, new = pd.array(np.ravel(first)), pd.array(np.ravel(second))
    if np.shape(first) != np.shape(second):
        return False
    return bool(pd.Series(old, dtype=object).equals(pd.Series(new, dtype=object)))


def _on_axes_of(target: Any, source: Any, slot: keys.Slot) -> Any:
    """Return the old value for the cells and peaks of `target`; None if they cannot be matched."""
    if source is target:
        return slot.get(target)
    if slot.where == "uns":
        return slot.get(source)
    if slot.found_in(target) and source.shape == target.shape:
        return slot.get(source)
    names, target_names = (
        (source.var_names, target.var_names)
        if slot.where in ("var", "varm", "varp")
        else (source.obs_names, target.obs_names)
    )
    if not names.is_unique or slot.where not in ("obs", "var", "obsm", "varm"):
        return None
    positions = names.get_indexer(target_names)
    if (positions < 0).any():
        return None
    value = slot.get(source)
    return value.iloc[positions] if hasattr(value, "iloc") else np.asarray(value)[positions]


def _is_kept_already(target: Any, slot: keys.Slot, old: Any) -> bool:
    """Return whether `target` holds the old value under a name that `free_name` gives."""
    held = getattr(target, slot.where)
    names = (name for name in held if str(name).startswith(f"{slot.name}{SUFFIX}"))
    return any(equal(held[name], old) for name in names)


def free_name(source: Any, slot: keys.Slot, target: Any = None) -> str:
    """Return the name under which the slot of `source` would be kept."""
    used_names = set(getattr(source, slot.where))
    if target is not None:
        used_names |= set(getattr(target, slot.where))
    name, number = f"{slot.name}{SUFFIX}", 2
    while name in used_names:
        name, number = f"{slot.name}{SUFFIX}{number}", number + 1
    return name


def _renamed_graph(described: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Let a description of neighbours that moves point to its matrices' new names."""
    renamed = dict(described)
    for key, default in _GRAPH_KEYS.items():
        name = names.get(f"obsp/{renamed.get(key, default)}")
        if name is not None:
            renamed[key] = name
    return renamed


def _categories(value: Any) -> list[str] | None:
    dtype = getattr(value, "dtype", None)
    return list(map(str, dtype.categories)) if isinstance(dtype, pd.CategoricalDtype) else None


def _has_categories(value: Any, recorded: Sequence[str] | None) -> bool:
    categories = _categories(value)
    return recorded is None or categories is None or set(categories) <= set(recorded)
