"""``scale train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scale_toolkit import keys
from scale_toolkit.cli.files import check_folder, check_pretrain, check_side_file, through
from scale_toolkit.cli.options import (
    Gpu,
    Input,
    Options,
    Output,
    Pretrain,
    PretrainPeaks,
    command,
    given,
    on_gpu,
)
from scale_toolkit.cli.plan import DryRun, foresee
from scale_toolkit.cli.processes import check_several, joined, run_processes
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import TrainConfig
from scale_toolkit.errors import UsageError

_RESUME = "After an interruption"
_CHECKPOINT = (
    "Keep checkpoints in this folder, and resume from the last one in it: the result is that "
    "of an uninterrupted run."
)
_SEVERAL = "Several processes"
_DEVICES = (
    "Train with this many processes on this machine: one a GPU, or sharing the cores of the CPU. "
    "For several machines start the command with torchrun instead."
)
_EVERY = "Minutes between checkpoints; 0: one after every epoch."


@command
def train(
    source: Input = "-",
    output: Output = "-",
    model: Annotated[
        Path | None, given("--model", metavar="FILE", help="Write the model, for --pretrain.")
    ] = None,
    pretrain: Pretrain = None,
    pretrain_peaks: PretrainPeaks = None,
    gpu: Gpu = None,
    checkpoint: Annotated[
        Path | None, given("--checkpoint", metavar="FOLDER", panel=_RESUME, help=_CHECKPOINT)
    ] = None,
    every: Annotated[
        float,
        typer.Option("--every", metavar="MINUTES", min=0, rich_help_panel=_RESUME, help=_EVERY),
    ] = 10,
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices",
            metavar="N",
            min=1,
            rich_help_panel=_SEVERAL,
            show_default=False,
            help=_DEVICES,
        ),
    ] = None,
    dry_run: DryRun = False,
    *,
    config: Annotated[TrainConfig, Options(panel="Model")],
    talk: Talk,
) -> None:
    """Train SCALE: a latent space, the decoder's loadings, and how responsible each mixture
    component is for each cell.
    """
    config = on_gpu(config, gpu)
    if model and pretrain:
        raise UsageError(
            "both --model and --pretrain",
            "one of the two",
            "drop --model: the model is already written",
        )
    check_side_file(model, "--model", (source, output))
    check_pretrain(pretrain, pretrain_peaks)
    if checkpoint is not None:
        if pretrain:
            raise UsageError(
                "both --checkpoint and --pretrain",
                "one of the two",
                "drop --checkpoint: nothing is trained",
            )
        check_folder(checkpoint, "--checkpoint")
    if dry_run:
        foresee([source], ["train"], talk, train=config, n_processes=devices or 1)
        return
    from scale_toolkit.stages.train_team import MEETING, size_of_team

    n_processes = size_of_team()
    if n_processes > 1 or (devices or 1) > 1:
        if pretrain:
            raise UsageError(
                "several processes and --pretrain",
                "one process: nothing is trained",
                "drop --devices, or do not use torchrun",
            )
        check_several(source, config, devices)
        if n_processes == 1 and devices is not None:
            raise typer.Exit(run_processes(devices, MEETING, config.n_threads))
        with joined(config) as (team, config):
            _train(source, output, model, None, None, checkpoint, every, config, talk, team)
        return
    _train(source, output, model, pretrain, pretrain_peaks, checkpoint, every, config, talk, None)


def _train(
    source: str,
    output: str,
    model: Path | None,
    pretrain: Path | None,
    pretrain_peaks: Path | None,
    checkpoint: Path | None,
    every: float,
    config: TrainConfig,
    talk: Talk,
    team: Any,
) -> None:
    """Train on the cells of `source`, alone or with a team of processes, whose leader writes."""
    not_loaded = tuple(path for path in keys.LARGE if path != "X")
    with through(
        source, output, talk, without=not_loaded, counts_on_disk=team is not None
    ) as cells:
        from scale_toolkit.io.checkpoints import Checkpoints
        from scale_toolkit.io.files import write_bytes
        from scale_toolkit.io.regions import model_peaks
        from scale_toolkit.stages.encode import encode
        from scale_toolkit.stages.train import follow
        from scale_toolkit.stages.train import train as stage

        if team is not None and not team.leads:
            follow(cells.adata, config, team)
            return
        with talk.progress() as progress:
            if pretrain:
                peak_names = model_peaks(pretrain, pretrain_peaks)
                result = encode(
                    cells.adata,
                    config,
                    progress=progress,
                    model=pretrain.read_bytes(),
                    peaks=peak_names,
                )
            else:
                keep = (lambda data: write_bytes(model, data)) if model else None
                store = Checkpoints(checkpoint, every) if checkpoint else None
                result = stage(
                    cells.adata,
                    config,
                    progress=progress,
                    keep_model=keep,
                    checkpoints=store,
                    team=team,
                )
        names = (keys.IMPUTED.name, keys.BINARY.name, keys.BINARY_PACKED.name)
        # imputed values of an earlier model are stale
        cells.forget(*(f"{mapping}/{name}" for mapping in ("obsm", "layers") for name in names))
        cells.write(result)
