"""The memory that this job may still use, and errors for work that cannot fit."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from scale_toolkit.errors import MemoryLimitError, OptionError

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)I?B?", re.IGNORECASE)
#: Less than this is refused: Python with torch, scanpy and one block of rows takes about as much.
LEAST_PROMISE = 1 << 30
_promise: int | None = None
_sharers = 1
#: The limit on address space outside of `bounded`; None outside of it.
_outer_limit: int | None = None


@contextlib.contextmanager
def limited_memory(size: str | int | None) -> Iterator[None]:
    """Keep what this process holds below a limit: larger matrices go to temporary files in TMPDIR.

    The results are the same. The limit holds for memory that is not the system's page cache, as a
    cgroup's limit does.

    Parameters
    ----------
    size
        Bytes, or a number with a unit of 1,024: ``"4G"``, ``"1500M"``. None: what is free.

    Raises
    ------
    OptionError
        Not a size, or less than `LEAST_PROMISE`.
    """
    global _promise
    outer_promise = _promise
    if size is not None:
        _promise = as_bytes(size)
    try:
        yield
    finally:
        _promise = outer_promise


@contextlib.contextmanager
def shared_among(n_processes: int) -> Iterator[None]:
    """Keep to a share of `limited_memory`, and of what is free: as many processes of one job run on
    this machine.
    """
    global _sharers
    previous, _sharers = _sharers, n_processes
    try:
        yield
    finally:
        _sharers = previous


def as_bytes(size: str | int) -> int:
    """Return the bytes of ``"4G"``."""
    match = _SIZE.fullmatch(str(size).strip())
    n_bytes = int(float(match[1]) * _UNITS[match[2].upper()]) if match else -1
    if n_bytes < LEAST_PROMISE:
        raise OptionError(
            f"memory is {size!r}",
            f"a size of {LEAST_PROMISE >> 30}G or more, such as 4G or 1500M",
            "use a larger limit, or drop it: the default is what is free",
        )
    return n_bytes


def available(proc: Path = _PROC, cgroup: Path = _CGROUP) -> tuple[int, str] | None:
    """Return the bytes that this process may still use and the origin of the bound; None if
    unknown.

    The least of: the limits of its cgroups (version 1 or 2: Slurm, Docker, Kubernetes) less what
    they hold besides the page cache, the machine's available memory and swap, the limit on
    address space (``ulimit -v``), and `limited_memory`.
    """
    bounds = [(size // _sharers, bound) for size, bound in _of_cgroups(proc, cgroup)]
    if _promise is not None:
        bounds.append((_promise // _sharers - _held(proc), "--memory"))
    with contextlib.suppress(OSError, KeyError, ValueError):
        table = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
        free = sum(int(table[name].split()[0]) for name in ("MemAvailable", "SwapFree")) * 1024
        bounds.append((free // _sharers, "what this machine has free"))
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0] if _outer_limit is None else _outer_limit
        if limit != resource.RLIM_INFINITY:
            pages = int((proc / "self" / "statm").read_text().split()[0])
            bounds.append((limit - pages * resource.getpagesize(), "ulimit -v"))
    return min(bounds) if bounds else None


def _held(proc: Path) -> int:
    """Bytes of memory that this process holds besides mapped files; 0 if unknown."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = (proc / "self" / "status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
    return 0


def _of_cgroups(proc: Path, cgroup: Path) -> list[tuple[int, str]]:
    try:
        lines = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return []
    bounds = []
    for _, controllers, path in lines:
        if controllers == "":
            root, limit_file, held = cgroup, "memory.max", "anon"
        elif "memory" in controllers.split(","):
            root, limit_file, held = cgroup / "memory", "memory.limit_in_bytes", "total_rss"
        else:
            continue
        job_folder = root / path.lstrip("/")
        # limits of all parent cgroups apply too; in a container the path may be the host's, and the
        # root the container's own
        for folder in (job_folder, *job_folder.parents):
            if folder.is_relative_to(root):
                with contextlib.suppress(OSError, ValueError, KeyError):
                    # "max": no limit
                    limit = int((folder / limit_file).read_text())
                    stat = dict(
                        line.split() for line in (folder / "memory.stat").read_text().splitlines()
                    )
                    if limit < 1 << 60:
                        bounds.append((limit - int(stat[held]), "the limit of this job's cgroup"))
    return bounds


@contextlib.contextmanager
def bounded(extra: int) -> Iterator[None]:
    """Limit this process to `extra` more bytes of address space, if the system supports it.

    Damaged HDF5 files can make the library request unlimited memory: the request is then refused
    before it exhausts the machine. `available` does not count this limit.
    """
    global _outer_limit
    try:
        import resource

        previous = resource.getrlimit(resource.RLIMIT_AS)
        pages = int((_PROC / "self" / "statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + extra
        if previous[0] != resource.RLIM_INFINITY:
            limit = min(limit, previous[0])
        resource.setrlimit(resource.RLIMIT_AS, (limit, previous[1]))
    except (ImportError, OSError, ValueError, IndexError):
        yield
        return
    outer = _outer_limit
    _outer_limit = previous[0] if outer is None else outer
    try:
        yield
    finally:
        _outer_limit = outer
        resource.setrlimit(resource.RLIMIT_AS, previous)


def check_fits(size: float, what: str, do: str) -> None:
    """Refuse work that takes more bytes than this job may use.

    Parameters
    ----------
    size
        Bytes it takes at least.
    what
        What takes them, for the message: ``reading cells.h5ad``.
    do
        What to do instead.

    Raises
    ------
    MemoryLimitError
        It cannot fit.
    """
    bound = available()
    if bound is not None and size > bound[0]:
        raise MemoryLimitError(
            f"{what} takes at least {_gigabytes(size)} of memory, and "
            f"{_gigabytes(max(bound[0], 0))} are left ({bound[1]})",
            "a job that fits",
            do,
        )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
