"""Matrices larger than memory, handed from a stage to `io` as blocks of rows."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from scale_toolkit.threads import available_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    import numpy as np
    from scipy import sparse

Made = TypeVar("Made")
From = TypeVar("From")


class RowBlocks(Protocol):
    """A cells × peaks matrix made block by block, in row order; `io` writes each block and forgets
    it.

    It may also have ``all_ones`` (every stored value of a CSR is 1, and need not be written) and
    ``n_threads`` (how many threads may compress it, 0 for one a core; without it one).
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    format: Literal["dense", "csr"]

    def blocks(self) -> Iterator[np.ndarray[Any, Any] | sparse.csr_matrix]:
        """Yield consecutive blocks of rows that together have `shape`; may be called again for a
        second pass.
        """
        ...


def in_order(make: Callable[[From], Made], items: Iterable[From], n_threads: int) -> Iterator[Made]:
    """Yield ``make(item)`` for each, in order; `n_threads` of them are made while the one before
    is used (0: one a core, which is also the most).
    """
    # more threads than cores would only hold more blocks in memory
    n_threads = min(n_threads or available_cores(), available_cores())
    if n_threads == 1:
        # a budget of one thread leaves none that could compute ahead
        yield from map(make, items)
        return
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                del item
                if len(waiting) > n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
