"""The receipts of the stages as a table a person reads: options that differ from their defaults,
seconds, memory.
"""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING, Any

from scale_toolkit import keys
from scale_toolkit.receipt_reader import entries
from scale_toolkit.registry import config_of

if TYPE_CHECKING:
    from anndata import AnnData


@dataclasses.dataclass(frozen=True)
class Run:
    """One stage that was run.

    Attributes
    ----------
    stage, version
        What, and of which version.
    changed
        Options that differ from their defaults, as they are typed: ``--n-components 8``.
    options, notes
        All options, and what the stage noted.
    seconds, memory
        Wall-clock seconds and peak memory in MB; None where unknown.
    provenance
        Threads, digest of the input, versions of libraries.
    """

    stage: str
    version: str
    changed: tuple[str, ...]
    options: dict[str, Any]
    notes: dict[str, Any]
    seconds: float | None
    memory: float | None
    provenance: dict[str, Any]


def runs(adata: AnnData) -> list[Run]:
    """Every receipt in ``uns['scale']``, oldest first, with its time from
    ``uns['scale_runtime']``.
    """
    receipts, times = entries(adata), entries(adata, keys.RUNTIME)
    if [entry.get("stage") for entry in times] != [entry.get("stage") for entry in receipts]:
        times = [{}] * len(receipts)
    return [
        Run(
            stage=str(receipt.get("stage", "?")),
            version=str(receipt.get("version", "")),
            changed=tuple(_changed(str(receipt.get("stage", "")), receipt.get("options", {}))),
            options=receipt.get("options", {}),
            notes={
                name: value for name, value in receipt.get("notes", {}).items() if name != "report"
            },
            seconds=time.get("seconds"),
            memory=time.get("peak_memory_mb"),
            provenance={
                name: receipt[name] for name in ("threads", "input", "libraries") if name in receipt
            },
        )
        for receipt, time in zip(receipts, times, strict=True)
    ]


def last(adata: AnnData, stage: str) -> Run | None:
    """The last receipt of a stage."""
    return next((run for run in reversed(runs(adata)) if run.stage == stage), None)


def _changed(stage: str, options: dict[str, Any]) -> list[str]:
    """The options that differ from the stage's config; all of them where it is not known."""
    kind = config_of(stage)
    defaults = kind().as_dict() if kind is not None else {}
    words = []
    order = [
        *(option for option in defaults if option in options),
        *(option for option in options if option not in defaults),
    ]
    for option in order:
        value = options[option]
        if option in defaults and defaults[option] == value:
            continue
        flag = "--" + option.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value not in (False, None) and value != []:
            words.append(
                f"{flag} {','.join(map(_word, value)) if isinstance(value, list) else _word(value)}"
            )
    return words


def _word(value: Any) -> str:
    """A value as it is typed: 30 for 30.0, quotes where a shell needs them."""
    return f"{value:g}" if isinstance(value, float) else shlex.quote(str(value))
