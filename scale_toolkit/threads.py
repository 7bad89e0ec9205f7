"""Number of CPU cores this job may use, and limits on the threads of the libraries underneath."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


#: More threads than this, or than there are cores, are never started: a replay of a receipt from
#: a larger machine keeps its number, a wrong number in a file does no harm.
MOST_THREADS = 256


def available_cores() -> int:
    """Return the number of cores this process may run on, which a scheduler or container may
    limit.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def limited_threads(n_threads: int) -> Iterator[int]:
    """Limit BLAS, OpenMP, numba and (if loaded) torch to `n_threads` threads.

    Parameters
    ----------
    n_threads
        Largest number of threads, at most `MOST_THREADS`; 0 means all cores available to the job.

    Yields
    ------
    int
        The number of threads in use.
    """
    from threadpoolctl import threadpool_limits

    threads = min(n_threads or available_cores(), max(MOST_THREADS, available_cores()))
    restore: list[tuple[Callable[[int], Any], int]] = []
    # only if a stage has loaded it: core and io, which count cores here, do without torch
    torch = sys.modules.get("torch")
    # read before numba starts its threads, which changes torch's number where both use OpenMP
    torch_threads = 0 if torch is None else torch.get_num_threads()
    if "numba" in sys.modules:
        import numba

        restore.append((numba.set_num_threads, numba.get_num_threads()))
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    if torch is not None:
        restore.append((torch.set_num_threads, torch_threads))
        torch.set_num_threads(threads)
    try:
        with threadpool_limits(limits=threads):
            yield threads
    finally:
        for set_threads, number in restore:
            set_threads(number)


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Limit NumPy's and SciPy's BLAS to one thread, for work on many small matrices.

    After each product the other threads of OpenBLAS wait busily for the next one, and take the
    cores from numba's and torch's threads: a mixture of 30 components took 2.6 times the processor
    time on two threads, and no less time. torch has a BLAS of its own.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield
