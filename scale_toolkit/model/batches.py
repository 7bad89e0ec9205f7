"""Batches of cells for training steps; on the CPU a second thread prepares the next batch, if there
is a second core.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from scale_toolkit.core.rows import binarise, blocks
from scale_toolkit.model.cells import CellsOnDevice, CellsStreamed
from scale_toolkit.model.draws import Draws, Purpose, threshold_of
from scale_toolkit.model.packed import Mask, StoredRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scale_toolkit.core.batch_effects import BatchEffects
    from scale_toolkit.model.cells import Cells
    from scale_toolkit.model.loss import PeakSampler
    from scale_toolkit.model.sparse import Rows

T = TypeVar("T")


@dataclass
class Neighbours:
    """Cells near each cell, (cells, n) int; a step may reconstruct one of them instead of the
    cell itself.
    """

    index: np.ndarray
    share: float


@dataclass
class Batch:
    """The cells of one step, on the device.

    Attributes
    ----------
    encoder_rows
        The cells as the encoder sees them.
    opened
        Open peaks to reconstruct, and `offset`, the depth offset of the cells with those peaks.
    subset, scale
        Peaks drawn for the softplus sum and their inverse probabilities; None: all peaks.
    noise
        Standard normal numbers, (cells, latent).
    shift, open_shift
        Shift of the logits by the cells' batches, (cells, peaks or subset), and its sum over the
        open peaks, (cells,); None: 0.
    ready
        CUDA event recorded after the copy to the GPU on another stream; None: nothing is copied.
    """

    encoder_rows: Rows
    opened: Rows
    offset: torch.Tensor
    subset: torch.Tensor | None
    scale: torch.Tensor | None
    noise: torch.Tensor
    shift: torch.Tensor | None = None
    open_shift: torch.Tensor | None = None
    ready: torch.cuda.Event | None = None

    def __len__(self) -> int:
        return self.encoder_rows.shape[0]

    def wait(self) -> Batch:
        """Make the step's stream wait for the copy to the GPU, and keep the copy's memory until
        the step is done.
        """
        if self.ready is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self.ready)
            stores = [
                rows.store
                for rows in (self.encoder_rows, self.opened)
                if isinstance(rows, StoredRows)
            ]
            tensors = [self.offset, self.subset, self.scale, self.noise]
            tensors += [self.shift, self.open_shift]
            tensors += [
                tensor for rows in (self.encoder_rows, self.opened) for tensor in _tensors(rows)
            ]
            tensors += [
                tensor
                for store in stores
                for tensor in (store.indices, store.starts, store.lengths, store.values)
            ]
            for tensor in tensors:
                if tensor is not None:
                    tensor.record_stream(stream)
        return self


def _tensors(rows: Rows) -> list[torch.Tensor]:
    return [rows.mask.keys] if isinstance(rows, StoredRows) and rows.mask is not None else []


class Loader:
    """Prepares the batches of a training.

    Parameters
    ----------
    cells
        All cells.
    offset
        Depth offset of each cell, (cells,) float32.
    draws
        Random numbers, on the device of the cells if the cells are stored there (`draws_for`).
    latent
        Columns of the noise.
    mask
        Share of a cell's open peaks hidden from the encoder, new ones every time.
    neighbours
        If given, that share of targets is a random near cell's peaks.
    sampler
        Draws the peaks that estimate the softplus sum.
    """

    def __init__(
        self,
        cells: Cells,
        offset: np.ndarray,
        draws: Draws,
        latent: int,
        *,
        mask: float = 0.0,
        neighbours: Neighbours | None = None,
        sampler: PeakSampler | None = None,
    ) -> None:
        self.cells, self.draws, self.latent = cells, draws, latent
        self.offset = torch.from_numpy(offset.astype(np.float32)).to(draws.device)
        self.threshold = threshold_of(mask)
        self.share = 0.0 if neighbours is None else neighbours.share
        self.near = (
            None if neighbours is None else torch.from_numpy(neighbours.index).to(draws.device)
        )
        self.sampler = None if sampler is None else sampler.to(draws.device)
        self.shifts = None if cells.effects is None else Shifts.of_cells(cells, cells.effects)
        self._stream = (
            torch.cuda.Stream(cells.device)
            if isinstance(cells, CellsStreamed) and _is_gpu(cells)
            else None
        )

    def index(
        self,
        epoch: int,
        size: int,
        *,
        drop_last: bool = False,
        max_steps: int = 0,
        n_cells: int | None = None,
    ) -> list[torch.Tensor]:
        """Cells of each step of an epoch: all in a random order, or `max_steps` batches if that
        is less.

        If these are a part of `n_cells` cells, each step has the same part of its `size` cells.
        """
        order = self.draws.permutation(Purpose.ORDER, epoch, self.cells.n_cells)
        if n_cells is not None and n_cells > len(order):
            return list(order.tensor_split(n_batches(n_cells, size)))[: max_steps or None]
        return batches(order, size, drop_last=drop_last)[: max_steps or None]

    def epoch(self, parts: list[torch.Tensor], first_step: int) -> Iterator[Batch]:
        """Yield the batches of these cells; the next one is prepared in the meantime if there is a
        second thread.
        """
        upcoming = (self.make(index, first_step + i) for i, index in enumerate(parts))
        # A budget of one thread leaves none for preparation. Cells on the device need no
        # preparation.
        return (
            ahead(upcoming)
            if not isinstance(self.cells, CellsOnDevice) and torch.get_num_threads() > 1
            else upcoming
        )

    def make(self, index: torch.Tensor, step: int | torch.Tensor) -> Batch:
        """Return the batch of these cells for this step."""
        if self._stream is None:
            return self._make(index, step)
        with torch.cuda.stream(self._stream):
            batch = self._make(index, step)
            batch.ready = self._stream.record_event()
        return batch

    def _make(self, index: torch.Tensor, step: int | torch.Tensor) -> Batch:
        draws, n = self.draws, len(index)
        target = index if self.near is None else swap(index, self.near, self.share, draws, step)
        mask = Mask(draws.keys(Purpose.MASK, step, n), self.threshold) if self.threshold else None
        subset, scale = (None, None) if self.sampler is None else self.sampler.draw(draws, step)
        noise = draws.normal(Purpose.NOISE, step, (n, self.latent))
        device = self.cells.device
        subset = None if subset is None else subset.to(device)
        batch = Batch(
            self.cells.seen(index, mask),
            self.cells.opened(target),
            self.offset[target].to(device),
            subset,
            None if scale is None else scale.to(device),
            noise.to(device),
        )
        if self.shifts is not None:
            batch.shift, batch.open_shift = self.shifts.of(target.to(device), subset)
        return batch


@dataclass
class Shifts:
    """Shifts of the cells' logits by their batches, on the device of a training.

    Attributes
    ----------
    codes
        Group of each cell, (cells,) int64.
    logits
        Shift of each group and peak, (groups, peaks) float32.
    open_sums
        Sum of the shifts of a cell's open peaks, (cells,) float32.
    """

    codes: torch.Tensor
    logits: torch.Tensor
    open_sums: torch.Tensor

    @classmethod
    def of_cells(cls, cells: Cells, effects: BatchEffects) -> Shifts:
        """Return the shifts of all cells of a training, in one pass over their open peaks."""
        sums = np.zeros(cells.n_cells, np.float32)
        for index, rows in blocks(cells.source):
            opened = binarise(rows)
            row = np.repeat(np.arange(len(index)), np.diff(opened.indptr))
            shifts = effects.logits[effects.codes[index][row], opened.indices]
            sums[index] = np.bincount(row, shifts, minlength=len(index))
        codes = effects.codes.astype(np.int64)
        arrays = (torch.from_numpy(array) for array in (codes, effects.logits, sums))
        return cls(*(array.to(cells.device) for array in arrays))

    def of(
        self, index: torch.Tensor, subset: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the shifts of cells at all peaks or a subset, and those of their open peaks."""
        logits = self.logits if subset is None else self.logits.index_select(1, subset)
        return logits[self.codes[index]], self.open_sums[index]


def draws_for(cells: Cells, seed: int) -> Draws:
    """Return the random numbers for training on these cells, on the device that holds the cells."""
    return Draws(seed, cells.device if isinstance(cells, CellsOnDevice) else torch.device("cpu"))


def _is_gpu(cells: Cells) -> bool:
    return cells.device.type == "cuda"


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield the items in order; a second thread computes the next one while the caller uses
    this one.
    """
    items = iter(items)
    with ThreadPoolExecutor(1) as worker:
        waiting = worker.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = worker.submit(next, items, None)
            yield item


def batches(order: torch.Tensor, size: int, *, drop_last: bool) -> list[torch.Tensor]:
    """Split an order of cells into batches; a remainder smaller than half a batch joins the
    previous one.
    """
    full = len(order) // size
    if drop_last:
        return list(order[: full * size].split(size)) if full else [order]
    n_parts = n_batches(len(order), size)
    return [order[i * size : (i + 1) * size if i < n_parts - 1 else None] for i in range(n_parts)]


def n_batches(n_cells: int, size: int) -> int:
    """Return how many batches `batches` makes."""
    # A small last batch would have a noisy gradient at the weight of a full one.
    return max(n_cells // size + (n_cells % size >= size / 2), 1)


def swap(
    index: torch.Tensor, near: torch.Tensor, share: float, draws: Draws, step: int | torch.Tensor
) -> torch.Tensor:
    """Each cell, or with probability `share` a random one of its neighbours `near`, (cells, n)."""
    chosen = draws.uniform(Purpose.SWAP, step, len(index)) < share
    column = draws.below(Purpose.NEIGHBOUR, step, near.shape[1], len(index))
    return torch.where(chosen, near[index, column], index)
