"""What a training step needs of its cells, made ready one step ahead by a second thread where there is a second core."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from scale_toolkit.core.rows import RowSource, binarise, keep_entries
from scale_toolkit.model.sparse import SparseRows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from scipy import sparse

    from scale_toolkit.model.loss import PeakSampler

T = TypeVar("T")


@dataclass
class Neighbours:
    """Cells near each cell, (cells, n) int; a step may reconstruct one of them instead of the cell itself."""

    index: np.ndarray
    share: float


@dataclass
class Batch:
    """The cells of one step, on the device.

    Attributes
    ----------
    seen
        What the encoder sees of them.
    opened
        Open peaks to reconstruct, and `offset`, the depth offset of the cells those peaks are of.
    subset, scale
        Peaks drawn for the softplus sum and their inverse probabilities; None: all peaks.
    """

    seen: SparseRows
    opened: SparseRows
    offset: torch.Tensor
    subset: torch.Tensor | None
    scale: torch.Tensor | None
    ready: torch.cuda.Event | None = None

    def __len__(self) -> int:
        return self.seen.shape[0]

    def wait(self) -> Batch:
        """Let the step's stream wait until the copy to the GPU is done, and keep its memory while used; not on the CPU."""
        if self.ready is not None:
            stream = torch.cuda.current_stream()
            stream.wait_event(self.ready)
            dense = (tensor for tensor in (self.offset, self.subset, self.scale) if tensor is not None)
            for tensor in (*dense, *self.seen.tensors(), *self.opened.tensors()):
                tensor.record_stream(stream)
        return self


@dataclass
class Loader:
    """Makes batches of a row source.

    Parameters
    ----------
    source
        Cells.
    encoder_input
        Turns counts into what the encoder sees.
    offset
        Depth offset of each cell, (cells,) float32.
    mask
        Share of a cell's open peaks hidden from the encoder, new ones every time.
    neighbours
        Where given, that share of targets is a random near cell's peaks.
    sampler
        Draws the peaks that estimate the softplus sum.
    """

    source: RowSource
    encoder_input: Callable[[sparse.csr_matrix], sparse.csr_matrix]
    offset: np.ndarray
    rng: np.random.Generator
    device: torch.device
    mask: float = 0.0
    neighbours: Neighbours | None = None
    sampler: PeakSampler | None = None

    def __post_init__(self) -> None:
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def epoch(self, size: int, *, drop_last: bool = False, max_steps: int = 0) -> Iterator[Batch]:
        """Batches of `size` cells in a random order: all cells, or `max_steps` batches where that is less."""
        parts = batches(self.rng.permutation(self.source.n_cells), size, drop_last=drop_last)
        made = (self._make(index) for index in parts[: max_steps or None])
        # One thread means one: then nothing is made ahead.
        return ahead(made) if self._stream is not None or torch.get_num_threads() > 1 else made

    def _make(self, index: np.ndarray) -> Batch:
        rows = self.source.rows(index)
        target = index if self.neighbours is None else swap(index, self.neighbours, self.rng)
        opened = binarise(rows if target is index else self.source.rows(target))
        # random integers of 16 bits: the mask is the dearest draw of a step, and a share to five digits is enough
        seen = rows
        if self.mask:
            draw = self.rng.integers(0, 1 << 16, rows.nnz, dtype=np.uint16)
            seen = keep_entries(rows, draw >= round(self.mask * (1 << 16)))
        drawn = (None, None) if self.sampler is None else self.sampler.draw(self.rng)
        if self._stream is None:
            return self._on_device(self.encoder_input(seen), opened, self.offset[target], *drawn)
        with torch.cuda.stream(self._stream):
            batch = self._on_device(self.encoder_input(seen), opened, self.offset[target], *drawn)
            batch.ready = self._stream.record_event()
        return batch

    def _on_device(self, seen, opened, offset, subset, scale) -> Batch:
        def put(array: np.ndarray | None) -> torch.Tensor | None:
            if array is None:
                return None
            tensor = torch.from_numpy(array)
            return tensor.to(self.device) if self._stream is None else tensor.pin_memory().to(self.device, non_blocking=True)

        rows = (SparseRows(part, self.device).prepare() for part in (seen, opened))
        return Batch(*rows, put(offset), put(subset), put(scale))


def ahead(items: Iterable[T]) -> Iterator[T]:
    """The same items in the same order, the next one made by a second thread while this one is used."""
    items = iter(items)
    with ThreadPoolExecutor(1) as worker:
        waiting = worker.submit(next, items, None)
        while (item := waiting.result()) is not None:
            waiting = worker.submit(next, items, None)
            yield item


def batches(order: np.ndarray, size: int, *, drop_last: bool) -> list[np.ndarray]:
    """Cut an order of cells into batches; a remainder smaller than half a batch joins the one before it."""
    full = len(order) // size
    if drop_last:
        return np.split(order[: full * size], full) if full else [order]
    parts = max(full + (len(order) % size >= size / 2), 1)
    return [order[i * size : (i + 1) * size if i < parts - 1 else None] for i in range(parts)]


def swap(index: np.ndarray, neighbours: Neighbours, rng: np.random.Generator) -> np.ndarray:
    """Each cell, or with probability `neighbours.share` a random one of its neighbours."""
    chosen = rng.random(len(index)) < neighbours.share
    column = rng.integers(0, neighbours.index.shape[1], len(index))
    return np.where(chosen, neighbours.index[index, column], index)
