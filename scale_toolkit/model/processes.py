"""A team of several processes (`team.Team`), through torch.distributed."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from scale_toolkit.errors import ProcessLostError, ScaleError
from scale_toolkit.model.led_products import LedProducts, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scale_toolkit.core.rows import RowSource
    from scale_toolkit.model.products import Products

T = TypeVar("T")


class Processes:
    """The processes of torch's default group, which must exist.

    Values in host memory travel by gloo, gradients on a GPU by NCCL.
    """

    def __init__(self) -> None:
        self.rank, self.size = torch.distributed.get_rank(), torch.distributed.get_world_size()

    @property
    def leads(self) -> bool:
        """See `Team`."""
        return self.rank == 0

    def bounds(self, n_cells: int) -> np.ndarray:
        """See `Team`; the numbers of cells differ by one at most."""
        return np.arange(self.size + 1) * n_cells // self.size

    def local(self, index: np.ndarray, n_cells: int) -> np.ndarray:
        """See `Team`."""
        first, stop = self.bounds(n_cells)[self.rank : self.rank + 2]
        return index[(index >= first) & (index < stop)] - first

    def total(self, values: Any) -> Any:
        """See `Team`."""
        tensor = torch.from_numpy(np.array(values))
        with self._reported():
            torch.distributed.all_reduce(tensor)
        total = tensor.numpy()
        return total if isinstance(values, np.ndarray) else total.item()

    def mean(self, value: float, weight: float) -> float:
        """See `Team`."""
        sums = self.total(np.array([value * weight, weight], np.float64))
        return float(sums[0] / max(sums[1], 1e-300))

    def joined(self, rows: np.ndarray) -> np.ndarray:
        """See `Team`."""
        padded, lengths = self._padded(rows)
        parts = [torch.empty_like(padded) for _ in lengths]
        with self._reported():
            torch.distributed.all_gather(parts, padded)
        return _stacked(parts, lengths)

    def gathered(self, rows: np.ndarray) -> np.ndarray:
        """See `Team`."""
        padded, lengths = self._padded(rows)
        parts = [torch.empty_like(padded) for _ in lengths] if self.leads else None
        with self._reported():
            torch.distributed.gather(padded, parts)
        return rows if parts is None else _stacked(parts, lengths)

    def collected(self, value: T) -> list[T]:
        """See `Team`."""
        values: list[Any] = [None] * self.size
        with self._reported():
            torch.distributed.all_gather_object(values, value)
        return values

    def shared(self, value: T) -> T:
        """See `Team`."""
        values = [value if self.leads else None]
        with self._reported():
            torch.distributed.broadcast_object_list(values, 0)
        return values[0]  # type: ignore[return-value]

    def together(self, work: Callable[[], T]) -> T:
        """See `Team`."""
        error = None
        try:
            result = work()
        except ScaleError as raised:
            error = raised
        errors = [(rank, raised) for rank, raised in enumerate(self.collected(error)) if raised]
        if not errors:
            return result
        rank, common_error = errors[0]
        if len(errors) < self.size:
            problem = f"process {rank + 1} of {self.size}: {common_error.found}"
            common_error = type(common_error)(problem, common_error.expected, common_error.do)
        common_error.reported = not self.leads
        raise common_error

    def scattered(self, values: list[Any] | None) -> Any:
        """Return this process's one of the leader's `values`, one a process."""
        received = [None]
        with self._reported():
            torch.distributed.scatter_object_list(received, values)
        return received[0]

    @torch.no_grad()
    def share(self, model: torch.nn.Module) -> None:
        """See `Team`."""
        for tensor in model.state_dict().values():
            with self._reported():
                torch.distributed.broadcast(tensor, 0)

    @torch.no_grad()
    def average_gradients(self, model: torch.nn.Module, n_cells: int) -> None:
        """See `Team`."""
        gradients = [
            parameter.grad for parameter in model.parameters() if parameter.grad is not None
        ]
        count = gradients[0].new_ones(1)
        # one message a step: a message costs more than its bytes
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), count]) * n_cells
        with self._reported():
            torch.distributed.all_reduce(flat)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, summed in zip(gradients, flat[:-1].split(sizes), strict=True):
            gradient.copy_(summed.view_as(gradient) / flat[-1])

    def rng(self, rng: np.random.Generator, seed: int) -> np.random.Generator:
        """See `Team`."""
        return np.random.default_rng([seed, self.rank])

    def seed(self, seed: int) -> int:
        """See `Team`."""
        # a seed has 32 bits: those of two processes are never the same
        return seed + (self.rank << 32)

    def led(self, products: Products, source: RowSource, work: Callable[[Products], T]) -> T:
        """See `Team`."""
        n_cells = self.total(source.n_cells)
        if not self.leads:
            serve(products, self, n_cells)
            return self.shared(None)  # type: ignore[return-value]
        result = work(LedProducts(products, source.n_peaks, self, n_cells))
        self.shared(None)
        return self.shared(result)

    def _padded(self, rows: np.ndarray) -> tuple[torch.Tensor, list[int]]:
        """Rows with as many more as the largest of all processes has, and the numbers of rows."""
        lengths = self.collected(len(rows))
        padded = np.zeros((max(lengths), *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        return torch.from_numpy(padded), lengths

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        """Report a process that can no longer be reached."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).partition("\n")[0].split("] ")[-1].rstrip(". ")
            raise ProcessLostError(
                f"process {self.rank + 1} of {self.size} lost another one ({reason[:120]})",
                "all processes until the end",
                "look at the messages of the others, then run the same command again: with "
                "--checkpoint it goes on after the last checkpoint",
            ) from error


def _stacked(parts: list[torch.Tensor], lengths: list[int]) -> np.ndarray:
    rows = [tensor.numpy()[:length] for tensor, length in zip(parts, lengths, strict=True)]
    return np.concatenate(rows)
