"""``scale plan``, and ``--dry-run`` of the long stages: estimate the resources of the work."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scale_toolkit.cli.options import Input, Modality, Options, command, given
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import ClusterConfig, ImputeConfig, TrainConfig

if TYPE_CHECKING:
    from scale_toolkit.needs import Needs, Size

DryRun = Annotated[
    bool,
    given(
        "--dry-run",
        help="Check the options and estimate memory, time and disk, without doing the work.",
        panel="Messages",
    ),
]
_AS_JSON = "Write the plan as JSON, too; - for standard output."
#: What makes a stage smaller that does not fit.
_SMALLER = {
    "cluster": ", or cluster a part of the cells (`--sketch 100000`)",
    "embed": ", or leave embed out",
    "report": ", or keep fewer peaks (`scale select-peaks --n-peaks`)",
}
Devices = Annotated[
    int,
    typer.Option(
        "--devices",
        metavar="N",
        min=1,
        rich_help_panel="Training",
        help="Plan `train --devices N`: N processes on one machine.",
    ),
]
PlanFile = Annotated[Path | None, given("-o", "--output", metavar="FILE", help=_AS_JSON)]


@command
def plan(
    source: Input = "-",
    output: PlanFile = None,
    modality: Modality = None,
    devices: Devices = 1,
    *,
    train: Annotated[TrainConfig, Options("Training", only=("preset", "max_iter", "batch_size"))],
    cluster: Annotated[ClusterConfig, Options("Clusters", only=("stability", "sketch"))],
    impute: Annotated[
        ImputeConfig,
        Options("Imputation", only=("numeric", "numeric_format", "binary", "binary_format")),
    ],
    talk: Talk,
) -> None:
    """Estimate memory, time and disk of every stage on this input; only its header is read."""
    from scale_toolkit.io.files import check_destination, write_bytes
    from scale_toolkit.needs import STAGES

    destination = None if output is None or str(output) == "-" else output
    if destination is not None:
        check_destination(destination, [source])
    silent = str(output) == "-"
    facts = foresee(
        [source],
        STAGES,
        talk,
        train=train,
        impute=impute,
        cluster=cluster,
        modality=modality,
        n_processes=devices,
        silent=silent,
    )
    text = json.dumps(facts, indent=1) + "\n"
    if destination is not None:
        write_bytes(destination, text.encode())
    elif output is not None:
        talk.stdout.write(text)


def foresee(
    sources: Sequence[str],
    stages: Sequence[str],
    talk: Talk,
    *,
    train: TrainConfig | None = None,
    impute: ImputeConfig | None = None,
    cluster: ClusterConfig | None = None,
    modality: str | None = None,
    n_processes: int = 1,
    writes: Sequence[str] | None = None,
    silent: bool = False,
) -> dict[str, Any]:
    """Estimate what these stages need, compare it with this machine, and show and return it.

    `writes` are the stages that write a file, if not all do; `n_processes` are those of `train`.
    """
    from scale_toolkit.io.size import size_of
    from scale_toolkit.memory import available
    from scale_toolkit.needs import gpu_megabytes, needs, together

    size = together([size_of(source, modality=modality) for source in sources])
    free = available()
    estimates = {
        stage: needs(
            stage,
            size,
            train=train or TrainConfig(),
            impute=impute or ImputeConfig(),
            cluster=cluster or ClusterConfig(),
            n_processes=n_processes,
        )
        for stage in stages
    }
    estimates = {
        stage: estimate if stage in (writes or stages) else estimate._replace(disk_mb=0)
        for stage, estimate in estimates.items()
    }
    temporary = Path(tempfile.gettempdir())
    facts: dict[str, Any] = {
        "cells": size.n_cells,
        "peaks": size.n_peaks,
        "open": size.n_open,
        "stages": {stage: estimate._asdict() for stage, estimate in estimates.items()},
        "memory_free_mb": None if free is None else round(free[0] / 1e6),
        "disk_free_mb": round(shutil.disk_usage(".").free / 1e6),
        "temporary_free_mb": round(shutil.disk_usage(temporary).free / 1e6),
        "gpu_mb": gpu_megabytes(size, n_processes),
        "processes": n_processes,
    }
    if silent:
        return facts
    talk.show(_table(size, estimates, facts), facts)
    largest = max(estimates, key=lambda stage: estimates[stage].least_memory_mb)
    if free is not None and estimates[largest].least_memory_mb * 1e6 > free[0]:
        talk.say(
            "warning",
            f"{spoken(largest)} needs {_bytes(estimates[largest].least_memory_mb)} of memory, and "
            f"{_bytes(facts['memory_free_mb'])} "
            f"are free here ({free[1]}); request more{_SMALLER.get(largest, '')}",
        )
    if (written := sum(estimate.disk_mb for estimate in estimates.values())) > facts[
        "disk_free_mb"
    ]:
        talk.say(
            "warning",
            f"{_bytes(written)} would be written, and "
            f"{_bytes(facts['disk_free_mb'])} of disk are free here",
        )
    spooled = max(_spooled_mb(estimate, facts) for estimate in estimates.values())
    if spooled > facts["temporary_free_mb"]:
        talk.say(
            "warning",
            f"counts take {_bytes(spooled)} of temporary files, and "
            f"{_bytes(facts['temporary_free_mb'])} are free in TMPDIR ({temporary}); set TMPDIR to "
            "a folder on a larger disk",
        )
    return facts


def spoken(stage: str) -> str:
    """Return the command of a stage."""
    return stage.replace("_", "-")


def _spooled_mb(estimate: Needs, facts: dict[str, Any]) -> int:
    """MB of temporary files of a stage with the memory that is free here: an array of 4 bytes a
    stored count goes there if it takes more than a share of that.
    """
    from scale_toolkit.scratch import SHARE_IN_MEMORY

    free = facts["memory_free_mb"]
    an_array = 4 * facts["open"] / 1e6
    return 0 if free is None or an_array <= free * SHARE_IN_MEMORY else estimate.temporary_mb


def _table(size: Size, found: dict[str, Needs], facts: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table

    share = size.n_open / size.n_values if size.n_values else 0.0
    spooled = {stage: _spooled_mb(estimate, facts) for stage, estimate in found.items()}
    columns = ["memory", "time", "writes", *(["temporary files"] if any(spooled.values()) else [])]
    table = Table("stage", *(_column(name) for name in columns), box=None, pad_edge=False)
    for stage, estimate in found.items():
        figures = [
            _bytes(estimate.least_memory_mb if spooled[stage] else estimate.memory_mb),
            _span(estimate.seconds),
            *(_bytes(mb) if mb else "" for mb in (estimate.disk_mb, spooled[stage])),
        ]
        table.add_row(spoken(stage), *figures[: len(columns)])
    free = facts["memory_free_mb"]
    memory = "" if free is None else f"{_bytes(free)} of memory, "
    n_processes = facts["processes"]
    gpus = "a GPU" if n_processes == 1 else f"each of {n_processes} GPUs"
    notes = [f"open peaks on {gpus}: {_bytes(facts['gpu_mb'])}, or less, copied in batches"]
    if n_processes > 1:
        notes.append(f"train: {n_processes} processes on one machine, which share its time")
    return Group(
        f"{size.n_cells:,} cells × {size.n_peaks:,} peaks, {size.n_open:,} stored counts "
        f"({share:.1%})",
        table,
        f"free here: {memory}{_bytes(facts['disk_free_mb'])} of disk; times are for one thread of "
        "a CPU",
        *(notes if "train" in found else []),
    )


def _column(name: str) -> Any:
    from rich.table import Column

    return Column(name, justify="right")


def _bytes(megabytes: float) -> str:
    return f"{megabytes:,.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:,.1f} GB"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
