"""``scale impute``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from scale_toolkit import keys
from scale_toolkit.cli.files import check_folder, check_readable, through
from scale_toolkit.cli.options import Input, Output, command, given
from scale_toolkit.cli.plan import DryRun, foresee
from scale_toolkit.cli.summary import validation
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import ImputeConfig
from scale_toolkit.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_PART = "Only a part"
_GROUPS = "Groups of cells"
_PROOF = "Proof"

Peaks = Annotated[
    str | None,
    given(
        "--peaks",
        metavar="FILE|REGION|NAMES",
        panel=_PART,
        help="Only these peaks: a BED file, a file of names, or names and intervals such as "
        "chr1:1000-2000, with commas.",
    ),
]
Barcodes = Annotated[
    str | None,
    given(
        "--cells",
        metavar="QUERY|FILE",
        panel=_PART,
        help="Only these cells, also in the file written: a condition on obs such as 'leiden == "
        '"3"\', or a file of barcodes.',
    ),
]
GroupDir = Annotated[
    Path | None,
    given(
        "--group-dir",
        metavar="FOLDER",
        panel=_GROUPS,
        help="Write --per-group as a table and one bigWig a group, here.",
    ),
]
ChromSizes = Annotated[
    Path | None,
    given(
        "--chrom-sizes",
        metavar="FILE",
        panel=_GROUPS,
        help="Lengths of the chromosomes, for the bigWig files.",
    ),
]
Assembly = Annotated[
    str | None,
    given(
        "--assembly",
        metavar="NAME",
        panel=_GROUPS,
        help="The genome's name at UCSC and IGV, as hg38: write hub.txt and a session for IGV too, "
        "which show all groups on one scale in the figures' colours.",
    ),
]

Model = Annotated[
    Path | None,
    given(
        "--model",
        metavar="FILE",
        panel=_PROOF,
        help="With --validate: encode thinned counts with this model (of `scale train --model`) "
        "instead of training again. "
        "Fast, but optimistic: the decoder was trained on the hidden peaks.",
    ),
]
ValidateDir = Annotated[
    Path | None,
    given(
        "--validate-dir",
        metavar="FOLDER",
        panel=_PROOF,
        help="With --validate: write validation.json and its figures there.",
    ),
]


@command
def impute(
    source: Input = "-",
    output: Output = "-",
    peaks: Peaks = None,
    cells: Barcodes = None,
    group_dir: GroupDir = None,
    chrom_sizes: ChromSizes = None,
    assembly: Assembly = None,
    model: Model = None,
    validate_dir: ValidateDir = None,
    dry_run: DryRun = False,
    *,
    config: ImputeConfig,
    talk: Talk,
) -> None:
    """Write the probability that each peak is open in each cell, or its binary form; or prove
    it.
    """
    for flag, value in (("--model", model), ("--validate-dir", validate_dir)):
        if value is not None and not config.validate:
            raise UsageError(
                f"{flag} without --validate", "both", f"add --validate, or drop {flag}"
            )
    check_readable(model)
    if validate_dir is not None:
        check_folder(validate_dir, "--validate-dir")
    if group_dir is not None:
        if config.per_group is None:
            raise UsageError(
                "--group-dir without --per-group", "the column of obs that names the groups"
            )
        check_folder(group_dir, "--group-dir")
    elif chrom_sizes is not None:
        raise UsageError("--chrom-sizes without --group-dir", "a folder for the bigWig files")
    elif assembly is not None:
        raise UsageError("--assembly without --group-dir", "a folder for the bigWig files")
    check_readable(chrom_sizes)
    if assembly is not None:
        from scale_toolkit.io.browser import check_assembly

        check_assembly(assembly)
    if dry_run:
        foresee(
            [source],
            ["train", "impute"] if config.validate and model is None else ["impute"],
            talk,
            impute=config,
        )
        return
    not_loaded = tuple(path for path in keys.LARGE if path != "X" or not config.validate)
    matrices = (keys.IMPUTED, keys.BINARY, keys.BINARY_PACKED)
    paths = [f"{mapping}/{slot.name}" for mapping in ("obsm", "layers") for slot in matrices]
    with through(source, output, talk, without=not_loaded, writes=paths) as file:
        from scale_toolkit.io.groups import write_groups
        from scale_toolkit.io.regions import read_barcodes, read_wanted
        from scale_toolkit.stages.impute import streamed

        inputs = {
            "peaks": None if peaks is None else read_wanted(peaks),
            "cells": None if cells is None else read_barcodes(cells),
            "model": None if model is None else model.read_bytes(),
        }
        former_peaks = _imputed_peaks(file.adata)
        with talk.progress() as progress:
            adata, blocks = streamed(file.adata, config, progress=progress, **inputs)
        if former_peaks not in (None, _imputed_peaks(adata)):
            # the columns of the file are other peaks
            file.forget(*(slot.path for slot in matrices))
        if config.validate:
            talk.show(*validation(adata))
            _write_validation(adata, validate_dir)
        with talk.progress() as progress:
            if group_dir is not None and config.per_group is not None:
                means = keys.GROUP_MEANS.get(adata)
                written = write_groups(
                    group_dir, config.per_group, means, chrom_sizes=chrom_sizes, progress=progress
                )
                if assembly is not None:
                    tracks = dict(zip(means.columns, written[1:], strict=True))
                    _write_sessions(adata, config.per_group, tracks, means, assembly)
            file.write(adata, blocks)


def _imputed_peaks(adata: AnnData) -> list[str] | None:
    """Return the names of the columns of imputed values, if there are any."""
    return list(keys.IMPUTED_PEAKS.get(adata)) if keys.IMPUTED_PEAKS.found_in(adata) else None


def _write_sessions(
    adata: AnnData, column: str, tracks: dict[str, Path], means: pd.DataFrame, assembly: str
) -> None:
    """Write what opens the bigWig files together, groups in the order and colours of figures."""
    from scale_toolkit import plot
    from scale_toolkit.io.browser import Signal, write_sessions

    shades = plot.label_colors(adata.obs[column], list(tracks))
    signals = [Signal(name, tracks[name].name, shade) for name, shade in shades.items()]
    folder = next(iter(tracks.values())).parent
    write_sessions(folder, column, signals, float(means.max(axis=None)), assembly)


def _write_validation(adata: AnnData, folder: Path | None) -> None:
    """Write the report as JSON, and its figures."""
    if folder is None:
        return
    from scale_toolkit import plot
    from scale_toolkit.io.files import write_bytes

    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "validation.json", keys.VALIDATION.get(adata).encode())
    plot.recovery(adata, save=folder / "recovery.pdf")
    plot.recovery(adata, by_cluster=True, save=folder / "recovery_clusters.pdf")
    plot.reliability(adata, save=folder / "reliability.pdf")
