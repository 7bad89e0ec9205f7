"""Inputs and outputs of the stages' commands: one h5ad in, one h5ad out, all paths checked
first.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scale_toolkit import keys
from scale_toolkit.cli.talk import Talk
from scale_toolkit.errors import UsageError

if TYPE_CHECKING:
    from anndata import AnnData

    from scale_toolkit.io.h5ad import H5adFile
    from scale_toolkit.lazy import RowBlocks


class Cells:
    """The cells of a stage, and the output of its result."""

    def __init__(
        self,
        file: H5adFile,
        adata: AnnData,
        output: str,
        talk: Talk,
        history: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.adata = adata
        self._file, self._output, self._talk, self._history = file, output, talk, history

    def forget(self, *paths: str) -> None:
        """Do not copy these elements, which `through` left on disk: the stage makes them stale.
        What no stage of ours wrote stays.
        """
        from scale_toolkit.stages.kept import is_explained

        left_out = [(path, self._file.root[path]) for path in self._file.left_out]
        carried = [
            f"{path}/{name}" for path, group in left_out if path == "layers" for name in group
        ]
        carried += [path for path, _ in left_out if path != "layers"]
        self._file.left_out = tuple(
            path for path in carried if path not in paths or not is_explained(path, self._history)
        )

    def write(self, adata: AnnData, streamed: dict[str, RowBlocks] | None = None) -> None:
        """Write the stage's result, with what `through` left on disk copied from the input."""
        from scale_toolkit.io.h5ad import write_h5ad

        write_h5ad(
            adata,
            self._output,
            carry=self._file,
            streamed=streamed,
            stdout=self._talk.binary_stdout(),
        )


@contextlib.contextmanager
def through(
    source: str,
    output: str,
    talk: Talk,
    *,
    without: Collection[str] = (),
    writes: Collection[str] = (),
    counts_on_disk: bool = False,
) -> Iterator[Cells]:
    """Open `source`, and yield its `Cells` for the stage; `output` is checked before anything is
    read.

    Parameters
    ----------
    source, output
        Paths, or ``-``.
    talk
        The command's messages; it keeps the real stdout.
    without
        Elements the stage does not need: they stay on disk and are copied to the output.
    writes
        Elements the stage may write: those that no stage of ours wrote are loaded all the same, for
        the stage keeps them under another name.
    counts_on_disk
        The stage reads rows of X where they are (`H5adFile.read`).
    """
    from scale_toolkit.io.files import check_destination
    from scale_toolkit.io.h5ad import open_h5ad

    check_destination(output, [source], stdout=talk.binary_stdout())
    from scale_toolkit.stages.kept import is_explained
    from scale_toolkit.stages.receipts import parsed

    with open_h5ad(source) as file:
        history = parsed(file.element(keys.RECEIPTS.path))
        foreign = [path for path in writes if path in file.root and not is_explained(path, history)]
        unneeded = set(without)
        if any(path.startswith("layers/") for path in foreign):
            unneeded |= {f"layers/{name}" for name in file.root["layers"]}
            unneeded.discard("layers")
        adata = file.read(sorted(unneeded - set(foreign)), counts_on_disk=counts_on_disk)
        yield Cells(file, adata, output, talk, history)


def check_side_file(path: Path | None, flag: str, others: Collection[str]) -> None:
    """Refuse a second output (``--model FILE``) that cannot be written or is one of the
    `others`.
    """
    from scale_toolkit.io.files import check_destination

    if path is None:
        return
    if str(path) == "-":
        raise UsageError(f"{flag} is -", "a path", "standard output carries the h5ad")
    check_destination(path, others)
    for other_path in others:
        if other_path != "-" and Path(other_path).resolve() == path.resolve():
            raise UsageError(f"{flag} {path} is also the input or output h5ad", "a path of its own")


def check_readable(path: str | Path | None) -> None:
    """Refuse a further input (``--pretrain FILE``) that does not exist; ``-`` is standard input."""
    from scale_toolkit.io.files import existing_file, is_stream

    if path is not None and not is_stream(path):
        existing_file(path)


def check_pretrain(model: Path | None, peaks: Path | None) -> None:
    """Refuse a missing ``--pretrain`` or ``--pretrain-peaks`` file, and the second without the
    first.
    """
    if peaks is not None and model is None:
        raise UsageError(
            "--pretrain-peaks without --pretrain",
            "both",
            "drop --pretrain-peaks, or name the model too",
        )
    check_readable(model)
    check_readable(peaks)


def check_folder(folder: Path, flag: str = "--outdir") -> None:
    """Refuse a folder of results that cannot be made or written; it is made with the first file."""
    nearest = next((parent for parent in (folder, *folder.parents) if parent.exists()), folder)
    if not nearest.is_dir():
        raise UsageError(
            f"{flag} {folder}: {nearest} is a file", "a folder", f"choose another {flag}"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(
            f"{flag} {folder}: no permission to write in {nearest}",
            "a folder of your own",
            f"choose another {flag}",
        )
