"""The inputs of ``prepare`` and ``run``: any accepted format, one or many, each with the name of
its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scale_toolkit.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scale_toolkit.config import FragmentsConfig

_SUFFIXES = (
    ".gz",
    ".loom",
    ".fragments",
    ".bed",
    ".h5ad",
    ".h5mu",
    ".zarr",
    ".h5",
    ".txt",
    ".tsv",
    ".csv",
)


def read_inputs(
    sources: Sequence[str],
    names: Sequence[str] = (),
    modality: str | None = None,
    barcodes: Sequence[str] | None = None,
) -> AnnData | dict[str, AnnData]:
    """Read one input as an AnnData, or several as a dict by batch name.

    Parameters
    ----------
    sources
        Paths, or ``-`` (once).
    names
        Names of the batches; without them, those of the files.
    modality
        The modality of every h5mu, if their names do not say that they are ATAC.
    barcodes
        Keep these cells; None for all.
    """
    from scale_toolkit.io.readers import read_any

    return _by_batch(
        sources, names, lambda source: read_any(source, modality=modality, barcodes=barcodes)
    )


def read_fragments(
    fragments: Sequence[str],
    peaks: Path,
    counting: FragmentsConfig,
    names: Sequence[str] = (),
    *,
    barcodes: Sequence[str] | None = None,
    genes: pd.DataFrame | None = None,
) -> AnnData | dict[str, AnnData]:
    """Count one or several fragments files over one set of peaks, which is read once.

    Parameters
    ----------
    fragments, peaks
        Paths, or ``-`` (once).
    counting
        How fragments are counted.
    names
        Names of the batches; without them, those of the files.
    barcodes
        Count these cells; None for all.
    genes
        Starts of transcription, for the TSS enrichment of each cell.
    """
    from scale_toolkit.io.readers import read_any
    from scale_toolkit.io.regions import read_bed

    if [*fragments, str(peaks)].count("-") > 1:
        raise UsageError("standard input is given twice", "one - at most")
    regions = read_bed(peaks)

    def read(source: str) -> AnnData:
        return read_any(
            None,
            fragments=source,
            peaks=regions,
            fragments_config=counting,
            barcodes=barcodes,
            genes=genes,
        )

    return _by_batch(fragments, names, read)


def _by_batch(
    sources: Sequence[str], names: Sequence[str], read: Callable[[str], AnnData]
) -> AnnData | dict[str, AnnData]:
    if sources.count("-") > 1:
        raise UsageError("standard input is given twice", "one - at most")
    if names and len(names) != len(sources):
        raise UsageError(
            f"--batch-names has {len(names)} names", f"one for each of the {len(sources)} inputs"
        )
    from_files = batch_names(sources)
    names = names or from_files
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"two inputs are named {twice[0]!r}", "distinct names", "give --batch-names A,B"
        )
    if len(sources) == 1 and names == from_files:
        return read(sources[0])
    return {name: read(source) for name, source in zip(names, sources, strict=True)}


def batch_names(sources: Sequence[str]) -> list[str]:
    """Name batches after their files, without suffixes; with folders if file names are equal."""
    paths = [Path("stdin") if source == "-" else _bare(Path(source)) for source in sources]
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _bare(path: Path) -> Path:
    while path.suffix in _SUFFIXES:
        path = path.with_suffix("")
    return path
