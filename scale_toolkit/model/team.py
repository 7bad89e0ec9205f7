"""The processes that train one model: each holds some of the cells, and all hold the same weights.

The cells are split in their order, so that a process reads one range of rows. What is computed from
all cells is a sum over the processes (open cells of the peaks, products of transposed rows,
gradients) or the rows of all processes in order (coordinates, latent vectors). Dense algebra on
all cells' coordinates, the mixture and the calibration are the work of the first process, the
leader, which shares the result: processes on different machines need not round alike.

`Alone` is the team of one process, in which every method returns what it was given;
`processes.Processes` is one of several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from scale_toolkit.core.rows import RowSource
    from scale_toolkit.model.products import Products

T = TypeVar("T")


class Team(Protocol):
    """Processes with numbers from 0, of which the first leads.

    A method that is called by one process must be called by all, in the same order.
    """

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        ...

    def bounds(self, n_cells: int) -> np.ndarray:
        """Where the cells of each process begin, and the last one's end, (size + 1,) int64."""
        ...

    def local(self, index: np.ndarray, n_cells: int) -> np.ndarray:
        """Numbers, in this process, of those of the ascending cells `index` that it holds."""
        ...

    def total(self, values: Any) -> Any:
        """Sum of a number or of arrays of one shape."""
        ...

    def mean(self, value: float, weight: float) -> float:
        """Weighted mean of the processes' values."""
        ...

    def joined(self, rows: np.ndarray) -> np.ndarray:
        """Rows of all processes in order, in every process."""
        ...

    def gathered(self, rows: np.ndarray) -> np.ndarray:
        """Rows of all processes in order, in the leader; its own rows in any other."""
        ...

    def collected(self, value: T) -> list[T]:
        """The values of all processes, in every process."""
        ...

    def shared(self, value: T) -> T:
        """The leader's value."""
        ...

    def together(self, work: Callable[[], T]) -> T:
        """What `work` returns; an error in one process is raised in all."""
        ...

    def share(self, model: torch.nn.Module) -> None:
        """Give all processes the leader's weights."""
        ...

    def average_gradients(self, model: torch.nn.Module, n_cells: int) -> None:
        """Replace gradients of the mean over the `n_cells` of a process's batch by those of the
        mean over the cells of all batches.
        """
        ...

    def rng(self, rng: np.random.Generator, seed: int) -> np.random.Generator:
        """A generator of this process; `rng` is one that all use alike."""
        ...

    def seed(self, seed: int) -> int:
        """A seed of this process."""
        ...

    def led(self, products: Products, source: RowSource, work: Callable[[Products], T]) -> T:
        """What `work` returns in the leader, from products of all cells; `products` and `source`
        are of the cells of this process.
        """
        ...


class Alone:
    """One process with all cells."""

    rank, size, leads = 0, 1, True

    def bounds(self, n_cells: int) -> np.ndarray:
        """See `Team`."""
        return np.array([0, n_cells])

    def local(self, index: np.ndarray, n_cells: int) -> np.ndarray:
        """See `Team`."""
        return index

    def total(self, values: Any) -> Any:
        """See `Team`."""
        return values

    def mean(self, value: float, weight: float) -> float:
        """See `Team`."""
        return value

    def joined(self, rows: np.ndarray) -> np.ndarray:
        """See `Team`."""
        return rows

    def gathered(self, rows: np.ndarray) -> np.ndarray:
        """See `Team`."""
        return rows

    def collected(self, value: T) -> list[T]:
        """See `Team`."""
        return [value]

    def shared(self, value: T) -> T:
        """See `Team`."""
        return value

    def together(self, work: Callable[[], T]) -> T:
        """See `Team`."""
        return work()

    def share(self, model: torch.nn.Module) -> None:
        """See `Team`."""

    def average_gradients(self, model: torch.nn.Module, n_cells: int) -> None:
        """See `Team`."""

    def rng(self, rng: np.random.Generator, seed: int) -> np.random.Generator:
        """See `Team`."""
        return rng

    def seed(self, seed: int) -> int:
        """See `Team`."""
        return seed

    def led(self, products: Products, source: RowSource, work: Callable[[Products], T]) -> T:
        """See `Team`."""
        return work(products)


ALONE = Alone()
