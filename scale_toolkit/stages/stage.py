"""A stage as a value: what it reads, what it writes, what it checks, and the function that computes
its result.

`stage` turns a function ``run(adata, config, *, progress, **inputs) -> Result`` into the public
function of a stage. `run` never modifies the AnnData: `commit` writes its `Result`, all of it or
nothing.
"""

from __future__ import annotations

import functools
import inspect
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import sparse

from scale_toolkit import __version__, keys
from scale_toolkit.errors import OptionError
from scale_toolkit.stages.kept import is_ours, keep_foreign, slots_of, written
from scale_toolkit.stages.receipts import appended, digest, entries, runtime_entry, versions
from scale_toolkit.stages.subset import loaded, subset
from scale_toolkit.threads import available_cores, limited_threads

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.lazy import RowBlocks
    from scale_toolkit.validation import Config

#: ``progress(message, done, total)``: called now and then by a long stage, in the stage's own
#: steps.
Progress = Callable[[str, int, int], None]

#: Slots that a stage reads, or a function of its config if they depend on the options.
Reads = tuple[keys.Slot, ...] | Callable[[Any], tuple[keys.Slot, ...]]
Loads = tuple[str, ...] | Callable[[Any], tuple[str, ...]]


@dataclass
class Result:
    """What a stage has computed, not yet written.

    Attributes
    ----------
    slots
        Arrays to store. Their axes are those of the result, that is after `cells` and `peaks`.
    blocks
        Matrices that may be larger than memory, by slot: computed block by block when they are
        written.
    cells, peaks
        Positions or mask of the cells and peaks that are kept, in order; None keeps all.
    target
        A new AnnData that receives the slots, for a stage that does not write into the one it was
        given.
    drops
        Slots that are removed because the result makes them stale.
    moves
        Slots that get another name, whoever wrote them: old slot -> new slot.
    facts
        What the receipt records as notes (JSON values).
    """

    slots: dict[keys.Slot, Any] = field(default_factory=dict)
    blocks: dict[keys.Slot, RowBlocks] = field(default_factory=dict)
    cells: np.ndarray | None = None
    peaks: np.ndarray | None = None
    target: AnnData | None = None
    drops: tuple[keys.Slot, ...] = ()
    moves: dict[keys.Slot, keys.Slot] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes
    ----------
    name
        The subcommand, also the name in receipts.
    config
        The class of its options.
    run
        ``run(adata, config, *, progress, **inputs) -> Result``.
    reads
        Everything that `run` reads, for a config; the receipt holds its digest.
    requires
        Slots without which the stage cannot work; an error names the stage that writes them.
    writes
        Slots that a result may hold.
    check
        ``check(adata, config, **inputs)`` raises what can be known before any work: a missing
        column, more clusters than cells, an absent device. Slots that an earlier stage will write
        may still be missing when it is called.
    loads
        Libraries with threads of their own, loaded before the number of threads is limited: loaded
        later they would ignore the limit.
    makes_new
        Whether the result is a new AnnData: then ``uns['scale']`` of the input may be another
        program's.
    revision
        Number of the algorithm that a config runs, raised when its results change by more than
        rounding; receipts without one are of revision 1. `verify` does not replay another one.
    """

    name: str
    config: type[Config]
    run: Callable[..., Result]
    reads: Callable[[Any], tuple[keys.Slot, ...]]
    requires: tuple[keys.Slot, ...] = ()
    writes: tuple[keys.Slot, ...] = ()
    check: Callable[..., None] | None = None
    loads: Callable[[Any], tuple[str, ...]] = lambda config: ()
    makes_new: bool = False
    revision: Callable[[Any], int] = lambda config: 1

    @property
    def inputs(self) -> set[str]:
        """Names of the keyword arguments besides the options: data such as a blacklist."""
        parameters = inspect.signature(self.run).parameters.values()
        return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "progress"}

    def configure(self, config: Config | None, options: dict[str, Any]) -> Config:
        """Return the config that was given, or the one that keyword options make."""
        if config is None:
            known = self.config.__dataclass_fields__
            for name in options:
                if name not in known:
                    raise OptionError(
                        f"unknown option {name!r}", "one of " + ", ".join(sorted(known))
                    )
            return self.config(**options)
        if not isinstance(config, self.config):
            raise OptionError(f"got a {type(config).__name__}", f"a {self.config.__name__}")
        if options:
            raise OptionError(
                "got a config and options", "one of the two", f"drop {', '.join(options)}"
            )
        return config

    def prepare(
        self, adata: Any, config: Config, inputs: dict[str, Any], planned: Sequence[keys.Slot] = ()
    ) -> None:
        """Raise what can be known before any work; `planned` slots will be written by earlier
        stages.
        """
        for slot in self.requires:
            if slot not in planned:
                slot.get(adata)
        if self.check is not None:
            self.check(adata, config, **inputs)

    def apply(
        self,
        adata: Any,
        config: Config,
        *,
        progress: Progress | None = None,
        inputs: dict[str, Any] | None = None,
        in_memory: bool = True,
    ) -> tuple[AnnData, dict[str, RowBlocks]]:
        """Run the stage and commit its result.

        Returns
        -------
        The AnnData, and by path (``obsm/imputed``) the matrices that were not computed: with
        `in_memory` none.
        """
        inputs = inputs or {}
        self.prepare(adata, config, inputs)
        if not self.makes_new:
            entries(adata, keys.RECEIPTS)  # unreadable receipts are an error before the work
        slots_read = self.reads(config)
        receipt: dict[str, Any] = {
            "stage": self.name,
            "version": __version__,
            "options": config.as_dict(),
            "reads": [slot.path for slot in slots_read],
            "input": digest(
                adata, slots_read, getattr(config, "n_threads", 0) or available_cores()
            ),
            "libraries": versions(),
        }
        if self.revision(config) != 1:
            receipt["revision"] = self.revision(config)
        started = time.perf_counter()
        for library in self.loads(config):
            import_module(library)
        with limited_threads(getattr(config, "n_threads", 0)) as threads:
            result = self.run(adata, config, progress=progress, **inputs)
            if in_memory:
                for slot, rows in result.blocks.items():
                    result.slots[slot] = _materialised(rows, slot, progress)
        receipt["threads"] = threads
        if result.facts:
            receipt["notes"] = result.facts
        runtime = runtime_entry(self.name, time.perf_counter() - started)
        blocks = {} if in_memory else {slot.path: rows for slot, rows in result.blocks.items()}
        return commit(adata, result, receipt, runtime, streamed=tuple(blocks)), blocks


def commit(
    adata: Any,
    result: Result,
    receipt: dict[str, Any],
    runtime: dict[str, Any],
    *,
    streamed: Sequence[str] = (),
) -> AnnData:
    """Write a result, its receipt and its run time: all of them, or nothing if one of them does not
    fit.

    What a slot held that no stage of ours wrote is kept under another name, with a warning
    (`kept`). The receipt lists what was written, `streamed` paths included.

    Returns
    -------
    `adata` with the results; a new AnnData if the stage has made one (`Result.target`), keeps some
    of the cells or peaks, or was given a view.
    """
    target = _target(adata, result)
    # a stage that makes a new AnnData has carried the receipts over, and may have written into it
    history = entries(target, keys.RECEIPTS)
    new_slots = {} if result.target is None else slots_of(target, receipt["stage"])
    new_slots |= result.blocks | result.slots
    is_new = result.target is not None
    moved = keep_foreign(adata, target, new_slots, history, is_new=is_new)
    receipt = receipt | {"writes": written(new_slots, streamed)}
    if moved.names:
        receipt["kept"] = moved.names
    texts = {
        slot: appended(entries(target, slot), entry)
        for slot, entry in ((keys.RECEIPTS, receipt), (keys.RUNTIME, runtime))
    }
    values = result.slots | texts
    _check_fit(target, values)
    moved.write(target)
    for slot in result.drops:
        if slot in result.slots or not slot.found_in(target):
            continue
        # what the user wrote under that name does not become stale by our results
        if slot.name.startswith("scale") or is_ours(target, slot, history):
            slot.drop(target)
    for slot, new_slot in result.moves.items():
        new_slot.set(target, slot.get(target))
        slot.drop(target)
    for slot, value in values.items():
        slot.set(target, value)
    return target


def _target(adata: Any, result: Result) -> AnnData:
    """Return the AnnData that receives the slots."""
    if result.target is not None:
        return result.target
    if result.cells is not None or result.peaks is not None:
        cells = slice(None) if result.cells is None else result.cells
        peaks = slice(None) if result.peaks is None else result.peaks
        return subset(adata, cells, peaks)
    return loaded(adata) if adata.is_view else adata


def _check_fit(target: AnnData, values: Mapping[keys.Slot, Any]) -> None:
    """Raise what AnnData would raise for a value that does not fit, before anything is written."""
    import pandas as pd
    from anndata import AnnData

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicated names are not this stage's concern
        trial = AnnData(
            obs=pd.DataFrame(index=target.obs_names), var=pd.DataFrame(index=target.var_names)
        )
        for slot, value in values.items():
            slot.set(trial, value)


def _materialised(rows: RowBlocks, slot: keys.Slot, progress: Progress | None) -> Any:
    """Return all blocks as one matrix; a dense one is filled in place, so that it is held once."""
    dense = np.empty(rows.shape, rows.dtype) if rows.format == "dense" else None
    blocks: list[Any] = []
    n_done = 0
    for block in rows.blocks():
        if dense is not None:
            dense[n_done : n_done + block.shape[0]] = block
        else:
            blocks.append(block)
        n_done += block.shape[0]
        if progress is not None:
            progress(f"computing {slot.path}", n_done, rows.shape[0])
    return dense if dense is not None else sparse.vstack(blocks, format="csr", dtype=rows.dtype)


class StageFunction(Protocol):
    """The public function of a stage: ``train(adata, n_components=8)`` or ``train(adata,
    TrainConfig(...))``.
    """

    stage: Stage
    __name__: str

    def __call__(
        self,
        adata: Any,
        config: Config | None = None,
        *,
        progress: Progress | None = None,
        **keywords: Any,
    ) -> AnnData:
        """Run the stage."""
        ...

    def streamed(
        self,
        adata: Any,
        config: Config | None = None,
        *,
        progress: Progress | None = None,
        **keywords: Any,
    ) -> tuple[AnnData, dict[str, RowBlocks]]:
        """Run the stage without computing its large matrices: these come back as blocks of rows,
        by path.
        """
        ...


def stage(
    name: str,
    config: type[Config],
    *,
    reads: Reads = (),
    requires: tuple[keys.Slot, ...] = (),
    writes: tuple[keys.Slot, ...] = (),
    check: Callable[..., None] | None = None,
    loads: Loads = (),
    makes_new: bool = False,
    revision: int | Callable[[Any], int] = 1,
) -> Callable[[Callable[..., Result]], StageFunction]:
    """Make the public function of a stage from its `run`; its `Stage` is the attribute ``stage``
    (see there).
    """

    def wrap(run: Callable[..., Result]) -> StageFunction:
        value = Stage(
            name=name,
            config=config,
            run=run,
            reads=_function_of_config(reads),
            requires=requires,
            writes=writes,
            check=check,
            loads=_function_of_config(loads),
            makes_new=makes_new,
            revision=_function_of_config(revision),
        )
        return public_function(value)

    return wrap


def _function_of_config(value: Any) -> Callable[[Any], Any]:
    return value if callable(value) else lambda config: value


def public_function(value: Stage) -> StageFunction:
    """Return the function that runs a stage, with its options in the signature and the docstring
    of `run`.
    """
    inputs_known = value.inputs

    def split(keywords: dict[str, Any], config: Config | None) -> tuple[Config, dict[str, Any]]:
        inputs = {name: keywords.pop(name) for name in list(keywords) if name in inputs_known}
        return value.configure(config, keywords), inputs

    @functools.wraps(value.run)
    def call(
        adata: Any,
        config: Config | None = None,
        *,
        progress: Progress | None = None,
        **keywords: Any,
    ) -> AnnData:
        config, inputs = split(keywords, config)
        return value.apply(adata, config, progress=progress, inputs=inputs)[0]

    def streamed(
        adata: Any,
        config: Config | None = None,
        *,
        progress: Progress | None = None,
        **keywords: Any,
    ) -> tuple[AnnData, dict[str, RowBlocks]]:
        config, inputs = split(keywords, config)
        return value.apply(adata, config, progress=progress, inputs=inputs, in_memory=False)

    streamed.__doc__ = StageFunction.streamed.__doc__
    call.stage, call.streamed = value, streamed  # type: ignore[attr-defined]
    call.__signature__ = _signature(value)  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def _signature(value: Stage) -> inspect.Signature:
    """Return the signature that users see: adata, config, the options, then data besides the
    cells.
    """
    parameters = list(inspect.signature(value.run).parameters.values())
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    positional[1] = positional[1].replace(default=None)
    options = [
        inspect.Parameter(
            spec.name, inspect.Parameter.KEYWORD_ONLY, default=spec.default, annotation=spec.type
        )
        for spec in value.config.__dataclass_fields__.values()
    ]
    keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return inspect.Signature([*positional, *options, *keyword_only], return_annotation="AnnData")
