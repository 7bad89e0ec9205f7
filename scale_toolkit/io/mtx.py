"""A folder with three files found by name: counts (Matrix Market), peaks, barcodes."""

from __future__ import annotations

import gzip
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from scale_toolkit.errors import InputError, ScaleWarning
from scale_toolkit.io import files

if TYPE_CHECKING:
    from anndata import AnnData

_MATRIX = (".mtx", ".mtx.gz")
_FIELDS = ("integer", "real", "pattern", "unsigned-integer")
_DEFLATE = 1032  # gzip cannot shrink more than this


def read_folder(folder: Path) -> AnnData:
    """Read counts, peak names and barcodes from the three files of a folder.

    Parameters
    ----------
    folder
        Holds one file with ``count``, ``matrix`` or ``data`` in its name that ends in ``.mtx`` or ``.mtx.gz``, one with
        ``peak`` (or ``feature``, ``region``) and one with ``barcode``. Peaks: a name a line, or the columns of a BED.

    Returns
    -------
    AnnData
        Cells × peaks, CSR float32. Peaks × cells or cells × peaks is told by the lengths; where both fit, peaks × cells.

    Raises
    ------
    InputError
        A file is missing, doubled or damaged, or the lengths do not fit.
    """
    from anndata import AnnData

    counts, peak_file, barcode_file = _three_files(folder)
    peaks, barcodes = _read_peaks(peak_file), _read_barcodes(barcode_file)
    shape = _checked_header(counts)
    upright = shape == (len(peaks), len(barcodes))
    if not upright and shape != (len(barcodes), len(peaks)):
        raise InputError(
            f"{counts} is {shape[0]:,} × {shape[1]:,}, {peak_file.name} has {len(peaks):,} lines, "
            f"{barcode_file.name} {len(barcodes):,}",
            "a row a peak and a column a barcode, or the other way round",
            "check that the three belong together and that no names file has a header",
        )
    if upright and len(peaks) == len(barcodes):
        warnings.warn(
            f"{counts} is square ({shape[0]:,} × {shape[1]:,}): its rows were taken as peaks, its columns as barcodes",
            ScaleWarning,
            stacklevel=3,
        )
    matrix = _read_matrix(counts)
    matrix = (matrix.T if upright else matrix).tocsr().astype(np.float32)
    return AnnData(sparse.csr_matrix(matrix), obs=pd.DataFrame(index=barcodes), var=pd.DataFrame(index=peaks))


def _three_files(folder: Path) -> tuple[Path, Path, Path]:
    inside = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    matrices = [path for path in inside if path.name.lower().endswith(_MATRIX)]
    texts = [path for path in inside if path not in matrices and path.suffix.lower() not in (".h5", ".h5ad", ".tbi")]
    barcodes = [path for path in texts if "barcode" in path.name.lower()]
    others = [path for path in texts if path not in barcodes]
    return (
        _one(folder, matrices, ("count", "matrix", "data"), "counts", "named *count*.mtx or *matrix*.mtx (or .mtx.gz)"),
        _one(folder, others, ("peak", "feature", "region"), "peaks", "with 'peak' in its name"),
        _one(folder, barcodes, ("barcode",), "barcodes", "with 'barcode' in its name"),
    )


def _one(folder: Path, candidates: list[Path], words: tuple[str, ...], what: str, expected: str) -> Path:
    """The one file with the first of `words` that any has."""
    for word in words:
        found = [path for path in candidates if word in path.name.lower()]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise InputError(f"the folder {folder} has {len(found)} files of {what}: {names}", "one", "move the others away")
        if found:
            return found[0]
    inside = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
    raise InputError(f"the folder {folder} has no file of {what} (it holds {inside})", f"one {expected}", "add or rename it")


def _lines(path: Path) -> list[list[str]]:
    with files.open_text(path) as file:
        rows = [line.rstrip("\r\n").split("\t") for line in file if line.strip() and not line.startswith("#")]
    if not rows:
        raise InputError(f"{path} holds no name", "one a line", "check the command that wrote it")
    return [[field.strip().strip('"') for field in row] for row in rows]


def _read_peaks(path: Path) -> list[str]:
    rows = [row if len(row) > 1 else row[0].split() for row in _lines(path)]
    if rows[0][0] in ("track", "browser"):
        rows = [row for row in rows if row[0] not in ("track", "browser")]
    width = min(map(len, rows), default=0)
    if width >= 3 and all(row[1].isdigit() and row[2].isdigit() for row in rows):
        return [f"{row[0]}:{row[1]}-{row[2]}" for row in rows]
    if width >= 3:  # 10x features.tsv: id, name, type, and for peaks the interval again
        return [row[0] for row in rows]
    return _distinct_column(rows, width)


def _read_barcodes(path: Path) -> list[str]:
    rows = _lines(path)
    return _distinct_column(rows, min(map(len, rows)))


def _distinct_column(rows: list[list[str]], width: int) -> list[str]:
    """The last column, as SCALE reads it, unless it repeats itself and one before it does not."""
    columns = [[row[at] for row in rows] for at in reversed(range(width))]
    return next((column for column in columns if len(set(column)) == len(column)), columns[0])


def _checked_header(path: Path) -> tuple[int, int]:
    """Return the shape that the header states, after checking that as many entries fit into the file at all."""
    from scipy.io import mminfo

    rows, columns, entries, layout, field, _ = _guarded(path, lambda: mminfo(path))
    if field not in _FIELDS:
        raise InputError(f"{path} holds {field} values", "integer counts", "write it anew")
    shortest = 2 if layout == "array" else 4  # "1\n", "1 1\n"
    room = path.stat().st_size * (_DEFLATE if files.is_gzip(path) else 1)
    if entries * shortest > room + 1:
        raise InputError(
            f"the header of {path} states {entries:,} entries, more than its {path.stat().st_size:,} bytes can hold",
            "a whole Matrix Market file",
            "make or copy it again",
        )
    return int(rows), int(columns)


def _read_matrix(path: Path) -> sparse.coo_matrix:
    from scipy.io import mmread

    # scipy warns that a default is about to change; whatever it returns becomes the same matrix here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return sparse.coo_matrix(_guarded(path, lambda: mmread(path)))


def _guarded(path: Path, read: Callable):
    files.existing_file(path)
    try:
        return read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is truncated or damaged gzip", "a whole file", "make or copy it again") from error
    except (ValueError, OverflowError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"{path}: {reason}", "a whole Matrix Market file", "make or copy it again") from error
