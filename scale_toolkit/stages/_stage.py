"""Adapter for stages that write into their AnnData instead of returning a `Result`.

They run on a copy that shares all matrices; the changes of the copy become the `Result`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from scale_toolkit import keys
from scale_toolkit.stages.receipts import digest, receipts, versions
from scale_toolkit.stages.stage import Loads, Progress, Reads, Result, StageFunction, shallow_copy
from scale_toolkit.stages.stage import stage as stage_of_result

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.config import Config

__all__ = ["Progress", "digest", "note", "receipts", "stage", "versions"]

_FACTS: ContextVar[dict[str, Any] | None] = ContextVar("facts of the running stage", default=None)
_MAPPINGS = ("uns", "obsm", "varm", "obsp", "varp", "layers")


def note(adata: AnnData, **facts: Any) -> None:
    """Add facts to the receipt of the running stage: what was decided, merged, dropped."""
    running = _FACTS.get()
    if running is not None:
        running.update(facts)


def stage(
    name: str,
    config: type[Config],
    *,
    reads: Reads = (),
    requires: tuple[keys.Slot, ...] = (),
    writes: tuple[keys.Slot, ...] = (),
    check: Callable[..., None] | None = None,
    loads: Loads = (),
) -> Callable[[Callable[..., AnnData]], StageFunction]:
    """Make a public stage of ``run(adata, config, *, progress, **inputs) -> AnnData``; see
    `stage.stage`.
    """

    def wrap(run: Callable[..., AnnData]) -> StageFunction:
        @functools.wraps(run)
        def as_result(adata: Any, config: Config, **keywords: Any) -> Result:
            facts: dict[str, Any] = {}
            token = _FACTS.set(facts)
            try:
                work = shallow_copy(adata) if hasattr(adata, "obs") else adata
                output = run(work, config, **keywords)
            finally:
                _FACTS.reset(token)
            if output is not work:
                return Result(target=output, facts=facts)
            slots, drops = _changes(adata, work)
            return Result(slots=slots, drops=drops, facts=facts)

        return stage_of_result(
            name, config, reads=reads, requires=requires, writes=writes, check=check, loads=loads
        )(as_result)

    return wrap


def _changes(before: AnnData, after: AnnData) -> tuple[dict[keys.Slot, Any], tuple[keys.Slot, ...]]:
    """Return the slots that differ, and those that are gone."""
    slots: dict[keys.Slot, Any] = {}
    drops: list[keys.Slot] = []
    for attribute in ("obs", "var"):
        old, new = getattr(before, attribute), getattr(after, attribute)
        for name in new.columns:
            if (
                name not in old
                or not new[name].equals(old[name])
                or new[name].dtype != old[name].dtype
            ):
                slots[keys.column(attribute, name)] = new[name]
        drops += [keys.column(attribute, name) for name in old.columns if name not in new]
    for attribute in _MAPPINGS:
        old, new = getattr(before, attribute), getattr(after, attribute)
        for name, value in new.items():
            if name is not None and (name not in old or value is not old[name]):
                slots[keys.column(attribute, name)] = value
        drops += [
            keys.column(attribute, name) for name in old if name is not None and name not in new
        ]
    return slots, tuple(drops)
