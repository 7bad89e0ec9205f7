"""Motif matrices from MEME and JASPAR files."""

from __future__ import annotations

import os
import re

import numpy as np

from scale_toolkit.errors import InputError
from scale_toolkit.io.source import open_text

_BASES = "ACGT"
_EXPECTED = "MEME (version 4 or later) or JASPAR matrices of DNA motifs"
_DO = "give a file such as MEME's motif databases or JASPAR's downloads"


def read_motifs(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the motifs of a MEME file (``letter-probability matrix``) or of a JASPAR file (counts),
    plain or gzip.

    Parameters
    ----------
    path
        The file; its first lines say which of the two it is.

    Returns
    -------
    dict
        Probabilities of A, C, G, T (length × 4, rows sum to 1) by name: the identifier, and the
        second name if there is one.

    Raises
    ------
    InputError
        Neither of the two, an invalid matrix (with its line), a duplicated name, or a file without
        motifs.
    """
    with open_text(path) as file:
        lines = [(number, line.strip()) for number, line in enumerate(file, 1) if line.strip()]
    if lines and lines[0][1].startswith(">"):
        matrices = _jaspar(lines, path)
    elif any(line.startswith("MEME version") for _, line in lines[:20]):
        matrices = _meme(lines, path)
    else:
        raise InputError(f"{path} is neither MEME nor JASPAR", _EXPECTED, _DO)
    if not matrices:
        raise InputError(f"{path} holds no motif", _EXPECTED, _DO)
    motifs: dict[str, np.ndarray] = {}
    for number, name, matrix in matrices:
        if name in motifs:
            raise InputError(
                f"{path}, line {number}: a second motif {name!r}",
                "each name once",
                "rename one of them",
            )
        if (
            len(matrix) == 0
            or not np.isfinite(matrix).all()
            or matrix.min() < 0
            or (matrix.sum(axis=1) <= 0).any()
        ):
            raise InputError(
                f"{path}, line {number}: motif {name!r} has a row that is not a distribution",
                _EXPECTED,
                _DO,
            )
        motifs[name] = matrix / matrix.sum(axis=1, keepdims=True)
    return motifs


def _meme(
    lines: list[tuple[int, str]], path: str | os.PathLike[str]
) -> list[tuple[int, str, np.ndarray]]:
    matrices, name, remaining = [], "", iter(lines)
    for number, line in remaining:
        if (
            line.startswith("ALPHABET")
            and "=" in line
            and re.sub(r"\s", "", line.partition("=")[2]).upper() != _BASES
        ):
            raise InputError(f"{path}, line {number}: {line!r}", "ALPHABET= ACGT", _DO)
        if line.startswith("MOTIF"):
            name = " ".join(line.split()[1:3])
        elif line.startswith("letter-probability matrix"):
            width = re.search(r"\bw= *(\d+)", line)
            if width is None:
                raise InputError(
                    f"{path}, line {number}: no w= (width) in {line!r}", _EXPECTED, _DO
                )
            rows = [next(remaining, (number, "")) for _ in range(int(width[1]))]
            matrices.append(
                (
                    number,
                    name,
                    np.array(
                        [_numbers(row, path, line_number, 4) for line_number, row in rows]
                    ).reshape(-1, 4),
                )
            )
    return matrices


def _jaspar(
    lines: list[tuple[int, str]], path: str | os.PathLike[str]
) -> list[tuple[int, str, np.ndarray]]:
    matrices, remaining = [], iter(lines)
    for number, line in remaining:
        if not line.startswith(">"):
            raise InputError(
                f"{path}, line {number}: {line[:60]!r}",
                "a line that begins with > and four rows of counts",
                _DO,
            )
        rows = []
        for base in _BASES:
            line_number, row = next(remaining, (number, ""))
            if row[:1] in set(_BASES) - {base}:
                raise InputError(
                    f"{path}, line {line_number}: {row[:60]!r}", f"the counts of {base}", _DO
                )
            rows.append(
                _numbers(
                    row.removeprefix(base).replace("[", " ").replace("]", " "),
                    path,
                    line_number,
                    None,
                )
            )
        if len({len(row) for row in rows}) != 1:
            raise InputError(
                f"{path}, line {number}: rows of different length", "four rows of equal length", _DO
            )
        matrices.append((number, " ".join(line[1:].split()[:2]), np.array(rows).T))
    return matrices


def _numbers(
    text: str, path: str | os.PathLike[str], number: int, wanted: int | None
) -> list[float]:
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = []
    if not values or wanted not in (None, len(values)):
        raise InputError(
            f"{path}, line {number}: {text[:60]!r}", f"{wanted or 'a row of'} numbers", _DO
        )
    return values
