"""A folder with three files found by name: counts (Matrix Market), peaks, barcodes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np
import pandas as pd

from scale_toolkit.core.features import dropped, peaks_only
from scale_toolkit.core.gather import RowGatherer
from scale_toolkit.core.rows import selected
from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io.names import Names, read_barcodes, read_features
from scale_toolkit.io.source import open_source, open_text
from scale_toolkit.io.stores import check_inside

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

log = logging.getLogger("scale_toolkit")

_MATRIX = (".mtx", ".mtx.gz")
_FIELDS = ("integer", "real", "pattern", "unsigned-integer")
_WHOLE = "a complete Matrix Market file"
# Entries that are read at a time: pandas takes some 100 bytes for each while it parses them.
_ENTRIES = 1_000_000
# gzip cannot compress more than by this factor.
_DEFLATE = 1032


class _Header(NamedTuple):
    """Header of a Matrix Market file; `above`: number of lines up to and including the sizes."""

    rows: int
    columns: int
    entries: int
    layout: str
    field: str
    above: int


def read_folder(folder: Path) -> AnnData:
    """Read counts, peak names and barcodes from the three files of a folder.

    Parameters
    ----------
    folder
        Holds one file with ``count``, ``matrix`` or ``data`` in its name that ends in ``.mtx`` or
        ``.mtx.gz``, one with ``peak`` (or ``feature``, ``region``) and one with ``barcode``; see
        `names` for what these may be.

    Returns
    -------
    AnnData
        Cells × peaks, CSR float32. Whether the rows are peaks or cells is decided by the lengths;
        if both are possible, rows are peaks. Further columns of both names files are in obs and
        var. Features that Cell Ranger ARC does not call peaks are left out, and counted.

    Raises
    ------
    InputError
        A file is missing, duplicated or damaged, or the lengths do not match.
    """
    from anndata import AnnData

    counts, peaks, barcodes, header, peaks_are_rows = _opened(folder)
    if peaks_are_rows and len(peaks.index) == len(barcodes.index):
        warnings.warn(
            f"{counts} is square ({header.rows:,} × {header.columns:,}): "
            "its rows were taken as peaks, its columns as barcodes",
            ScaleWarning,
            stacklevel=3,
        )
    matrix, var = _read_matrix(counts, header, cells_are_rows=not peaks_are_rows), peaks.columns
    if peaks.kinds is not None:
        is_peak = peaks_only(peaks.kinds, str(folder))
        if not is_peak.all():
            log.info("%s: dropped %s", folder, dropped(peaks.kinds))
            matrix, var = selected(matrix, None, is_peak, in_place=True), var[is_peak]
    return AnnData(matrix, obs=barcodes.columns, var=var)


def size_of_folder(folder: Path) -> tuple[int, int, int]:
    """Cells, peaks and stored counts of such a folder, by the names and the header."""
    _, peaks, barcodes, header, _ = _opened(folder)
    return len(barcodes.index), len(peaks.index), header.entries


def _opened(folder: Path) -> tuple[Path, Names, Names, _Header, bool]:
    """The counts' file, both names files, the header, and whether peaks are its rows."""
    counts, peak_file, barcode_file = _three_files(folder)
    for path in (counts, peak_file, barcode_file):
        check_inside(folder, path, "folder of counts, peaks and barcodes")
    header = _checked_header(counts)
    shape = header.rows, header.columns
    peaks, barcodes = read_features(peak_file, shape), read_barcodes(barcode_file, shape)
    n_peaks, n_barcodes = len(peaks.index), len(barcodes.index)
    peaks_are_rows = shape == (n_peaks, n_barcodes)
    if not peaks_are_rows and shape != (n_barcodes, n_peaks):
        raise InputError(
            f"{counts} is {shape[0]:,} × {shape[1]:,}, {peak_file.name} has {n_peaks:,} lines, "
            f"{barcode_file.name} {n_barcodes:,}",
            "a row a peak and a column a barcode, or the other way round",
            "check that the three belong together",
        )
    return counts, peaks, barcodes, header, peaks_are_rows


def _three_files(folder: Path) -> tuple[Path, Path, Path]:
    inside = sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    matrices = [path for path in inside if path.name.lower().endswith(_MATRIX)]
    texts = [
        path
        for path in inside
        if path not in matrices and path.suffix.lower() not in (".h5", ".h5ad", ".tbi")
    ]
    barcodes = [path for path in texts if "barcode" in path.name.lower()]
    peak_files = [path for path in texts if path not in barcodes]
    return (
        _one(
            folder,
            matrices,
            ("count", "matrix", "data"),
            "counts",
            "named *count*.mtx or *matrix*.mtx (or .mtx.gz)",
        ),
        _one(folder, peak_files, ("peak", "feature", "region"), "peaks", "with 'peak' in its name"),
        _one(folder, barcodes, ("barcode",), "barcodes", "with 'barcode' in its name"),
    )


def _one(
    folder: Path, candidates: list[Path], words: tuple[str, ...], what: str, expected: str
) -> Path:
    """Return the only file with the first of `words` that occurs in a name."""
    for word in words:
        entries = [path for path in candidates if word in path.name.lower()]
        if len(entries) > 1:
            names = ", ".join(path.name for path in entries)
            raise InputError(
                f"the folder {folder} has {len(entries)} files of {what}: {names}",
                "one",
                "move the others away",
            )
        if entries:
            return entries[0]
    inside = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
    raise InputError(
        f"the folder {folder} has no file of {what} (it holds {inside})",
        f"one {expected}",
        "add or rename it",
    )


def _checked_header(path: Path) -> _Header:
    """Read the banner and the sizes, and check that the file is large enough for the entries."""
    with open_source(path) as source, open_text(source) as file:
        is_gzip = source.is_gzip
        banner = file.readline().lower().split()
        if len(banner) != 5 or banner[:2] != ["%%matrixmarket", "matrix"]:
            raise InputError(f"{path} has no banner", _WHOLE, "regenerate or re-download it")
        layout, field, symmetry = banner[2:]
        above, line = 1, "%"
        while line and (line.startswith("%") or not line.strip()):
            above, line = above + 1, file.readline()
    if layout not in ("coordinate", "array") or (layout, field) == ("array", "pattern"):
        raise InputError(
            f"{path} has the layout {layout} {field}", "coordinate or array", "export it again"
        )
    if field not in _FIELDS:
        raise InputError(f"{path} holds {field} values", "integer counts", "export it again")
    if symmetry != "general":
        raise InputError(
            f"{path} is {symmetry}",
            "a general matrix: peaks and cells are two things",
            "export it again",
        )
    sizes = line.split()
    if len(sizes) != (3 if layout == "coordinate" else 2) or not all(
        size.isdecimal() and len(size) < 19 for size in sizes
    ):
        raise InputError(
            f"{path}, line {above}: {line.strip()[:60]!r}",
            "the sizes of the matrix",
            "regenerate or re-download it",
        )
    rows, columns, *stated_entries = map(int, sizes)
    entries = stated_entries[0] if stated_entries else rows * columns
    # bytes of the shortest entry: "1\n" or "1 1\n"
    shortest = 2 if layout == "array" else 4
    room = path.stat().st_size * (_DEFLATE if is_gzip else 1)
    if entries * shortest > room + 1:
        raise InputError(
            f"the header of {path} states {entries:,} entries, more than its "
            f"{path.stat().st_size:,} bytes can hold",
            _WHOLE,
            "regenerate or re-download it",
        )
    return _Header(rows, columns, entries, layout, field, above)


def _read_matrix(path: Path, header: _Header, *, cells_are_rows: bool) -> sparse.csr_matrix:
    """Read the entries into the rows of cells, a block at a time."""
    # by pandas: scipy's reader is ten times as fast, but reads outside its memory in damaged files
    if header.layout == "array":
        kinds: dict[str, type] = {"count": np.float64}
    else:
        kinds = {"row": np.int64, "column": np.int64} | (
            {} if header.field == "pattern" else {"count": np.float64}
        )
    gatherer, n = RowGatherer(), 0
    with open_text(path) as file:
        for _ in range(header.above):
            file.readline()
        with _guarded(path):
            for block in _blocks(file, kinds):
                n += len(block)
                if n > header.entries:
                    # only counted, for the error
                    continue
                row, column, counts = _entries(path, header, block, n - len(block))
                cells, peaks = (row, column) if cells_are_rows else (column, row)
                gatherer.add(cells, peaks, counts)
    if n != header.entries:
        raise InputError(
            f"{path} has {n:,} entries, its header states {header.entries:,}",
            _WHOLE,
            "regenerate or re-download it",
        )
    shape = header.rows, header.columns
    return gatherer.matrix(shape if cells_are_rows else shape[::-1])


def _entries(
    path: Path, header: _Header, block: pd.DataFrame, n_before: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return rows and columns (from 0) and counts of the entries of a block."""
    if header.layout == "array":
        # column after column, zeros as well
        values = block["count"].to_numpy(np.float32)
        stored = np.flatnonzero(values)
        column, row = np.divmod(n_before + stored, header.rows)
        return row, column, values[stored]
    for name, size in (("row", header.rows), ("column", header.columns)):
        numbers = block[name].to_numpy()
        wrong = (numbers < 1) | (numbers > size)
        if wrong.any():
            if numbers.min() == 0:
                raise InputError(
                    f"{path} numbers its {name}s from 0",
                    "numbers from 1, as Matrix Market has them",
                    "add 1 to both, or write the matrix with scipy.io.mmwrite or R's writeMM",
                )
            first_wrong = int(wrong.argmax())
            raise InputError(
                f"{path}, entry {n_before + first_wrong + 1:,}: {name} "
                f"{numbers[first_wrong]:,} of {size:,}",
                _WHOLE,
                "regenerate or re-download it",
            )
    counts = block["count"].to_numpy(np.float32) if "count" in block else None
    return block["row"].to_numpy() - 1, block["column"].to_numpy() - 1, counts


def _blocks(file: TextIO, kinds: dict[str, type]) -> Iterator[pd.DataFrame]:
    try:
        with pd.read_csv(
            file,
            sep=r"\s+",
            header=None,
            names=list(kinds),
            dtype=kinds,
            comment="%",
            na_filter=False,
            quoting=3,
            chunksize=_ENTRIES,
        ) as blocks:
            for block in blocks:
                if not isinstance(block.index, pd.RangeIndex):
                    raise ValueError(f"more than {len(kinds)} columns")
                yield block
    except pd.errors.EmptyDataError:
        return


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OverflowError) as error:
        # pandas' ParserError is a ValueError
        reason = (
            (str(error) or type(error).__name__)
            .splitlines()[0]
            .removeprefix("Error tokenizing data. C error: ")
            .rstrip(".")
        )
        raise InputError(
            f"{path}, entries: {reason}", _WHOLE, "regenerate or re-download it"
        ) from error
