"""Count 10x fragments files over peaks, in a stream; large counts go to temporary files."""

from __future__ import annotations

import io
import os
import warnings
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scale_toolkit.config import FragmentsConfig
from scale_toolkit.core.gather import RowGatherer
from scale_toolkit.core.intervals import COLUMNS, Overlaps, format_names
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io.regions import read_bed
from scale_toolkit.io.source import open_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

# Bases of DNA around a nucleosome.
_NUCLEOSOME = 147
# Bases around a start of transcription, as in ENCODE's TSS enrichment.
_MIDDLE, _EDGE, _FLANK = 500, 1000, 100
# Lines of a block: some 100 MB while it is counted.
_LINES = 500_000
_COLUMNS = ["chrom", "start", "end", "barcode"]
_EXPECTED = "chrom, start, end, barcode with 0 <= start < end"


def looks_like_fragments(lines: list[str]) -> bool:
    """Whether the first line that is not a comment reads chrom, start, end, barcode."""
    fields = next((line for line in lines if not line.startswith("#")), "").split("\t")
    has_columns = len(fields) in (4, 5) and fields[1].isdigit() and fields[2].isdigit()
    return has_columns and not fields[3].isdigit()


def read_fragments(
    path: str | os.PathLike[str],
    peaks: str | os.PathLike[str] | pd.DataFrame,
    config: FragmentsConfig | None = None,
    *,
    barcodes: Sequence[str] | None = None,
    genes: pd.DataFrame | None = None,
) -> AnnData:
    """Count a 10x fragments file over peaks.

    Parameters
    ----------
    path
        Fragments, plain or gzip: chrom, start, end, barcode and more columns, half-open, comment
        lines with ``#``.
    peaks
        BED file, or its table; the order of the columns. Duplicated peaks are counted once.
    config
        ``insertions``: each end of a fragment (its first and its last base) counts in every peak it
        lies in, as ArchR does; ``fragments``: a fragment counts once in every peak it overlaps.
        ``cap``: largest count of a peak in a cell.
    barcodes
        Barcodes to keep; without them every barcode of the file is a cell, to be filtered by
        ``prepare``'s ``min_peaks``.
    genes
        ``chrom`` and ``tss`` of genes, for the TSS enrichment of each cell.

    Returns
    -------
    AnnData
        Cells × peaks, CSR float32; cells in the order of the list, or of their first fragment. In
        obs, over all fragments of a cell:

        - ``n_fragments`` (int64)
        - ``frip`` (float64): share of the insertions (or fragments) that lie in a peak
        - ``nucleosome_signal`` (float64): fragments of 147 to 293 bases over those below 147
          (Signac's definition; NaN if there is none below 147)
        - ``tss_enrichment`` (float64), with `genes`: see `_tss_enrichment`

    Raises
    ------
    InputError
        A line that is not a fragment (with its number), a truncated file, or chromosome names that
        do not match the peaks'.
    """
    from anndata import AnnData

    config = config or FragmentsConfig()
    regions = _distinct(peaks if isinstance(peaks, pd.DataFrame) else read_bed(peaks))
    overlaps = Overlaps(regions)
    windows = None if genes is None else _tss_windows(genes)
    cells = _Cells(barcodes)
    counts, figures = RowGatherer(), _Figures()
    chromosomes: set[str] = set()
    for block in read_blocks(path):
        chromosomes.update(block["chrom"].unique())
        rows = cells.numbers(block["barcode"])
        block, rows = block[rows >= 0], rows[rows >= 0]
        chrom, start, end = (block[name].to_numpy() for name in _COLUMNS[:3])
        sites = [(start, start + 1), (end - 1, end)]
        spans = sites if config.count == "insertions" else [(start, end)]
        for first, last in spans:
            fragment, peak = overlaps.pairs(chrom, first, last)
            counts.add(rows[fragment], peak)
            figures.add("counted", rows)
            figures.add("in_peaks", rows[np.unique(fragment)])
        figures.add("n_fragments", rows)
        length = end - start
        figures.add("free", rows[length < _NUCLEOSOME])
        figures.add("mono", rows[(length >= _NUCLEOSOME) & (length < 2 * _NUCLEOSOME)])
        for name, table in (windows or {}).items():
            for first, last in sites:
                figures.add(name, rows[table.pairs(chrom, first, last)[0]])
    if not chromosomes:
        raise InputError(
            f"{path} contains no fragment", _EXPECTED, "check that this is the right file"
        )
    matrix = counts.matrix((len(cells.names), len(regions)))
    if matrix.nnz == 0:
        raise InputError(
            f"no fragment of {path} lies in a peak: fragments on {_some(chromosomes)}, "
            f"peaks on {_some(overlaps.chromosomes)}",
            "the same chromosome names and genome",
            "check --peaks and --barcodes",
        )
    if config.cap:
        np.minimum(matrix.data, config.cap, out=matrix.data)
    obs = figures.table(cells.names, with_tss=windows is not None)
    return AnnData(matrix, obs=obs, var=pd.DataFrame(index=format_names(regions)))


def _distinct(regions: pd.DataFrame) -> pd.DataFrame:
    """Drop duplicated peaks: ``macs --call-summits`` writes one for each summit."""
    again = regions.duplicated(COLUMNS)
    if again.any():
        warnings.warn(
            f"{int(again.sum()):,} of {len(regions):,} peaks are duplicated, as macs "
            "--call-summits "
            "writes them: each is counted once",
            ScaleWarning,
            stacklevel=3,
        )
    return regions[~again].reset_index(drop=True)


def _tss_windows(genes: pd.DataFrame) -> dict[str, Overlaps]:
    """Return the middle and the flanks of each start of transcription, for overlap queries."""
    starts = genes.drop_duplicates(["chrom", "tss"])
    chrom, tss = starts["chrom"].to_numpy(), starts["tss"].to_numpy(np.int64)

    def table(*bounds: tuple[int, int]) -> Overlaps:
        parts = [
            pd.DataFrame(
                {
                    "chrom": chrom,
                    "start": np.maximum(tss + low, 0),
                    "end": np.maximum(tss + high, 1),
                }
            )
            for low, high in bounds
        ]
        return Overlaps(pd.concat(parts, ignore_index=True))

    return {
        "tss_middle": table((-_MIDDLE, _MIDDLE + 1)),
        "tss_flanks": table((-_EDGE, -_EDGE + _FLANK), (_EDGE - _FLANK + 1, _EDGE + 1)),
    }


def _tss_enrichment(middle: np.ndarray, flanks: np.ndarray) -> np.ndarray:
    """Insertions per base within 500 bases of a start of transcription, over those in its flanks.

    The flanks are the outermost 100 bases of 1,000 on either side, as in ENCODE's definition and
    in Signac's fast one; a cell without an insertion in them gets the mean of all cells there.
    """
    flank_rate = flanks / (2 * _FLANK)
    mean_rate = flank_rate.mean() if len(flank_rate) else 0.0
    flank_rate = np.where(flank_rate > 0, flank_rate, mean_rate)
    middle_rate = middle / (2 * _MIDDLE + 1)
    return np.divide(
        middle_rate, flank_rate, out=np.full(len(middle), np.nan), where=flank_rate > 0
    )


class _Figures:
    """Counts of events for each cell, added up block by block."""

    def __init__(self) -> None:
        self._counts: dict[str, np.ndarray] = {}

    def add(self, name: str, cells: np.ndarray) -> None:
        """Count each of `cells` (numbers, repeated) once more under `name`."""
        new = np.bincount(cells)
        old = self._counts.get(name, np.empty(0, np.int64))
        longer, shorter = (new, old) if len(new) > len(old) else (old, new)
        longer[: len(shorter)] += shorter
        self._counts[name] = longer

    def table(self, names: list[str], *, with_tss: bool) -> pd.DataFrame:
        """Return the figures of obs."""
        n_cells = len(names)

        def of_cells(name: str) -> np.ndarray:
            counts = self._counts.get(name, np.empty(0, np.int64))
            return np.pad(counts, (0, n_cells - len(counts)))

        def share(part: np.ndarray, total: np.ndarray) -> np.ndarray:
            return np.divide(part, total, out=np.full(n_cells, np.nan), where=total > 0)

        columns = {
            "n_fragments": of_cells("n_fragments").astype(np.int64),
            "frip": share(of_cells("in_peaks"), of_cells("counted")),
            "nucleosome_signal": share(of_cells("mono"), of_cells("free")),
        }
        if with_tss:
            columns["tss_enrichment"] = _tss_enrichment(
                of_cells("tss_middle"), of_cells("tss_flanks")
            )
        return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


class _Cells:
    """Numbers barcodes in the order they are met, or by a list (-1 for those not on it)."""

    def __init__(self, listed: Sequence[str] | None) -> None:
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


def read_blocks(path: str | os.PathLike[str]) -> Iterator[pd.DataFrame]:
    """Read a 10x fragments file, plain or gzip, as tables of ``chrom``, ``start``, ``end``,
    ``barcode`` with up to 500,000 rows.

    Raises
    ------
    InputError
        A line that is not a fragment (with its number), or a truncated file.
    """
    with open_text(path) as file:
        number, first = 1, file.readline()
        # only at the top: a barcode may contain #
        while first.startswith("#"):
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
            # csv.QUOTE_NONE
            quoting=3,
            skip_blank_lines=False,
        )
    except ValueError:
        raise _no_fragment(path, number, lines) from None
    table.columns = _COLUMNS
    wrong = (table["start"] < 0) | (table["end"] <= table["start"]) | (table["barcode"] == "")
    if wrong.any():
        raise _no_fragment(path, number, lines, int(wrong.to_numpy().argmax()))
    return table


def _no_fragment(
    path: str | os.PathLike[str], number: int, lines: list[str], offset: int | None = None
) -> InputError:
    if offset is None:
        offset = next(
            (line_offset for line_offset, line in enumerate(lines) if not _is_fragment(line)), 0
        )
    line_start = lines[offset].rstrip("\r\n")[:80]
    return InputError(f"{path}, line {number + offset}: {line_start!r}", _EXPECTED, "fix that line")


def _is_fragment(line: str) -> bool:
    fields = line.rstrip("\r\n").split("\t")
    return len(fields) >= 4 and fields[1].isdigit() and fields[2].isdigit()


def _some(names: set[str] | list[str]) -> str:
    names = sorted(map(str, names))
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
