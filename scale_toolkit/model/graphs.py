"""Training steps as CUDA graphs: launching the kernels of a step one by one takes longer than
running them, so a step is recorded once and launched as a whole.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from scale_toolkit.model.batches import Batch, Loader

log = logging.getLogger("scale_toolkit")

# steps of a kind before it is recorded: the first ones compile kernels and set up libraries
EAGER_STEPS = 3


class GraphedSteps:
    """Runs the steps of an epoch on a GPU whose memory holds the cells, without waiting for the GPU
    until the epoch is over.

    A graph is recorded for each kind of step and size of a batch, after `EAGER_STEPS` ordinary
    ones. If recording fails, all further steps are ordinary ones, with the same result.

    Parameters
    ----------
    loader
        Prepares the batches; its random numbers follow from a step number on the GPU, which each
        graph increments.
    enabled
        Record at all.
    """

    def __init__(self, loader: Loader, *, enabled: bool = True) -> None:
        device = loader.cells.device
        self._loader, self._enabled = loader, enabled
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        # a graph always reads the same memory, so the numbers of a batch's cells are copied there
        self._index: dict[Hashable, torch.Tensor] = {}
        self._done: dict[Hashable, int] = {}

    def run(
        self,
        parts: list[torch.Tensor],
        first_step: int,
        take: Callable[[Batch], torch.Tensor],
        kind: Hashable,
    ) -> np.ndarray:
        """Take a step on each batch of cells; returns the sums of what `take` returns, (2,)
        float64.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._step.fill_(first_step)
            self._sums.zero_()
            for index in parts:
                self._one(index, take, (kind, len(index)))
        torch.cuda.current_stream().wait_stream(self._stream)
        return self._sums.cpu().numpy()

    def _one(
        self, index: torch.Tensor, take: Callable[[Batch], torch.Tensor], key: Hashable
    ) -> None:
        static_index = self._index.setdefault(key, torch.empty_like(index))
        static_index.copy_(index)
        if key not in self._graphs:
            done = self._done[key] = self._done.get(key, 0) + 1
            if (
                not self._enabled
                or done <= EAGER_STEPS
                or not self._record(static_index, take, key)
            ):
                self._take(static_index, take)
                return
        self._graphs[key].replay()

    def _record(
        self, index: torch.Tensor, take: Callable[[Batch], torch.Tensor], key: Hashable
    ) -> bool:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                self._take(index, take)
        except RuntimeError as error:
            self._enabled = False
            log.info("training goes on without CUDA graphs: %s", str(error).partition("\n")[0])
            return False
        self._graphs[key] = graph
        return True

    def _take(self, index: torch.Tensor, take: Callable[[Batch], torch.Tensor]) -> None:
        self._sums += take(self._loader.make(index, self._step)).detach()
        self._step += 1
