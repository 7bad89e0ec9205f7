"""Sums over the entries of a sparse row in 8 or 24 columns at once, in the registers of a core.

A sum in an array is read from memory and written back for every entry. A tuple of eight stays in a
register of 256 bits: 1 ns an entry instead of 3 to 4. numba does not unroll wider tuples, so 24
columns take three of them. The order of the sums is that of the entries, whatever the width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba.cpython.unsafe.tuple import tuple_setitem

from scale_toolkit.core.compiled import inlined

EIGHT, WIDE = 8, 24
_replaced: Any = tuple_setitem
_ZEROS = (np.float32(0),) * EIGHT


@dataclass
class Columns:
    """Neighbouring columns of a matrix, which a kernel reads or writes at once.

    Attributes
    ----------
    matrix
        Contiguous float32: the matrix, or eight columns with a copy of its last ones.
    first, width
        Of the columns in `matrix`; the width is 8 or 24.
    """

    matrix: np.ndarray
    first: int
    width: int

    def flat(self) -> tuple[np.ndarray, int, int]:
        """The matrix as a flat array, its distance between rows, and the first column."""
        return self.matrix.reshape(-1), self.matrix.shape[1], self.first


def paired_groups(dense: np.ndarray, out: np.ndarray) -> list[tuple[Columns, Columns]]:
    """Cut a matrix and that of its product, with as many columns, into groups of columns.

    Columns that do not fill a group are copied beside columns of zeros; those of `out` have to be
    copied back in the end (`copy_back`).
    """
    groups, first, n_columns = [], 0, dense.shape[1]
    while first < n_columns:
        width = WIDE if n_columns - first >= WIDE else EIGHT
        if first + width <= n_columns:
            groups.append((Columns(dense, first, width), Columns(out, first, width)))
        else:
            operand, sums = (_padded(matrix[:, first:]) for matrix in (dense, out))
            groups.append((Columns(operand, 0, width), Columns(sums, 0, width)))
        first += width
    return groups


def copy_back(groups: list[tuple[Columns, Columns]], out: np.ndarray) -> None:
    """Copy the columns of a product that did not fill a group to its end."""
    last = groups[-1][1].matrix if groups else out
    if last is not out:
        n_last = out.shape[1] % EIGHT
        out[:, -n_last:] = last[:, :n_last]


def _padded(matrix: np.ndarray) -> np.ndarray:
    """Columns of a matrix, and columns of zeros: eight in all, float32."""
    padded = np.zeros((len(matrix), EIGHT), np.float32)
    padded[:, : matrix.shape[1]] = matrix
    return padded


@inlined
def gather_row(
    peaks: Any,
    weights: Any,
    start: Any,
    end: Any,
    dense: Any,
    pitch: Any,
    first: Any,
    width: Any,
    out: Any,
    position: Any,
) -> None:
    """out[position + column] += Σ weight · dense[peak, first + column] over some entries.

    `dense` and `out` are flat, `pitch` is the distance between rows of `dense`; `weights` empty:
    all are 1.
    """
    if width == WIDE:
        _gather_wide(peaks, weights, start, end, dense, pitch, first, out, position)
    else:
        _gather_eight(peaks, weights, start, end, dense, pitch, first, out, position)


@inlined
def scatter_row(
    peaks: Any,
    weights: Any,
    start: Any,
    end: Any,
    dense: Any,
    position: Any,
    width: Any,
    out: Any,
    pitch: Any,
    first: Any,
) -> None:
    """out[peak, first + column] += weight · dense[position + column] for some entries.

    As in `gather_row`, with the distance between rows of `out`.
    """
    if width == WIDE:
        _scatter_wide(peaks, weights, start, end, dense, position, out, pitch, first)
    else:
        _scatter_eight(peaks, weights, start, end, dense, position, out, pitch, first)


@inlined
def _loaded(values: Any, position: Any) -> Any:
    """Eight values from a position."""
    loaded = _ZEROS
    for column in range(EIGHT):
        loaded = _replaced(loaded, column, values[position + np.uintp(column)])
    return loaded


@inlined
def _stored(group: Any, values: Any, position: Any) -> None:
    """Write eight values from a position."""
    for column in range(EIGHT):
        values[position + np.uintp(column)] = group[column]


@inlined
def _plus(group: Any, values: Any, position: Any) -> Any:
    """A group plus eight values."""
    total = _ZEROS
    for column in range(EIGHT):
        total = _replaced(total, column, group[column] + values[position + np.uintp(column)])
    return total


@inlined
def _plus_weighted(group: Any, weight: Any, values: Any, position: Any) -> Any:
    """A group plus eight values times a weight."""
    total = _ZEROS
    for column in range(EIGHT):
        value = values[position + np.uintp(column)]
        total = _replaced(total, column, group[column] + weight * value)
    return total


@inlined
def _add(values: Any, position: Any, group: Any) -> None:
    """Add a group to eight values."""
    _stored(_plus(group, values, position), values, position)


@inlined
def _add_weighted(values: Any, position: Any, weight: Any, group: Any) -> None:
    """Add a group times a weight to eight values."""
    total = _ZEROS
    for column in range(EIGHT):
        value = values[position + np.uintp(column)]
        total = _replaced(total, column, value + weight * group[column])
    _stored(total, values, position)


@inlined
def _gather_eight(
    peaks: Any,
    weights: Any,
    start: Any,
    end: Any,
    dense: Any,
    pitch: Any,
    first: Any,
    out: Any,
    position: Any,
) -> None:
    total = _loaded(out, position)
    if len(weights) > 0:
        for number in range(start, end):
            entry = np.uintp(number)
            row = np.uintp(peaks[entry]) * pitch + first
            total = _plus_weighted(total, weights[entry], dense, row)
    else:
        for number in range(start, end):
            row = np.uintp(peaks[np.uintp(number)]) * pitch + first
            total = _plus(total, dense, row)
    _stored(total, out, position)


@inlined
def _gather_wide(
    peaks: Any,
    weights: Any,
    start: Any,
    end: Any,
    dense: Any,
    pitch: Any,
    first: Any,
    out: Any,
    position: Any,
) -> None:
    # three tuples do not stay in registers from one entry to the next: sums are read and written
    # once for four entries instead
    unweighted, n_fours = len(weights) == 0, (end - start) // 4
    for four in range(n_fours):
        entry = np.uintp(start + 4 * four)
        second, third, fourth = entry + np.uintp(1), entry + np.uintp(2), entry + np.uintp(3)
        rows = (
            np.uintp(peaks[entry]) * pitch + first,
            np.uintp(peaks[second]) * pitch + first,
            np.uintp(peaks[third]) * pitch + first,
            np.uintp(peaks[fourth]) * pitch + first,
        )
        for number in range(WIDE // EIGHT):
            column = np.uintp(number * EIGHT)
            total = _loaded(out, position + column)
            if unweighted:
                total = _plus(total, dense, rows[0] + column)
                total = _plus(total, dense, rows[1] + column)
                total = _plus(total, dense, rows[2] + column)
                total = _plus(total, dense, rows[3] + column)
            else:
                total = _plus_weighted(total, weights[entry], dense, rows[0] + column)
                total = _plus_weighted(total, weights[second], dense, rows[1] + column)
                total = _plus_weighted(total, weights[third], dense, rows[2] + column)
                total = _plus_weighted(total, weights[fourth], dense, rows[3] + column)
            _stored(total, out, position + column)
    for number in range(start + 4 * n_fours, end):
        entry = np.uintp(number)
        row = np.uintp(peaks[entry]) * pitch + first
        weight = np.float32(1) if unweighted else weights[entry]
        for group in range(WIDE // EIGHT):
            column = np.uintp(group * EIGHT)
            total = _plus_weighted(_loaded(out, position + column), weight, dense, row + column)
            _stored(total, out, position + column)


@inlined
def _scatter_eight(
    peaks: Any,
    weights: Any,
    start: Any,
    end: Any,
    dense: Any,
    position: Any,
    out: Any,
    pitch: Any,
    first: Any,
) -> None:
    upstream = _loaded(dense, position)
    if len(weights) > 0:
        for number in range(start, end):
            entry = np.uintp(number)
            row = np.uintp(peaks[entry]) * pitch + first
            _add_weighted(out, row, weights[entry], upstream)
    else:
        for number in range(start, end):
            _add(out, np.uintp(peaks[np.uintp(number)]) * pitch + first, upstream)


@inlined
def _scatter_wide(
    peaks: Any,
    weights: Any,
    start: Any,
    end: Any,
    dense: Any,
    position: Any,
    out: Any,
    pitch: Any,
    first: Any,
) -> None:
    second, third = np.uintp(EIGHT), np.uintp(2 * EIGHT)
    low, middle = _loaded(dense, position), _loaded(dense, position + second)
    high = _loaded(dense, position + third)
    if len(weights) > 0:
        for number in range(start, end):
            entry = np.uintp(number)
            row, weight = np.uintp(peaks[entry]) * pitch + first, weights[entry]
            _add_weighted(out, row, weight, low)
            _add_weighted(out, row + second, weight, middle)
            _add_weighted(out, row + third, weight, high)
    else:
        for number in range(start, end):
            entry = np.uintp(number)
            row = np.uintp(peaks[entry]) * pitch + first
            _add(out, row, low)
            _add(out, row + second, middle)
            _add(out, row + third, high)
