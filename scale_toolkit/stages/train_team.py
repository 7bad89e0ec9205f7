"""``train`` in several processes, which torchrun or ``scale train --devices`` starts."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from scale_toolkit import __version__, keys, memory
from scale_toolkit.errors import DeviceError, InputError, OptionError
from scale_toolkit.stages.batches import batch_columns
from scale_toolkit.stages.receipts import digest
from scale_toolkit.stages.train_checkpoints import MACHINE_OPTIONS
from scale_toolkit.threads import available_cores

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.config import TrainConfig
    from scale_toolkit.model.processes import Processes
    from scale_toolkit.model.team import Team

log = logging.getLogger("scale_toolkit")

#: File in which the processes of ``--devices`` meet.
MEETING = "SCALE_TEAM_FILE"
#: A process that cannot be reached for this many minutes is lost. One that ends is at once; the
#: others wait for the leader while it reads, and while it computes what it computes alone.
PATIENCE = 30


def size_of_team(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes this one was started with, itself included.

    Other programs set RANK and WORLD_SIZE too: only torchrun's and our own count.
    """
    if MEETING not in environment and "TORCHELASTIC_RUN_ID" not in environment:
        return 1
    return int(environment.get("WORLD_SIZE", "1"))


def check_team_options(config: TrainConfig) -> None:
    """Raise `OptionError` for options that need a single process."""
    if config.preset != "fast":
        raise OptionError(
            f"preset is {config.preset} and several processes are asked for",
            "the preset fast: the published model is trained by one process",
            "drop one of the two",
        )
    if config.batch_key is not None:
        raise OptionError(
            f"batch_key is {config.batch_key} and several processes are asked for",
            "one process: batches are not taken out by several",
            "drop one of the two",
        )


@contextmanager
def joined_team(
    config: TrainConfig, environment: Mapping[str, str] = os.environ
) -> Iterator[tuple[Processes, TrainConfig]]:
    """Join the other processes, and yield their team with this process's options.

    The threads and the memory that the user grants are those of all processes on a machine.
    """
    import torch

    from scale_toolkit.model.processes import Processes

    local_rank, n_local = (int(environment[name]) for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    n_threads = max((config.n_threads or available_cores()) // n_local, 1)
    config = dataclasses.replace(config, n_threads=n_threads)
    method = f"file://{environment[MEETING]}" if MEETING in environment else "env://"
    has_nccl = torch.distributed.is_nccl_available() and torch.cuda.is_available()
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if has_nccl else "gloo",
        init_method=method,
        rank=int(environment["RANK"]),
        world_size=int(environment["WORLD_SIZE"]),
        timeout=datetime.timedelta(minutes=PATIENCE),
    )
    try:
        with memory.shared_among(n_local):
            team = Processes()
            device = team.together(lambda: _device(config.device, local_rank, n_local))
            if not all(name.startswith("cuda") for name in team.collected(device)):
                device = "cpu"
            elif device.startswith("cuda"):
                torch.cuda.set_device(torch.device(device))
            yield team, dataclasses.replace(config, device=device)
    finally:
        torch.distributed.destroy_process_group()


def _device(name: str, local_rank: int, n_local: int) -> str:
    """Return the device of this process: each has a GPU of its own, or all use the CPU."""
    import torch

    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and n_gpus < n_local):
        return "cpu"
    if name not in ("auto", "cuda"):
        raise DeviceError(
            f"device is {name}, with {n_local} processes on a machine",
            "auto, cuda or cpu: each process takes a GPU of its own",
            "use --device cuda",
        )
    if n_gpus < n_local:
        raise DeviceError(
            f"{n_local} processes on a machine with {n_gpus} GPUs",
            "a GPU for each",
            "use fewer processes, or --device cpu",
        )
    return f"cuda:{local_rank}"


def check_size(team: Team, n_cells: int, batch_size: int) -> None:
    """Raise for cells, or cells of a step, that are too few to be shared by a team."""
    if n_cells < 2 * team.size or batch_size < team.size:
        raise InputError(
            f"{n_cells:,} cells in steps of {batch_size:,}, and {team.size} processes",
            "two cells or more for each process, and one or more of each step",
            "use fewer processes",
        )


def check_same(team: Team, adata: AnnData, settings: TrainConfig) -> None:
    """Raise `InputError` in all processes if they have other cells, options or versions."""
    options = settings.as_dict()
    facts = {
        "version": __version__,
        "options": {name: options[name] for name in options if name not in MACHINE_OPTIONS},
        "cells or peaks": _look(adata, settings),
    }
    everyone = team.collected(facts)

    def check() -> None:
        for rank, its_facts in enumerate(everyone):
            for name, expected in everyone[0].items():
                if its_facts[name] != expected:
                    difference = _difference(name, its_facts, expected)
                    raise InputError(
                        f"process {rank + 1} of {team.size} has {difference} than the first",
                        "the same in all",
                        "start all processes with the same command, on the same file",
                    )

    team.together(check)


def _difference(name: str, its_facts: dict[str, Any], expected: Any) -> str:
    if name != "options":
        return f"another {name}" if name == "version" else f"other {name}"
    names = [option for option in expected if its_facts[name].get(option) != expected[option]]
    return f"another {names[0]} ({its_facts[name].get(names[0])}, not {expected[names[0]]})"


def _look(adata: AnnData, settings: TrainConfig) -> str:
    """Digest of names, selected peaks, and the first and last counts: no pass over all of them."""
    state = blake2b(digest(adata, (keys.SELECTED, *batch_columns(settings))).encode())
    for names in (adata.obs_names, adata.var_names):
        state.update("\n".join(names).encode())
    n_cells = adata.n_obs
    for rows in (slice(0, 1000), slice(max(n_cells - 1000, 0), n_cells)):
        counts = adata.X[rows]
        for array in (counts.indptr, counts.indices, counts.data):
            state.update(np.asarray(array).astype(np.float64).tobytes())
    return state.hexdigest()


@contextmanager
def silent() -> Iterator[None]:
    """Leave messages to the leader."""
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
