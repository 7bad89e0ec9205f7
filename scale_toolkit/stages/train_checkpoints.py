"""Checkpoints of a training: which training they belong to, and how to resume from one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from scale_toolkit import __version__, keys
from scale_toolkit.errors import InputError
from scale_toolkit.stages.batches import batch_columns
from scale_toolkit.stages.receipts import digest

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from anndata import AnnData

    from scale_toolkit.config import TrainConfig
    from scale_toolkit.model.snapshot import Snapshot

log = logging.getLogger("scale_toolkit")

#: Options that say how a training is computed, not which one it is: it may be resumed with other
#: threads, or on another device.
MACHINE_OPTIONS = ("device", "n_threads", "gpu_memory", "deterministic", "precision")


class Checkpoints(Protocol):
    """Store of checkpoints (`scale_toolkit.io.checkpoints`)."""

    due: bool

    def save(self, epoch: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Keep a checkpoint."""
        ...

    def load(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Return the last complete checkpoint, or None."""
        ...


def resume_from(checkpoints: Checkpoints, adata: AnnData, settings: TrainConfig) -> dict[str, Any]:
    """Return the arguments with which `train_model` resumes from the last checkpoint and saves new
    ones.

    Raises
    ------
    InputError
        The checkpoint is of another training.
    """
    from scale_toolkit.model.snapshot import Snapshot

    options = settings.as_dict()
    training = {
        "version": __version__,
        "options": {name: options[name] for name in options if name not in MACHINE_OPTIONS},
        "cells": digest(adata, (keys.X, keys.SELECTED, *batch_columns(settings))),
    }

    def save(take: Callable[[], Snapshot]) -> None:
        if checkpoints.due:
            snapshot = take()
            facts = {"of": training, "training": snapshot.facts}
            checkpoints.save(snapshot.facts["epoch"], snapshot.arrays, facts)

    last = checkpoints.load()
    if last is None:
        return {"on_snapshot": save}
    arrays, facts = last
    saved = facts.get("of", {})
    if saved != training:
        raise InputError(
            f"the checkpoint is of another training ({_difference(saved, training)})",
            "the same cells, peaks, options and version",
            "give this training a --checkpoint folder of its own",
        )
    log.info("resuming after epoch %d", facts["training"]["epoch"])
    return {"resume": Snapshot(arrays, facts["training"]), "on_snapshot": save}


def _difference(saved: dict[str, Any], current: dict[str, Any]) -> str:
    """Return the first difference between two trainings, in words."""
    if saved.get("version") != current["version"]:
        return f"version {saved.get('version')}, here {current['version']}"
    options = saved.get("options", {})
    for name, value in current["options"].items():
        if options.get(name) != value:
            return f"{name} {options.get(name)}, here {value}"
    return "other cells or peaks"
