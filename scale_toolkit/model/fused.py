"""Triton kernels for products of stored rows with dense matrices, with gathering, masking and
weighting fused in.

A batch is never stored: a program reads the peaks of one cell, hashes which of them the mask keeps,
weighs them and adds up rows of the dense matrix. So every shape is known
beforehand, and a whole training step can be a CUDA graph. Only loaded on a GPU;
`TRITON_INTERPRET=1` runs them on a CPU for the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

if TYPE_CHECKING:
    from scale_toolkit.model.packed import StoredRows

# A row with more open peaks is split among several programs.
ENTRIES_A_ROW = 512
# Values of a dense matrix that a program adds up at a time.
TILE = 2048


@triton.jit
def _kept(key: Any, entry: Any, threshold: Any) -> Any:
    x = key ^ entry.to(tl.uint32)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return ((x ^ (x >> 16)) >> 8).to(tl.int32) >= threshold


@triton.jit
def _row_scale(
    values: Any,
    start: Any,
    length: Any,
    key: Any,
    threshold: Any,
    HAS_VALUES: tl.constexpr,
    HAS_MASK: tl.constexpr,
    BLOCK: tl.constexpr,
) -> Any:
    """10⁴ over the sum of a row's kept values."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, length, BLOCK):
        entry = first + lane
        valid = entry < length
        if HAS_MASK:
            valid = valid & _kept(key, entry, threshold)
        if HAS_VALUES:
            total += tl.load(values + start + entry, mask=valid, other=0.0)
        else:
            total += valid.to(tl.float32)
    return 1e4 / tl.maximum(tl.sum(total, 0), 1e-30)


# Each constant, and each number that is 1 or a multiple of 16, makes another variant to compile.
_PLAIN_NUMBERS = ["n_rows", "n_columns", "threshold", "n_splits"]


@triton.jit(do_not_specialize=_PLAIN_NUMBERS)
def _gather(
    indices: Any,
    values: Any,
    starts: Any,
    lengths: Any,
    ids: Any,
    idf: Any,
    keys: Any,
    dense: Any,
    out: Any,
    n_rows: Any,
    n_columns: Any,
    threshold: Any,
    n_splits: Any,
    HAS_VALUES: tl.constexpr,
    HAS_IDF: tl.constexpr,
    HAS_MASK: tl.constexpr,
    SQUARE: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
) -> Any:
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    cell = tl.load(ids + row)
    start = tl.load(starts + cell)
    length = tl.load(lengths + cell)
    key = tl.full([], 0, tl.uint32)
    if HAS_MASK:
        key = tl.load(keys + row).to(tl.uint32)
    scale = 1.0
    if HAS_IDF:
        scale = _row_scale(values, start, length, key, threshold, HAS_VALUES, HAS_MASK, TOTAL_BLOCK)
    lane = tl.arange(0, BLOCK)
    column = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    within = column < n_columns
    total = tl.zeros([BLOCK, WIDTH], tl.float32)
    for first in range(split * BLOCK, length, n_splits * BLOCK):
        entry = first + lane
        valid = entry < length
        peak = tl.load(indices + start + entry, mask=valid, other=0)
        if HAS_MASK:
            valid = valid & _kept(key, entry, threshold)
        weight = valid.to(tl.float32)
        if HAS_VALUES:
            weight = tl.load(values + start + entry, mask=valid, other=0.0)
        if HAS_IDF:
            weight = tl.log(1.0 + weight * tl.load(idf + peak, mask=valid, other=0.0) * scale)
        if SQUARE:
            weight = weight * weight
        read = tl.load(
            dense + peak[:, None].to(tl.int64) * n_columns + column[None, :],
            mask=valid[:, None] & within[None, :],
            other=0.0,
        )
        total += weight[:, None] * read
    result = tl.sum(total, 0)
    tl.store(out + (split * n_rows + row) * n_columns + column, result, mask=within)


@triton.jit(do_not_specialize=_PLAIN_NUMBERS)
def _scatter(
    indices: Any,
    values: Any,
    starts: Any,
    lengths: Any,
    ids: Any,
    idf: Any,
    keys: Any,
    dense: Any,
    out: Any,
    n_rows: Any,
    n_columns: Any,
    threshold: Any,
    n_splits: Any,
    HAS_VALUES: tl.constexpr,
    HAS_IDF: tl.constexpr,
    HAS_MASK: tl.constexpr,
    SQUARE: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
) -> Any:
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    cell = tl.load(ids + row)
    start = tl.load(starts + cell)
    length = tl.load(lengths + cell)
    key = tl.full([], 0, tl.uint32)
    if HAS_MASK:
        key = tl.load(keys + row).to(tl.uint32)
    scale = 1.0
    if HAS_IDF:
        scale = _row_scale(values, start, length, key, threshold, HAS_VALUES, HAS_MASK, TOTAL_BLOCK)
    lane = tl.arange(0, BLOCK)
    column = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    within = column < n_columns
    upstream = tl.load(dense + row * n_columns + column, mask=within, other=0.0)
    for first in range(split * BLOCK, length, n_splits * BLOCK):
        entry = first + lane
        valid = entry < length
        peak = tl.load(indices + start + entry, mask=valid, other=0)
        if HAS_MASK:
            valid = valid & _kept(key, entry, threshold)
        weight = valid.to(tl.float32)
        if HAS_VALUES:
            weight = tl.load(values + start + entry, mask=valid, other=0.0)
        if HAS_IDF:
            weight = tl.log(1.0 + weight * tl.load(idf + peak, mask=valid, other=0.0) * scale)
        if SQUARE:
            weight = weight * weight
        tl.atomic_add(
            out + peak[:, None].to(tl.int64) * n_columns + column[None, :],
            weight[:, None] * upstream[None, :],
            mask=valid[:, None] & within[None, :],
            sem="relaxed",
        )


TOTAL_BLOCK = tl.constexpr(512)


def times(rows: StoredRows, dense: torch.Tensor) -> torch.Tensor:
    """Return ``rows @ dense``, (cells, d) float32."""
    n_columns = dense.shape[1]
    splits = _splits(rows)
    out = torch.empty((splits, len(rows), n_columns), device=dense.device)
    _launch(_gather, rows, dense.float().contiguous(), out, splits)
    return out[0] if splits == 1 else out.sum(0)


def transposed_times(rows: StoredRows, dense: torch.Tensor) -> torch.Tensor:
    """Return ``rows.T @ dense``, (peaks, d) float32; the order of its sums changes from run to
    run.
    """
    out = torch.zeros((rows.shape[1], dense.shape[1]), device=dense.device)
    _launch(_scatter, rows, dense.float().contiguous(), out, _splits(rows))
    return out


def _splits(rows: StoredRows) -> int:
    """Return the programs for each row: enough to fill the chip if there are few rows, else one.

    Powers of two keep the number of compiled variants small.
    """
    n_programs = min(rows.store.longest / ENTRIES_A_ROW, 4096 / max(len(rows), 1))
    return next((n for n in (8, 4, 2) if n_programs >= n), 1)


def _launch(
    kernel: Any, rows: StoredRows, dense: torch.Tensor, out: torch.Tensor, splits: int
) -> None:
    store, mask = rows.store, rows.mask
    n_columns = dense.shape[1]
    width = 32 if n_columns <= 32 else 64
    # a kernel needs a pointer for every argument, also for those that it does not read
    anything = store.indices
    if len(rows) == 0:
        return
    kernel[(len(rows), splits, triton.cdiv(n_columns, width))](
        store.indices,
        anything if store.values is None or rows.as_ones else store.values,
        store.starts,
        store.lengths,
        store.every_row if rows.index is None else rows.index,
        anything if rows.idf is None else rows.idf,
        anything if mask is None else mask.keys,
        dense,
        out,
        len(rows),
        n_columns,
        0 if mask is None else mask.threshold,
        splits,
        HAS_VALUES=store.values is not None and not rows.as_ones,
        HAS_IDF=rows.idf is not None,
        HAS_MASK=mask is not None,
        SQUARE=rows.square,
        BLOCK=TILE // width,
        WIDTH=width,
        num_warps=4,
    )
