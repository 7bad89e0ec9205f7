"""``scale plan``, and ``--dry-run`` of the long stages: estimate the resources of the work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
PlanFile = Annotated[Path | None, given("-o", "--output", metavar="FILE", help=_AS_JSON)]


@command
def plan(
    source: Input = "-",
    output: PlanFile = None,
    modality: Modality = None,
    *,
    train: Annotated[TrainConfig, Options("Training", only=("preset", "max_iter", "batch_size"))],
    cluster: Annotated[ClusterConfig, Options("Clusters", only=("stability",))],
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
    writes: Sequence[str] | None = None,
    silent: bool = False,
) -> dict[str, Any]:
    """Estimate what these stages need, compare it with this machine, and show and return it.

    `writes` are the stages that write a file, if not all do.
    """
    from scale_toolkit.io.size import size_of
    from scale_toolkit.memory import available
    from scale_toolkit.needs import needs, together

    size = together([size_of(source, modality=modality) for source in sources])
    estimates = {
        stage: needs(
            stage,
            size,
            train=train or TrainConfig(),
            impute=impute or ImputeConfig(),
            cluster=cluster or ClusterConfig(),
        )
        for stage in stages
    }
    estimates = {
        stage: estimate if stage in (writes or stages) else estimate._replace(disk_mb=0)
        for stage, estimate in estimates.items()
    }
    free = available()
    facts: dict[str, Any] = {
        "cells": size.n_cells,
        "peaks": size.n_peaks,
        "open": size.n_open,
        "stages": {stage: estimate._asdict() for stage, estimate in estimates.items()},
        "memory_free_mb": None if free is None else round(free[0] / 1e6),
        "disk_free_mb": round(shutil.disk_usage(".").free / 1e6),
    }
    if silent:
        return facts
    talk.show(_table(size, estimates, facts), facts)
    largest = max(estimates, key=lambda stage: estimates[stage].memory_mb)
    if free is not None and estimates[largest].memory_mb * 1e6 > free[0]:
        talk.say(
            "warning",
            f"{spoken(largest)} needs {_bytes(estimates[largest].memory_mb)} of memory, and "
            f"{_bytes(facts['memory_free_mb'])} "
            f"are free here ({free[1]}); request more, or keep fewer peaks (`scale select-peaks "
            "--n-peaks`)",
        )
    if (written := sum(estimate.disk_mb for estimate in estimates.values())) > facts[
        "disk_free_mb"
    ]:
        talk.say(
            "warning",
            f"{_bytes(written)} would be written, and "
            f"{_bytes(facts['disk_free_mb'])} of disk are free here",
        )
    return facts


def spoken(stage: str) -> str:
    """Return the command of a stage."""
    return stage.replace("_", "-")


def _table(size: Size, found: dict[str, Needs], facts: dict[str, Any]) -> Any:
    from rich.console import Group
    from rich.table import Table

    share = size.n_open / size.n_values if size.n_values else 0.0
    table = Table(
        "stage", *(_column(name) for name in ("memory", "time", "writes")), box=None, pad_edge=False
    )
    for stage, estimate in found.items():
        table.add_row(
            spoken(stage),
            _bytes(estimate.memory_mb),
            _span(estimate.seconds),
            _bytes(estimate.disk_mb) if estimate.disk_mb else "",
        )
    free = facts["memory_free_mb"]
    memory = "" if free is None else f"{_bytes(free)} of memory, "
    return Group(
        f"{size.n_cells:,} cells × {size.n_peaks:,} peaks, {size.n_open:,} stored counts "
        f"({share:.1%})",
        table,
        f"free here: {memory}{_bytes(facts['disk_free_mb'])} of disk; times are for one thread of "
        "a "
        "CPU",
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
