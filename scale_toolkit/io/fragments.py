"""10x fragments files, counted over peaks: streamed, so memory follows the counts and not the file."""

from __future__ import annotations

import io
import os
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit.config import FragmentsConfig
from scale_toolkit.core.intervals import Overlaps, format_names
from scale_toolkit.errors import InputError
from scale_toolkit.io import files
from scale_toolkit.io.regions import read_bed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

_LINES = 500_000  # of a block: some 100 MB while it is counted
_COLUMNS = ["chrom", "start", "end", "barcode"]
_EXPECTED = "chrom, start, end, barcode with 0 <= start < end"


def looks_like_fragments(path: Path) -> bool:
    """Whether the first line that is no comment reads chrom, start, end, barcode."""
    with files.open_text(path) as file:
        line = next((line for line in islice(file, 200) if not line.startswith("#")), "")
    fields = line.rstrip("\r\n").split("\t")
    return len(fields) in (4, 5) and fields[1].isdigit() and fields[2].isdigit() and not fields[3].isdigit()


def read_fragments(
    path: str | os.PathLike[str],
    peaks: str | os.PathLike[str] | pd.DataFrame,
    config: FragmentsConfig | None = None,
    *,
    barcodes: str | os.PathLike[str] | None = None,
) -> AnnData:
    """Count a 10x fragments file over peaks.

    Parameters
    ----------
    path
        Fragments, plain or gzip: chrom, start, end, barcode and more columns, half-open, comment lines with ``#``.
    peaks
        BED file, or its table; the order of the columns.
    config
        ``insertions``: each end of a fragment (its first and its last base) counts in every peak it lies in, as ArchR
        does; ``fragments``: a fragment counts once in every peak it overlaps. ``cap``: largest count of a peak in a cell.
    barcodes
        File with the barcodes to keep, one a line; without it every barcode of the file is a cell, to be filtered by
        ``prepare``'s ``min_peaks``.

    Returns
    -------
    AnnData
        Cells × peaks, CSR float32; cells in the order of the list, or of their first fragment.

    Raises
    ------
    InputError
        A line that is no fragment (with its number), a truncated file, or chromosome names that do not match the peaks'.
    """
    from anndata import AnnData

    config = config or FragmentsConfig()
    regions = peaks if isinstance(peaks, pd.DataFrame) else read_bed(peaks)
    overlaps = Overlaps(regions)
    cells = _Cells(_listed(barcodes) if barcodes is not None else None)
    total = _Counts(len(regions))
    seen: set[str] = set()
    for block in _blocks(path):
        seen.update(block["chrom"].unique())
        rows = cells.numbers(block["barcode"])
        block, rows = block[rows >= 0], rows[rows >= 0]
        chrom, start, end = (block[name].to_numpy() for name in _COLUMNS[:3])
        if config.count == "insertions":
            hits = [overlaps.pairs(chrom, start, start + 1), overlaps.pairs(chrom, end - 1, end)]
        else:
            hits = [overlaps.pairs(chrom, start, end)]
        for fragment, peak in hits:
            total.add(rows[fragment], peak)
    if not seen:
        raise InputError(f"{path} holds no fragment", _EXPECTED, "check that this is the right file")
    matrix = total.matrix(len(cells.names))
    if matrix.nnz == 0:
        raise InputError(
            f"no fragment of {path} lies in a peak: fragments on {_some(seen)}, peaks on {_some(overlaps.chromosomes)}",
            "the same chromosome names and genome",
            "check --peaks (and the list of barcodes, where one is given)",
        )
    if config.cap:
        np.minimum(matrix.data, config.cap, out=matrix.data)
    return AnnData(matrix, obs=pd.DataFrame(index=cells.names), var=pd.DataFrame(index=format_names(regions)))


class _Cells:
    """Numbers barcodes in the order they are met, or by a list (-1 for those not on it)."""

    def __init__(self, listed: list[str] | None) -> None:
        self._numbers = {name: number for number, name in enumerate(listed or [])}
        self._closed = listed is not None

    @property
    def names(self) -> list[str]:
        return list(self._numbers)

    def numbers(self, barcodes: pd.Series) -> np.ndarray:
        codes, distinct = pd.factorize(barcodes)
        if self._closed:
            known = [self._numbers.get(name, -1) for name in distinct]
        else:
            known = [self._numbers.setdefault(name, len(self._numbers)) for name in distinct]
        return np.asarray(known, np.int64)[codes]


class _Counts:
    """Adds up (cell, peak) pairs; merged whenever the new pairs outnumber the sum, so that each is sorted a few times."""

    def __init__(self, n_peaks: int) -> None:
        self.n_peaks = n_peaks
        self._keys, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)
        self._waiting: list[np.ndarray] = []

    def add(self, cells: np.ndarray, peaks: np.ndarray) -> None:
        self._waiting.append(cells * self.n_peaks + peaks)
        if sum(map(len, self._waiting)) > max(len(self._keys), 4 * _LINES):
            self._merge()

    def _merge(self) -> None:
        keys = np.concatenate([self._keys, *self._waiting])
        counts = np.concatenate([self._counts, *(np.ones(len(new), np.int64) for new in self._waiting)])
        self._keys, place = np.unique(keys, return_inverse=True)
        self._counts = np.bincount(place, weights=counts, minlength=len(self._keys)).astype(np.int64)
        self._waiting = []

    def matrix(self, n_cells: int) -> sparse.csr_matrix:
        self._merge()
        cells, peaks = np.divmod(self._keys, self.n_peaks)
        return sparse.csr_matrix((self._counts.astype(np.float32), (cells, peaks)), shape=(n_cells, self.n_peaks))


def _blocks(path: str | os.PathLike[str]) -> Iterator[pd.DataFrame]:
    with files.open_text(path) as file:
        number, first = 1, file.readline()
        while first.startswith("#"):  # only at the top: a barcode may hold a # of its own
            number, first = number + 1, file.readline()
        lines = list(islice(chain([first] if first else [], file), _LINES))
        while lines:
            yield _parse(path, number, lines)
            number += len(lines)
            lines = list(islice(file, _LINES))


def _parse(path: str | os.PathLike[str], number: int, lines: list[str]) -> pd.DataFrame:
    try:
        table = pd.read_csv(
            io.StringIO("".join(lines)),
            sep="\t",
            header=None,
            usecols=range(4),
            dtype={0: object, 1: np.int64, 2: np.int64, 3: object},
            na_filter=False,
            quoting=3,  # csv.QUOTE_NONE
            skip_blank_lines=False,
        )
    except ValueError:
        raise _no_fragment(path, number, lines) from None
    table.columns = _COLUMNS
    wrong = (table["start"] < 0) | (table["end"] <= table["start"]) | (table["barcode"] == "")
    if wrong.any():
        raise _no_fragment(path, number, lines, int(wrong.to_numpy().argmax()))
    return table


def _no_fragment(path: str | os.PathLike[str], number: int, lines: list[str], offset: int | None = None) -> InputError:
    if offset is None:
        offset = next((at for at, line in enumerate(lines) if not _is_fragment(line)), 0)
    shown = lines[offset].rstrip("\r\n")[:80]
    return InputError(f"{path}, line {number + offset}: {shown!r}", _EXPECTED, "mend that line")


def _is_fragment(line: str) -> bool:
    fields = line.rstrip("\r\n").split("\t")
    return len(fields) >= 4 and fields[1].isdigit() and fields[2].isdigit()


def _listed(path: str | os.PathLike[str]) -> list[str]:
    with files.open_text(path) as file:
        names = [line.split("\t")[0].strip() for line in file if line.strip()]
    if not names:
        raise InputError(f"{path} holds no barcode", "one a line", "check the command that wrote it")
    return names


def _some(names: set[str] | list[str]) -> str:
    names = sorted(map(str, names))
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
