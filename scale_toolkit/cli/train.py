"""``scale train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from scale_toolkit import keys
from scale_toolkit.cli.files import check_readable, check_side_file, through
from scale_toolkit.cli.options import Gpu, Input, Options, Output, Pretrain, command, given, on_gpu
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import TrainConfig
from scale_toolkit.errors import UsageError


@command
def train(
    source: Input = "-",
    output: Output = "-",
    model: Annotated[Path | None, given("--model", metavar="FILE", help="Write the model, for --pretrain.")] = None,
    pretrain: Pretrain = None,
    gpu: Gpu = None,
    *,
    config: Annotated[TrainConfig, Options(panel="Model")],
    talk: Talk,
) -> None:
    """Train SCALE: a latent space, the decoder's loadings, and how responsible each mixture component is for each cell."""
    config = on_gpu(config, gpu)
    if model and pretrain:
        raise UsageError("both --model and --pretrain", "one of the two", "drop --model: the model is already written")
    check_side_file(model, "--model", (source, output))
    check_readable(pretrain)
    without = tuple(path for path in keys.LARGE if path != "X")
    with through(source, output, talk, without=without) as cells:
        from scale_toolkit.io.files import write_bytes
        from scale_toolkit.stages.train import encode
        from scale_toolkit.stages.train import train as stage

        with talk.progress() as progress:
            if pretrain:
                result = encode(cells.adata, config, progress=progress, model=pretrain.read_bytes())
            else:
                keep = (lambda data: write_bytes(model, data)) if model else None
                result = stage(cells.adata, config, progress=progress, keep_model=keep)
        names = (keys.IMPUTED.name, keys.BINARY.name)
        cells.forget(*(f"{where}/{name}" for where in ("obsm", "layers") for name in names))  # of a former model
        cells.write(result)
