"""The inputs of ``prepare`` and ``run``: any accepted format, one or many, each with the name of its batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scale_toolkit.errors import UsageError

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.config import FragmentsConfig

_SUFFIXES = (".gz", ".h5ad", ".h5mu", ".zarr", ".h5", ".txt", ".tsv", ".csv")


def read_inputs(sources: Sequence[str], names: Sequence[str] = (), modality: str | None = None) -> AnnData | dict[str, AnnData]:
    """Read one input as an AnnData, or several as a dict by batch name.

    Parameters
    ----------
    sources
        Paths, or ``-`` (once).
    names
        Names of the batches; without them, those of the files.
    modality
        The modality of every h5mu, where their names do not say that they are ATAC.
    """
    if sources.count("-") > 1:
        raise UsageError("standard input is given twice", "one - at most")
    if names and len(names) != len(sources):
        raise UsageError(f"--batch-names has {len(names)} names", f"one for each of the {len(sources)} inputs")
    names = names or batch_names(sources)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two inputs are named {twice[0]!r}", "a name of its own for each", "give --batch-names A,B")
    from scale_toolkit.io.readers import read_any

    if len(sources) == 1 and names == batch_names(sources):
        return read_any(sources[0], modality=modality)
    return {name: read_any(source, modality=modality) for name, source in zip(names, sources)}


def batch_names(sources: Sequence[str]) -> list[str]:
    """Name batches after their files, without suffixes; with their folders where file names are the same."""
    paths = [Path("stdin") if source == "-" else _bare(Path(source)) for source in sources]
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _bare(path: Path) -> Path:
    while path.suffix in _SUFFIXES:
        path = path.with_suffix("")
    return path


def read_fragments(fragments: Path, peaks: Path, counting: FragmentsConfig) -> AnnData:
    """Count a fragments file over peaks."""
    from scale_toolkit.io.readers import read_any

    return read_any(None, fragments=fragments, peaks=peaks, fragments_config=counting)
