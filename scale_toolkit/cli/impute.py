"""``scale impute``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from scale_toolkit import keys
from scale_toolkit.cli.files import check_folder, check_readable, through
from scale_toolkit.cli.options import Input, Output, command, given
from scale_toolkit.cli.summary import validation
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import ImputeConfig
from scale_toolkit.errors import UsageError

Model = Annotated[
    Path | None,
    given(
        "--model",
        metavar="FILE",
        help="With --validate: encode thinned counts with this model (of `scale train --model`) instead of training again. "
        "Quick, but optimistic: the decoder has seen what is hidden.",
    ),
]
ValidateDir = Annotated[
    Path | None,
    given("--validate-dir", metavar="FOLDER", help="With --validate: write validation.json and its figures there."),
]


@command
def impute(
    source: Input = "-",
    output: Output = "-",
    model: Model = None,
    validate_dir: ValidateDir = None,
    *,
    config: ImputeConfig,
    talk: Talk,
) -> None:
    """Write the probability that each peak is open in each cell, or its binary form, block by block; or prove it."""
    for flag, value in (("--model", model), ("--validate-dir", validate_dir)):
        if value is not None and not config.validate:
            raise UsageError(f"{flag} without --validate", "both", f"add --validate, or drop {flag}")
    check_readable(model)
    if validate_dir is not None:
        check_folder(validate_dir, "--validate-dir")
    without = tuple(path for path in keys.LARGE if path != "X") if config.validate else keys.LARGE
    with through(source, output, talk, without=without) as cells:
        from scale_toolkit.stages.impute import outdated, streamed

        if not config.validate:
            cells.forget(*(slot.path for slot in outdated(cells.adata, config)))
        with talk.progress() as progress:
            adata, blocks = streamed(
                cells.adata, config, progress=progress, model=model.read_bytes() if model is not None else None
            )
        if config.validate:
            cells.forget(*(slot.path for slot in outdated(adata, config)))
            talk.show(*validation(adata))
            _write_validation(adata, validate_dir)
        with talk.progress() as progress:
            cells.write(adata, blocks)


def _write_validation(adata, folder: Path | None) -> None:
    """The report as JSON, and two figures."""
    if folder is None:
        return
    from scale_toolkit import plot
    from scale_toolkit.io.files import write_bytes

    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "validation.json", keys.VALIDATION.get(adata).encode())
    plot.recovery(adata, save=folder / "recovery.pdf")
    plot.recovery(adata, by_cluster=True, save=folder / "recovery_clusters.pdf")
    plot.reliability(adata, save=folder / "reliability.pdf")
