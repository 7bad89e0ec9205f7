"""The cells that a model is trained on and encodes, in host memory or on a GPU, behind one
interface.

`CellsOnHost` packs the rows of each batch on the CPU, `CellsOnDevice` keeps all open peaks in the
GPU's memory, and `CellsStreamed` copies each batch there, if they do not fit. The tests hold them
to the same rows and the same training.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from scale_toolkit.core.batch_effects import BatchEffects
from scale_toolkit.core.depth import open_sums
from scale_toolkit.core.rows import MatrixRows, RowSource, binarise
from scale_toolkit.model.encoder_view import EncoderView, idf_on, is_published
from scale_toolkit.model.held_out import Thinned
from scale_toolkit.model.host_rows import concatenated, packed_on_host
from scale_toolkit.model.packed import (
    Divisors,
    Mask,
    PackedRows,
    StoredRows,
    bytes_on_device,
    pack,
    pack_block,
)
from scale_toolkit.model.sparse import Rows, SparseRows
from scale_toolkit.model.torch_rows import TorchRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse

    from scale_toolkit.model.encoder_view import EncoderInput

log = logging.getLogger("scale_toolkit")

# Cells at a time in a pass over all cells on a GPU.
BLOCK_ON_DEVICE = 32_768
_NO_KEYS, _NO_DATA = np.empty(0, np.uint32), np.empty(0, np.float32)


class Cells(Protocol):
    """All cells of a training: `seen` and `opened` give rows of them as operands of
    `sparse.product`.
    """

    n_cells: int
    n_peaks: int
    device: torch.device
    source: RowSource
    # an `EncoderView`; on the host any `EncoderInput`: a mutable member cannot have both types
    see: Any
    # of the cells' batches: what the encoder sees is divided by their factors
    effects: BatchEffects | None

    def seen(self, index: torch.Tensor | np.ndarray, mask: Mask | None = None) -> Rows:
        """These cells as the encoder sees them, without what `mask` hides."""
        ...

    def opened(self, index: torch.Tensor | np.ndarray) -> Rows:
        """Open peaks of these cells as ones."""
        ...

    def seen_at_once(self, index: np.ndarray | None = None) -> Rows:
        """All cells, or those in `index`, as the encoder sees them: for products that are
        repeated many times.
        """
        ...

    def blocks(self, index: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Numbers of all cells, or of those in `index`, in blocks of a good size for a pass
        without gradients.
        """
        ...

    def open_sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Open peaks of each cell and open cells of each peak, int64 (cells,) and (peaks,)."""
        ...


class CellsOnHost:
    """Cells of a row source, packed batch by batch on the CPU.

    Parameters
    ----------
    source
        Counts.
    see
        What the encoder sees of them; an `EncoderView` is computed by compiled kernels.
    device
        Device of a batch's results: the CPU, or a device without sparse products.
    effects
        Of the cells' batches.
    """

    def __init__(
        self,
        source: RowSource,
        see: EncoderInput,
        device: torch.device | None = None,
        effects: BatchEffects | None = None,
    ) -> None:
        self.source, self.see, self.device = source, see, device or torch.device("cpu")
        self.effects = effects
        self.n_cells, self.n_peaks = source.n_cells, source.n_peaks

    def seen(self, index: torch.Tensor | np.ndarray, mask: Mask | None = None) -> Rows:
        """These cells as the encoder sees them, without what `mask` hides."""
        rows = self._seen(np.asarray(index), mask)
        if self.effects is not None and isinstance(rows, SparseRows):
            return rows.divided(self.effects.chosen(np.asarray(index)))
        return rows

    def _seen(self, index: np.ndarray, mask: Mask | None) -> Rows:
        rows = self.source.rows(index)
        if is_published(self.see) and mask is None:
            return TorchRows(self.see(rows), self.device)
        if isinstance(self.see, EncoderView) and _all_open(rows):
            return packed_on_host(rows, self.see, mask, self.device)
        if mask is not None:
            rows = packed_on_host(rows, None, mask, self.device).csr()
        return SparseRows(self.see(rows), self.device)

    def opened(self, index: torch.Tensor | np.ndarray) -> Rows:
        """Open peaks of these cells as ones."""
        rows = self.source.rows(np.asarray(index))
        if is_published(self.see):
            return TorchRows(binarise(rows), self.device)
        if _all_open(rows) and rows.has_sorted_indices:
            peaks, pointers = (
                rows.indices.astype(np.int32, copy=False),
                rows.indptr.astype(np.int64),
            )
            return SparseRows.of_parts(peaks, _NO_DATA, pointers, self.n_peaks, self.device)
        return SparseRows(binarise(rows), self.device)

    def seen_at_once(self, index: np.ndarray | None = None) -> Rows:
        """All cells, or those in `index`, as the encoder sees them."""
        n_rows = self.n_cells if index is None else len(index)
        parts = [self.seen(block) for block in self.blocks(index)]
        return concatenated(parts, (n_rows, self.n_peaks), self.device)

    def blocks(self, index: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Numbers of all cells, or of those in `index`, in blocks."""
        return (block for block in _slices(self.n_cells, index, 512))

    def open_sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Open peaks of each cell and open cells of each peak."""
        return open_sums(self.source)


class _Viewed:
    """Cells with a view whose weights of peaks are on their device."""

    device: torch.device
    effects: BatchEffects | None

    def divisors(self, index: torch.Tensor | None = None) -> Divisors | None:
        """Factors of the batches of all cells, or of those in `index`, on the device."""
        if self.effects is None:
            return None
        if self._divisors is None:
            codes = torch.from_numpy(self.effects.codes.astype(np.int64)).to(self.device)
            self._divisors = Divisors(codes, torch.from_numpy(self.effects.factors).to(self.device))
        return self._divisors if index is None else self._divisors.chosen(index)

    _divisors: Divisors | None = None

    @property
    def see(self) -> EncoderView:
        """What the encoder sees of the cells."""
        return self._see

    @see.setter
    def see(self, see: EncoderView) -> None:
        self._see = see
        self._idf = idf_on(self.device, see)


class CellsOnDevice(_Viewed):
    """Cells whose open peaks are all in the memory of one device; a batch is the numbers of its
    cells.

    Parameters
    ----------
    source
        Counts; copied once.
    see
        What the encoder sees of them.
    device
        Device that stores them.
    fused
        Use Triton kernels; None: on a GPU, if Triton is installed.
    effects
        Of the cells' batches; Triton kernels do not know them.
    """

    def __init__(
        self,
        source: RowSource,
        see: EncoderView,
        device: torch.device,
        *,
        fused: bool | None = None,
        effects: BatchEffects | None = None,
    ) -> None:
        self.source, self.device, self.effects = source, device, effects
        self.n_cells, self.n_peaks = source.n_cells, source.n_peaks
        fused = fused if effects is None else False
        self.store = pack(source, device, with_values=see.log_transform, fused=fused)
        self.see = see

    def seen(self, index: torch.Tensor | np.ndarray, mask: Mask | None = None) -> Rows:
        """These cells as the encoder sees them, without what `mask` hides."""
        numbers = self._numbers(index)
        return StoredRows(self.store, numbers, self._idf, mask, divisors=self.divisors(numbers))

    def opened(self, index: torch.Tensor | np.ndarray) -> Rows:
        """Open peaks of these cells as ones."""
        return StoredRows(self.store, self._numbers(index), as_ones=True)

    def seen_at_once(self, index: np.ndarray | None = None) -> Rows:
        """All cells, or those in `index`, as the encoder sees them."""
        numbers = None if index is None else self._numbers(index)
        return StoredRows(self.store, numbers, self._idf, divisors=self.divisors(numbers))

    def blocks(self, index: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Numbers of all cells, or of those in `index`, in blocks."""
        return _slices(self.n_cells, index, BLOCK_ON_DEVICE)

    def open_sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Open peaks of each cell and open cells of each peak."""
        return self.store.open_sums()

    def _numbers(self, index: torch.Tensor | np.ndarray) -> torch.Tensor:
        return (
            index
            if isinstance(index, torch.Tensor)
            else torch.from_numpy(np.asarray(index, np.int64)).to(self.device)
        )


class CellsStreamed(_Viewed):
    """Cells that do not fit into the memory of the device: the rows of each batch are copied to it.

    Copies go through pinned memory on a stream of their own, so that the next batch arrives while
    one is computed (`batches.ahead` asks for it from a second thread).

    Parameters
    ----------
    As those of `CellsOnDevice`.
    """

    def __init__(
        self,
        source: RowSource,
        see: EncoderView,
        device: torch.device,
        *,
        fused: bool | None = None,
        effects: BatchEffects | None = None,
    ) -> None:
        self.source, self.device, self.effects = source, device, effects
        self._fused = fused if effects is None else False
        self.n_cells, self.n_peaks = source.n_cells, source.n_peaks
        self.see = see

    def seen(self, index: torch.Tensor | np.ndarray, mask: Mask | None = None) -> Rows:
        """These cells as the encoder sees them, without what `mask` hides."""
        if mask is not None:
            mask = Mask(mask.keys.to(self.device), mask.threshold)
        divisors = None
        if self.effects is not None:
            divisors = self.divisors(torch.as_tensor(index, device=self.device))
        rows = self._copied(index, with_values=self._see.log_transform)
        return StoredRows(rows, None, self._idf, mask, divisors=divisors)

    def opened(self, index: torch.Tensor | np.ndarray) -> Rows:
        """Open peaks of these cells as ones."""
        return StoredRows(self._copied(index, with_values=False), None, as_ones=True)

    def seen_at_once(self, index: np.ndarray | None = None) -> Rows:
        """All cells, or those in `index`, as the encoder sees them; they must fit on the device."""
        return self.seen(np.arange(self.n_cells) if index is None else index)

    def blocks(self, index: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """Numbers of all cells, or of those in `index`, in blocks."""
        return _slices(self.n_cells, index, 4096)

    def open_sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Open peaks of each cell and open cells of each peak."""
        return open_sums(self.source)

    def _copied(self, index: torch.Tensor | np.ndarray, *, with_values: bool) -> PackedRows:
        rows = self.source.rows(
            np.asarray(index.cpu() if isinstance(index, torch.Tensor) else index)
        )
        return pack_block(rows, self.device, with_values=with_values, fused=self._fused)


@dataclass(frozen=True)
class OnGpu:
    """How a GPU is used.

    Attributes
    ----------
    memory
        Bytes of its memory that open peaks may take; None: what is free, less a reserve.
    deterministic
        Use only operations whose results are the same in every run.
    """

    memory: int | None = None
    deterministic: bool = False


def place_cells(
    source: RowSource,
    see: EncoderInput,
    device: torch.device,
    gpu: OnGpu | None = None,
    effects: BatchEffects | None = None,
) -> Cells:
    """Choose where the cells are stored: on the host, in the memory of a GPU, or on the host and
    copied to the GPU batch by batch if they do not fit.
    """
    if device.type != "cuda":
        return CellsOnHost(source, see, device, effects)
    if not isinstance(see, EncoderView):
        raise TypeError("cells on a GPU are seen through an EncoderView")
    n_entries = stored_entries(source)
    n_bytes = bytes_on_device(source.n_cells, n_entries, with_values=see.log_transform)
    gpu = gpu or OnGpu()
    memory = free_for_cells(device) if gpu.memory is None else gpu.memory
    if n_bytes <= memory:
        kind: type[CellsOnDevice] | type[CellsStreamed] = CellsOnDevice
        log.info("open peaks on the GPU: %.2f GB", n_bytes / 1e9)
    else:
        kind = CellsStreamed
        log.info(
            "open peaks copied to the GPU in batches: %.2f GB, %.2f allowed",
            n_bytes / 1e9,
            memory / 1e9,
        )
    fused = False if gpu.deterministic else None
    return kind(source, see, device, fused=fused, effects=effects)


def free_for_cells(device: torch.device) -> int:
    """Return the bytes that a GPU has free, less a fifth for everything else in training."""
    # a fifth covers weights, optimiser moments and a batch's activations
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * 0.8)


def stored_entries(source: RowSource) -> int:
    """Stored counts of all cells; of a source that is not in memory, an estimate from its first
    1,000 cells.
    """
    base = source.base if isinstance(source, Thinned) else source
    if isinstance(base, MatrixRows):
        return base.matrix.nnz
    first = base.rows(np.arange(min(base.n_cells, 1000)))
    return int(first.nnz / max(first.shape[0], 1) * base.n_cells * 1.05)


def _all_open(rows: sparse.csr_matrix) -> bool:
    return rows.nnz == 0 or bool(rows.data.min() > 0)


def _slices(n_cells: int, index: np.ndarray | None, size: int) -> Iterator[np.ndarray]:
    index = np.arange(n_cells) if index is None else index
    return (index[first : first + size] for first in range(0, len(index), size))
