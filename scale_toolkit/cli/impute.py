"""``scale impute``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from scale_toolkit import keys
from scale_toolkit.cli.files import check_folder, check_readable, through
from scale_toolkit.cli.options import Input, Output, command, given
from scale_toolkit.cli.talk import Talk
from scale_toolkit.config import ImputeConfig
from scale_toolkit.errors import UsageError

_PART = "Only a part"
_GROUPS = "Groups of cells"

Peaks = Annotated[
    str | None,
    given(
        "--peaks",
        metavar="FILE|REGION|NAMES",
        panel=_PART,
        help="Only these peaks: a BED file, a file of names, or names and intervals such as chr1:1000-2000, with commas.",
    ),
]
Barcodes = Annotated[
    str | None,
    given(
        "--cells",
        metavar="QUERY|FILE",
        panel=_PART,
        help="Only these cells, also in the file written: a condition on obs such as 'leiden == \"3\"', or a file of barcodes.",
    ),
]
GroupDir = Annotated[
    Path | None,
    given("--group-dir", metavar="FOLDER", panel=_GROUPS, help="Write --per-group as a table and one bigWig a group, here."),
]
ChromSizes = Annotated[
    Path | None,
    given("--chrom-sizes", metavar="FILE", panel=_GROUPS, help="Lengths of the chromosomes, for the bigWig files."),
]


@command
def impute(
    source: Input = "-",
    output: Output = "-",
    peaks: Peaks = None,
    cells: Barcodes = None,
    group_dir: GroupDir = None,
    chrom_sizes: ChromSizes = None,
    *,
    config: ImputeConfig,
    talk: Talk,
) -> None:
    """Write the probability that each peak is open in each cell, or its binary form, block by block."""
    if group_dir is not None:
        if config.per_group is None:
            raise UsageError("--group-dir without --per-group", "the column of obs that names the groups")
        check_folder(group_dir, "--group-dir")
    elif chrom_sizes is not None:
        raise UsageError("--chrom-sizes without --group-dir", "a folder for the bigWig files")
    check_readable(chrom_sizes)
    with through(source, output, talk, without=keys.LARGE) as file:
        from scale_toolkit.io.groups import write_groups
        from scale_toolkit.io.regions import read_barcodes, read_wanted
        from scale_toolkit.stages.impute import outdated, streamed

        wanted = None if peaks is None else read_wanted(peaks)
        chosen = None if cells is None else read_barcodes(cells)
        file.forget(*(slot.path for slot in outdated(file.adata, config, wanted)))
        with talk.progress() as progress:
            adata, blocks = streamed(file.adata, config, progress=progress, peaks=wanted, cells=chosen)
            if group_dir is not None:
                write_groups(group_dir, config.per_group, keys.GROUP_MEANS.get(adata), chrom_sizes=chrom_sizes)
            file.write(adata, blocks)
