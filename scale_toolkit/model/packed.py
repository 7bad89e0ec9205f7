"""Open peaks of many cells on one device, and products of some of its rows with dense matrices.

The counts are copied once; a batch is the numbers of its cells. The products have two
implementations with the same result: Triton kernels on a GPU (`fused`), and plain torch operations
on any device, which ``deterministic`` also uses.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from scale_toolkit.core.rows import MatrixRows, RowSource
from scale_toolkit.model.draws import kept
from scale_toolkit.model.held_out import Thinned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse

# Bounds the memory of plain torch products: each entry takes a few numbers and a row of the dense
# matrix.
ENTRIES_AT_A_TIME = 1 << 22
# Cells at a time from a source that is not in memory.
UPLOAD_CELLS = 8192


@dataclass
class PackedRows:
    """Cells × peaks on a device: the peaks of cell i are ``indices[starts[i] : starts[i] +
    lengths[i]]``.

    Attributes
    ----------
    indices
        Open peaks, cell after cell, int32; between two cells may lie entries that belong to none
        (hidden ones).
    starts, lengths
        int64 and int32, one a cell.
    values
        log2(count + 1) of each entry, float32; None: every entry is 1.
    host_lengths
        `lengths` on the host, int64.
    fused
        Products are made by Triton kernels, not by torch operations.
    """

    indices: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    values: torch.Tensor | None
    n_peaks: int
    host_lengths: np.ndarray
    fused: bool = False

    @property
    def n_cells(self) -> int:
        """Cells."""
        return len(self.starts)

    @property
    def device(self) -> torch.device:
        """Device of the arrays."""
        return self.indices.device

    @cached_property
    def longest(self) -> int:
        """Entries of the longest row."""
        return int(self.host_lengths.max(initial=0))

    @cached_property
    def every_row(self) -> torch.Tensor:
        """Numbers of all cells, int64."""
        return torch.arange(self.n_cells, device=self.device)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        arrays = (self.indices, self.starts, self.lengths, self.values)
        return sum(array.nbytes for array in arrays if array is not None)

    def open_sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Open peaks of each cell and open cells of each peak, int64 (cells,) and (peaks,)."""
        sums = StoredRows(self, as_ones=True).transposed_times(
            torch.ones((self.n_cells, 1), device=self.device)
        )
        return self.host_lengths.copy(), sums[:, 0].round().long().cpu().numpy()


def bytes_on_device(n_cells: int, n_entries: int, *, with_values: bool) -> int:
    """Bytes that `pack` takes for this many cells and open peaks."""
    return n_entries * (8 if with_values else 4) + 12 * n_cells


def pack(
    source: RowSource, device: torch.device, *, with_values: bool = False, fused: bool | None = None
) -> PackedRows:
    """Copy all cells of `source` to `device`.

    Parameters
    ----------
    with_values
        Keep log2(count + 1) too.
    fused
        Use Triton kernels; None: on a GPU, if Triton is installed.
    """
    thinned = source if isinstance(source, Thinned) else None
    base = source if thinned is None else thinned.base
    matrix = base.matrix if isinstance(base, MatrixRows) else None
    if matrix is not None and (matrix.nnz == 0 or matrix.data.min() > 0):
        packed = _pack_parts([matrix], source.n_peaks, device, with_values=with_values)
        if thinned is not None:
            _replace_rows(packed, thinned.cells, thinned.kept)
    else:
        packed = _pack_parts(
            list(_opened_blocks(source)), source.n_peaks, device, with_values=with_values
        )
    packed.fused = uses_triton(device) if fused is None else fused
    return packed


def pack_block(
    rows: sparse.csr_matrix, device: torch.device, *, with_values: bool, fused: bool | None = None
) -> PackedRows:
    """Copy some rows to `device`, through pinned memory and without waiting if it is a GPU."""
    if rows.nnz and rows.data.min() <= 0:
        rows = _without_zeros(rows)
    lengths = np.diff(rows.indptr).astype(np.int64)
    starts = rows.indptr[:-1].astype(np.int64)
    arrays = [rows.indices.astype(np.int32, copy=False), starts, lengths.astype(np.int32)]
    if with_values:
        arrays.append(np.log2(rows.data.astype(np.float32) + 1))
    tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
    if device.type == "cuda":
        tensors = [tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors]
    values = tensors[3] if with_values else None
    uses = uses_triton(device) if fused is None else fused
    return PackedRows(tensors[0], tensors[1], tensors[2], values, rows.shape[1], lengths, uses)


def _without_zeros(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    rows = rows.copy()
    rows.data[rows.data < 0] = 0
    rows.eliminate_zeros()
    return rows


@cache
def uses_triton(device: torch.device) -> bool:
    """Return whether Triton kernels can run: on a CUDA GPU with Triton installed."""
    if device.type != "cuda":
        return False
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def _opened_blocks(source: RowSource) -> Iterator[sparse.csr_matrix]:
    for first in range(0, source.n_cells, UPLOAD_CELLS):
        rows = source.rows(np.arange(first, min(first + UPLOAD_CELLS, source.n_cells)))
        yield _without_zeros(rows) if rows.nnz and rows.data.min() <= 0 else rows


def _pack_parts(
    parts: list[sparse.csr_matrix], n_peaks: int, device: torch.device, *, with_values: bool
) -> PackedRows:
    nnz = sum(rows.nnz for rows in parts)
    indices = torch.empty(max(nnz, 1), dtype=torch.int32, device=device)
    values = torch.empty(max(nnz, 1), device=device) if with_values else None
    lengths = np.concatenate([np.diff(rows.indptr) for rows in parts]).astype(np.int64)
    first = 0
    for rows in parts:
        stop = first + rows.nnz
        indices[first:stop] = torch.from_numpy(rows.indices.astype(np.int32, copy=False)).to(device)
        if values is not None:
            values[first:stop] = torch.from_numpy(np.log2(rows.data.astype(np.float32) + 1)).to(
                device
            )
        first = stop
    starts = np.zeros(len(lengths), np.int64)
    np.cumsum(lengths[:-1], out=starts[1:])
    return PackedRows(
        indices,
        torch.from_numpy(starts).to(device),
        torch.from_numpy(lengths.astype(np.int32)).to(device),
        values,
        n_peaks,
        lengths,
    )


def _replace_rows(packed: PackedRows, cells: np.ndarray, rows: sparse.csr_matrix) -> None:
    """Put shorter rows in the place of those of `cells`."""
    device = packed.device
    lengths = np.diff(rows.indptr).astype(np.int64)
    starts = packed.starts[torch.from_numpy(cells).to(device)].cpu().numpy()
    position = torch.from_numpy(
        np.repeat(starts - rows.indptr[:-1], lengths) + np.arange(rows.nnz)
    ).to(device)
    packed.indices[position] = torch.from_numpy(rows.indices.astype(np.int32)).to(device)
    if packed.values is not None:
        packed.values[position] = torch.from_numpy(np.log2(rows.data.astype(np.float32) + 1)).to(
            device
        )
    packed.host_lengths[cells] = lengths
    packed.lengths = torch.from_numpy(packed.host_lengths.astype(np.int32)).to(device)


@dataclass
class Mask:
    """Which open peaks are hidden from the encoder: a hash of each row's key (int64, below 2³²)
    and the entry's number.
    """

    keys: torch.Tensor
    threshold: int


@dataclass
class Divisors:
    """Factors of the batches of some rows, on the device of their peaks.

    Attributes
    ----------
    codes
        Group of each row, (rows,) int64.
    factors
        Factor of each peak in each group, (groups, peaks) float32.
    """

    codes: torch.Tensor
    factors: torch.Tensor

    def chosen(self, index: torch.Tensor | slice) -> Divisors:
        """Those of some of the rows."""
        return Divisors(self.codes[index], self.factors)


@dataclass
class StoredRows:
    """Some rows of packed cells, as the encoder sees them or as ones: an operand of
    `sparse.product`.

    Attributes
    ----------
    index
        Which cells, (rows,) int64 on the device; None: all.
    idf
        Weights of peaks for log1p(10⁴ · tf · idf), (peaks,) float32 on the device; None: entries as
        they are.
    mask
        Entries to leave out.
    as_ones
        Take every entry as 1, also if values are stored.
    square
        Square the weights.
    divisors
        Divide the weights by these factors; the rows' store may not be `fused`.
    """

    store: PackedRows
    index: torch.Tensor | None = None
    idf: torch.Tensor | None = None
    mask: Mask | None = None
    as_ones: bool = False
    square: bool = False
    divisors: Divisors | None = None

    def squared(self) -> StoredRows:
        """These rows with squared weights."""
        return dataclasses.replace(self, square=True)

    def __len__(self) -> int:
        return self.store.n_cells if self.index is None else len(self.index)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and peaks."""
        return len(self), self.store.n_peaks

    @property
    def device(self) -> torch.device:
        """Device of the rows."""
        return self.store.device

    @property
    def n_stored(self) -> torch.Tensor:
        """Open peaks of each row before the mask, (rows,) float32."""
        lengths = self.store.lengths
        return (lengths if self.index is None else lengths[self.index]).float()

    def times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return ``rows @ dense``, (rows, d)."""
        if self.store.fused:
            from scale_toolkit.model import fused

            return fused.times(self, dense)
        parts = self._parts()
        return (
            torch.cat([rows._plain_times(dense) for rows in parts])
            if len(parts) > 1
            else parts[0]._plain_times(dense)
        )

    def transposed_times(self, dense: torch.Tensor) -> torch.Tensor:
        """Return ``rows.T @ dense``, (peaks, d)."""
        if self.store.fused:
            from scale_toolkit.model import fused

            return fused.transposed_times(self, dense)
        total = torch.zeros(
            (self.store.n_peaks, dense.shape[1]), dtype=dense.dtype, device=dense.device
        )
        first = 0
        for rows in self._parts():
            rows._add_plain_transposed(dense[first : first + len(rows)], total)
            first += len(rows)
        return total

    def _parts(self) -> list[StoredRows]:
        """These rows in parts of about `ENTRIES_AT_A_TIME` entries."""
        if len(self) * self.store.longest <= ENTRIES_AT_A_TIME:
            return [self]
        index = torch.arange(len(self), device=self.device) if self.index is None else self.index
        ends = np.cumsum(
            self.store.host_lengths
            if self.index is None
            else self.store.host_lengths[index.cpu().numpy()]
        )
        edges = np.searchsorted(ends, np.arange(ENTRIES_AT_A_TIME, ends[-1], ENTRIES_AT_A_TIME)) + 1
        edges = np.unique(np.concatenate([[0], edges, [len(self)]]))
        parts = []
        for first, stop in itertools.pairwise(edges):
            mask = (
                None if self.mask is None else Mask(self.mask.keys[first:stop], self.mask.threshold)
            )
            rows = slice(first, stop)
            divisors = None if self.divisors is None else self.divisors.chosen(rows)
            parts.append(dataclasses.replace(self, index=index[rows], mask=mask, divisors=divisors))
        return parts

    @cached_property
    def _entries(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Row, peak and weight of every entry: int64, int64, float32."""
        store, device = self.store, self.device
        starts, lengths = store.starts, store.lengths.long()
        if self.index is not None:
            starts, lengths = starts[self.index], lengths[self.index]
        row = torch.repeat_interleave(torch.arange(len(self), device=device), lengths)
        entry = torch.arange(len(row), device=device) - (lengths.cumsum(0) - lengths)[row]
        position = starts[row] + entry
        if self.mask is not None:
            keep = kept(self.mask.keys[row], entry, self.mask.threshold)
            row, position = row[keep], position[keep]
        peak = store.indices[position].long()
        weight = (
            torch.ones(len(row), device=device)
            if store.values is None or self.as_ones
            else store.values[position]
        )
        if self.idf is not None:
            total = torch.zeros(len(self), device=device).index_add_(0, row, weight)
            weight = torch.log1p(weight * self.idf[peak] * (1e4 / total.clamp_min(1e-30))[row])
        if self.divisors is not None:
            weight = weight / self.divisors.factors[self.divisors.codes[row], peak]
        return row, peak, weight.square() if self.square else weight

    def _plain_times(self, dense: torch.Tensor) -> torch.Tensor:
        row, peak, weight = self._entries
        out = torch.zeros((len(self), dense.shape[1]), dtype=dense.dtype, device=dense.device)
        return out.index_add_(0, row, dense[peak] * weight[:, None].to(dense.dtype))

    def _add_plain_transposed(self, dense: torch.Tensor, total: torch.Tensor) -> None:
        row, peak, weight = self._entries
        total.index_add_(0, peak, dense[row] * weight[:, None].to(dense.dtype))
