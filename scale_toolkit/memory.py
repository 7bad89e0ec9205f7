"""How much memory this job may still use, and a refusal with figures where something cannot fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from scale_toolkit.errors import MemoryLimitError

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def available(proc: Path = _PROC, cgroup: Path = _CGROUP) -> tuple[int, str] | None:
    """Bytes this process may still take, and what sets the bound; None where the system does not
    tell.

    The least of: the limits of its cgroups (version 1 or 2: Slurm, Docker, Kubernetes) less what
    they hold besides the page cache, the machine's available memory and swap, and the limit on
    address space (``ulimit -v``).
    """
    found = [*_of_cgroups(proc, cgroup)]
    with contextlib.suppress(OSError, KeyError, ValueError):
        table = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
        free = sum(int(table[name].split()[0]) for name in ("MemAvailable", "SwapFree")) * 1024
        found.append((free, "what this machine has free"))
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int((proc / "self" / "statm").read_text().split()[0])
            found.append((limit - pages * resource.getpagesize(), "ulimit -v"))
    return min(found) if found else None


def _of_cgroups(proc: Path, cgroup: Path) -> list[tuple[int, str]]:
    try:
        lines = [line.split(":", 2) for line in (proc / "self" / "cgroup").read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in lines:
        if controllers == "":
            root, limit_file, held = cgroup, "memory.max", "anon"
        elif "memory" in controllers.split(","):
            root, limit_file, held = cgroup / "memory", "memory.limit_in_bytes", "total_rss"
        else:
            continue
        own = root / path.lstrip("/")
        # the limit of any cgroup above holds too; in a container the path may be the host's, and
        # the root its own
        for place in (own, *own.parents):
            if place.is_relative_to(root):
                with contextlib.suppress(OSError, ValueError, KeyError):
                    limit = int((place / limit_file).read_text())  # "max": no limit
                    stat = dict(
                        line.split() for line in (place / "memory.stat").read_text().splitlines()
                    )
                    if limit < 1 << 60:
                        found.append((limit - int(stat[held]), "the limit of this job's cgroup"))
    return found


@contextlib.contextmanager
def bounded(extra: int) -> Iterator[None]:
    """Let this process take at most `extra` bytes of address space more than it has, where the
    system can hold it to that.

    Damaged HDF5 can make its library ask for memory without an end: it is then refused, instead of
    all that the machine has.
    """
    try:
        import resource

        before = resource.getrlimit(resource.RLIMIT_AS)
        pages = int((_PROC / "self" / "statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + extra
        if before[0] != resource.RLIM_INFINITY:
            limit = min(limit, before[0])
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    except (ImportError, OSError, ValueError, IndexError):
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def check_fits(size: float, what: str, do: str) -> None:
    """Refuse what takes more bytes than this job may use.

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
