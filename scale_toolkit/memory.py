"""The memory that this job may still use, and errors for work that cannot fit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from scale_toolkit.errors import MemoryLimitError

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def available(proc: Path = _PROC, cgroup: Path = _CGROUP) -> tuple[int, str] | None:
    """Return the bytes that this process may still use and the origin of the bound; None if
    unknown.

    The least of: the limits of its cgroups (version 1 or 2: Slurm, Docker, Kubernetes) less what
    they hold besides the page cache, the machine's available memory and swap, and the limit on
    address space (``ulimit -v``).
    """
    bounds = [*_of_cgroups(proc, cgroup)]
    with contextlib.suppress(OSError, KeyError, ValueError):
        table = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
        free = sum(int(table[name].split()[0]) for name in ("MemAvailable", "SwapFree")) * 1024
        bounds.append((free, "what this machine has free"))
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            pages = int((proc / "self" / "statm").read_text().split()[0])
            bounds.append((limit - pages * resource.getpagesize(), "ulimit -v"))
    return min(bounds) if bounds else None


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
    before it exhausts the machine.
    """
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
    try:
        yield
    finally:
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
