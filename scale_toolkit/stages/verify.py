"""``verify``: replay the receipts of a result and compare the outcome with it."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd

from scale_toolkit import __version__, keys
from scale_toolkit.config import UNRECORDED
from scale_toolkit.errors import InputError, UsageError
from scale_toolkit.registry import STAGES
from scale_toolkit.stages.differences import (
    CHANGED,
    CLOSE,
    DIFFERENT,
    MISSING,
    NOT_REPLAYED,
    SAME,
    difference,
)
from scale_toolkit.stages.receipts import digest, receipts, versions
from scale_toolkit.threads import available_cores

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.stages.stage import Progress

_LOG = logging.getLogger("scale_toolkit")

#: Slots that digests covered before receipts listed them (up to the release of 0.1.0).
READ_BEFORE: dict[str, tuple[keys.Slot, ...]] = {
    "prepare": (keys.X,),
    "select-peaks": (keys.X,),
    "train": (keys.X,),
    "impute": (keys.DECODER, keys.BIAS, keys.OFFSET, keys.LATENT),
    "embed": (keys.LATENT,),
    "cluster": (keys.LATENT,),
    "markers": (keys.X,),
    "simulate": (),
}


@dataclass
class Verdict:
    """Outcome of `verify`.

    Attributes
    ----------
    replayed
        The stages that were run again, in order.
    skipped
        Receipts that were not replayed, with the reason.
    departs
        The first stage whose input was not the one of its receipt, or None.
    slots
        Slot -> (verdict, largest difference or share of cells with another label).
    restarted
        Stages that were replayed from the file's own arrays, because those of the replay were
        different.
    changed
        Stages that were not run again, as this version computes something else there: stage ->
        version that wrote the receipt.
    elsewhere
        Differences in versions, threads and device that may explain a difference of the result.
    """

    replayed: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    departs: str | None = None
    slots: dict[str, tuple[str, float]] = field(default_factory=dict)
    restarted: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)

    @property
    def reproduced(self) -> bool:
        """Whether something was run again, and all it wrote is identical."""
        verdicts = {verdict for verdict, _ in self.slots.values()} - {NOT_REPLAYED}
        return bool(self.replayed) and self.departs is None and verdicts == {SAME}

    @property
    def close(self) -> bool:
        """Whether all that was run again is identical or within `TOLERANCE`."""
        verdicts = {verdict for verdict, _ in self.slots.values()} - {NOT_REPLAYED}
        return bool(self.replayed) and self.departs is None and verdicts <= {SAME, CLOSE}

    @property
    def differs(self) -> bool:
        """Whether the file departs from its receipts, other than by stages that have changed."""
        verdicts = {verdict for verdict, _ in self.slots.values()}
        return self.departs is not None or bool(verdicts & {DIFFERENT, MISSING})

    def first(self) -> str:
        """Return the first difference of the result, in words."""
        if self.departs:
            return f"`{self.departs}` was given something else than its receipt says"
        wrong = [
            slot for slot, (verdict, _) in self.slots.items() if verdict in (DIFFERENT, MISSING)
        ]
        if not wrong:
            return "nothing was run"
        text = f"{len(wrong)} of {len(self.slots)} slots came out different, first {wrong[0]}"
        if self.restarted:
            text += f"; {', '.join(self.restarted)} replayed from the file's own arrays"
        return text


def verify(
    result: AnnData,
    original: AnnData | Sequence[AnnData] | Mapping[str, AnnData] | None = None,
    *,
    blacklist: pd.DataFrame | None = None,
    metadata: pd.DataFrame | None = None,
    model: bytes | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Replay the receipts of `result` and compare the outcome, slot by slot and bit by bit.

    Each stage is run with the options, seed and number of threads of its receipt. Without
    `original` the replay begins at the first stage whose input is still in `result`, according to
    its digest: for the result of `scale run`, that is ``train``.

    Parameters
    ----------
    result
        A result with receipts in ``uns['scale']``. Neither it nor `original` is modified.
    original
        Input of the first stage: the replay then begins there.
    blacklist, metadata, model
        The regions that `prepare` left out, the table that it added to obs, and the model file of
        `train --pretrain`, if receipts mention them.
    progress
        Handed on to the stages.

    Returns
    -------
    Verdict
        ``reproduced`` if every slot is bit for bit the same; if not, which slots differ by how
        much, from which stage on, and what else is different (versions, threads, device).

    Raises
    ------
    InputError
        No receipts, receipts of stages this version does not know, `original` is not what the
        receipts began with, or no stage's input is in `result` and no `original` was given.
    """
    history = receipts(result)
    if not history:
        raise InputError(
            "uns['scale'] has no receipts",
            "a result of scale_toolkit",
            "give a file that a stage has written",
        )
    verdict = Verdict(elsewhere=_elsewhere(history))
    begin, current = _beginning(result, original, history, verdict)
    for position, receipt in enumerate(history[begin:], begin):
        name = receipt["stage"]
        call = _function(receipt)
        options = _options(call, receipt)
        if call.stage.revision(options) != receipt.get("revision", 1):
            _pass_over(receipt, result, current, verdict)
            current = _stripped(result, {later["stage"] for later in history[position + 1 :]})
            continue
        if digest(current, _reads(receipt)) != receipt["input"]:
            if original is not None and not verdict.replayed:
                raise InputError(
                    f"the input is not what the first receipt ({name}) was given: its digest is "
                    "another",
                    "the very counts the result was made from",
                    "look for an older copy, or for the same inputs in the same order and by the "
                    "same names, with the same --barcodes",
                )
            if digest(result, _reads(receipt)) == receipt["input"]:
                # what an earlier stage made is different, and the file still holds what this one
                # was given: judge this stage by itself
                _compare(result, current, verdict)
                current = _stripped(result, {later["stage"] for later in history[position:]})
                verdict.restarted.append(name)
            else:
                verdict.departs = verdict.departs or name
        current = call(
            current,
            options,
            progress=progress,
            **_inputs(receipt, {"blacklist": blacklist, "metadata": metadata}, model),
        )
        verdict.replayed.append(name)
    _compare(result, current, verdict, final=True)
    return verdict


def _pass_over(receipt: dict[str, Any], result: AnnData, current: Any, verdict: Verdict) -> None:
    """Record that a stage's algorithm has changed: later stages are judged by the file's own
    arrays.
    """
    if isinstance(current, anndata.AnnData):
        _compare(result, current, verdict)
    verdict.changed[receipt["stage"]] = receipt["version"]
    for slot in _function(receipt).stage.writes:
        if slot.found_in(result):
            verdict.slots[str(slot)] = (CHANGED, np.nan)


def _beginning(
    result: AnnData, original: Any, history: list[dict[str, Any]], verdict: Verdict
) -> tuple[int, AnnData | list[AnnData] | Mapping[str, AnnData] | None]:
    """Return the position of the first receipt to replay, and the input of its stage."""
    if isinstance(original, anndata.AnnData):
        try:
            has = receipts(original)
        except InputError:  # another program's entry, which `prepare` keeps under another name
            has = []
        return (
            len(has) if has == history[: len(has)] and len(has) < len(history) else 0
        ), original.copy()
    if original is not None:
        return 0, original
    if history[0]["stage"] == "simulate":
        return 0, None
    for begin, receipt in enumerate(history):
        reads = _reads(receipt)
        if reads and digest(result, reads) == receipt["input"]:
            for earlier in history[:begin]:
                verdict.skipped[earlier["stage"]] = (
                    "its input is not in the file: give --input ORIGINAL"
                )
            return begin, _stripped(result, {receipt["stage"] for receipt in history[begin:]})
    raise InputError(
        "none of the stages' inputs is in the file",
        "counts in X, or the original",
        "give what the first stage read: --input",
    )


def _function(receipt: dict[str, Any]) -> Any:
    name = receipt["stage"]
    if name not in STAGES:
        raise InputError(
            f"there is a receipt of {name!r}, version {receipt.get('version')}",
            f"stages of version {__version__}: {', '.join(STAGES)}",
            "verify with the version that wrote it",
        )
    if name == "train" and receipt.get("notes", {}).get("pretrained"):
        from scale_toolkit.stages.encode import encode

        return encode
    return STAGES[name].load()


def _reads(receipt: dict[str, Any]) -> tuple[keys.Slot, ...]:
    """Return the slots that a receipt's digest covers."""
    # raises for a stage of another version
    _function(receipt)
    paths = receipt.get("reads")
    return (
        READ_BEFORE[receipt["stage"]]
        if paths is None
        else tuple(keys.parse(path) for path in paths)
    )


def _options(call: Any, receipt: dict[str, Any]) -> Any:
    config = call.stage.config
    known = {spec.name for spec in dataclasses.fields(config)}
    recorded = {**UNRECORDED.get(receipt["stage"], {}), **receipt["options"]}
    options = {name: value for name, value in recorded.items() if name in known}
    if "n_threads" in known:
        options["n_threads"] = receipt["threads"]
    if (
        options.get("device") not in (None, "cpu")
        and receipt.get("notes", {}).get("device") == "cpu"
    ):
        options["device"] = "cpu"
    return config(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in options.items()
        }
    )


def _inputs(
    receipt: dict[str, Any], tables: dict[str, pd.DataFrame | None], model: bytes | None
) -> dict[str, Any]:
    """Return the inputs of a stage besides the cells."""
    notes = receipt.get("notes", {})
    if receipt["stage"] == "prepare":
        for name, table in tables.items():
            if (notes.get(name) is not None) != (table is not None):
                raise UsageError(
                    f"prepare was given {'a' if notes.get(name) else 'no'} {name}",
                    f"--{name} if and only if there was one",
                    "give the same file",
                )
        return tables
    if notes.get("pretrained"):
        if model is None:
            raise UsageError(
                "train encoded with a model file", "--model FILE", "give the model of --pretrain"
            )
        return {"model": model}
    if notes.get("with"):
        raise InputError(
            f"{receipt['stage']} was given {' and '.join(notes['with'])}, which the file does not "
            "hold",
            "stages of the counts alone",
            f"verify the file {receipt['stage']} was given",
        )
    if receipt["stage"] == "impute":
        if "cells" in notes:
            raise InputError(
                "impute kept only some cells",
                "a result with all its cells",
                "verify the file impute was given",
            )
        if isinstance(notes.get("peaks"), int):
            raise InputError(
                f"impute was given a list of {notes['peaks']:,} peaks, which the receipt does not "
                "hold",
                "a shorter list, or all peaks",
                "verify the file impute was given",
            )
        return {"peaks": notes["peaks"]} if "peaks" in notes else {}
    parameters = inspect.signature(_function(receipt).stage.run).parameters.values()
    needed = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if needed:
        raise InputError(
            f"{receipt['stage']} was given {' and '.join(needed)}, which the file does not hold",
            "stages of the counts alone",
            f"verify the file {receipt['stage']} was given",
        )
    return {}


def _stripped(result: AnnData, stages: set[str]) -> AnnData:
    """Return `result` without the slots of these stages, and without receipts."""
    bare = result.copy()
    for slot in keys.all_slots():
        if slot.stage.split()[0] in stages or slot in (keys.RECEIPTS, keys.RUNTIME):
            slot.drop(bare)
    return bare


def _elsewhere(history: list[dict[str, Any]]) -> list[str]:
    """Return how this machine differs from the one that wrote the receipts."""
    last = history[-1]
    installed = versions()
    differences = [
        f"{name} {recorded_version}, here {installed[name]}"
        for name, recorded_version in sorted(last["libraries"].items())
        if installed.get(name) != recorded_version
    ]
    if last["version"] != __version__:
        differences.insert(0, f"scale_toolkit {last['version']}, here {__version__}")
    cores = available_cores()
    threads = max(receipt["threads"] for receipt in history)
    if threads > cores:
        differences.append(f"{threads} threads, here {cores} cores")
    if any("reads" not in receipt for receipt in history):
        differences.append("an earlier form of receipts, whose digests covered less")
    n_processes = max(receipt.get("notes", {}).get("processes", 1) for receipt in history)
    if n_processes > 1:
        differences.append(f"trained by {n_processes} processes, here by one")
    devices = {receipt.get("notes", {}).get("device", "cpu") for receipt in history} - {"cpu"}
    return differences + [f"trained on {device}" for device in sorted(devices)]


def _compare(result: AnnData, again: AnnData, verdict: Verdict, *, final: bool = False) -> None:
    """Record how each slot came out; what was recorded before a restart stays.

    Slots that are missing from `again` are recorded only at the end: a later stage may write them.
    """
    if not result.obs_names.equals(again.obs_names) or not result.var_names.equals(again.var_names):
        verdict.slots["cells × peaks"] = (DIFFERENT, np.nan)
        _LOG.info("%s cells × peaks came out as %s", result.shape, again.shape)
        return
    verdict.slots.setdefault("X", difference(result.X, again.X))
    contract = {str(slot) for slot in keys.all_slots()}
    for attribute in ("obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns"):
        stored, replayed = getattr(result, attribute), getattr(again, attribute)
        for name in stored:
            if name is None or (
                attribute == "uns" and name in (keys.RECEIPTS.name, keys.RUNTIME.name)
            ):
                continue
            slot = f"{attribute}[{name!r}]"
            if slot in verdict.slots:
                continue
            if name in replayed:
                verdict.slots[slot] = difference(stored[name], replayed[name])
            elif final:
                verdict.slots[slot] = (MISSING if slot in contract else NOT_REPLAYED, np.nan)
