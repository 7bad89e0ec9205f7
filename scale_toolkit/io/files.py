"""Files and streams, for all readers and writers: atomic output, and seekable copies of pipes."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import platform
import re
import select
import shutil
import stat
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO

from scale_toolkit.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STREAM = "-"
_BLOCK = 1 << 20
_UMASK = threading.Lock()
_LOCK = "lock"
_PRIVATE = re.compile(
    r"\..*\.scale-(?P<machine>[0-9a-f]{8})-(?P<process>\d{1,10})-[^.-]+", re.DOTALL
)
_SECONDS_HERE, _SECONDS_ELSEWHERE = 60, 86400

#: Name of the replaced folder inside a private one, while neither has the final name (see
#: `private_folder`).
MOVED_ASIDE = "old"


def is_stream(place: str | os.PathLike[str]) -> bool:
    """Return whether `place` is ``-``: standard input for reading, standard output for writing."""
    return os.fspath(place) == STREAM


def is_zarr(place: str | os.PathLike[str]) -> bool:
    """Whether the name asks for a zarr store, which is a folder."""
    return os.fspath(place).rstrip("/").endswith(".zarr")


def _is_store(folder: Path) -> bool:
    return any((folder / name).exists() for name in (".zgroup", "zarr.json")) or not any(
        folder.iterdir()
    )


def check_destination(
    destination: str | os.PathLike[str],
    sources: Iterable[str | os.PathLike[str]] = (),
    *,
    stdin: BinaryIO | None = None,
    stdout: BinaryIO | None = None,
) -> None:
    """Refuse a destination that cannot work, before any work is done.

    Parameters
    ----------
    destination
        A path, or ``-`` for standard output.
    sources
        The inputs, paths or ``-``: none may be the destination under another name (symbolic or hard
        link, redirection).
    stdin, stdout
        Streams to use instead of the process's own.

    Raises
    ------
    UsageError
        For a terminal on stdout, a missing folder, a folder as destination (unless it is a zarr
        store and ``*.zarr``), or a destination that is an input.
    """
    if is_stream(destination):
        target = status_of(output_stream(stdout))
    else:
        path = Path(destination)
        if is_zarr(path):
            if path.exists() and not (path.is_dir() and _is_store(path)):
                raise UsageError(
                    f"{path} is not a zarr store",
                    "a name that is free, or a store to replace",
                    "choose another -o",
                )
        elif path.is_dir():
            raise UsageError(
                f"the output {path} is a folder", "a file", f"for example -o {path / 'cells.h5ad'}"
            )
        if not path.parent.is_dir():
            raise UsageError(
                f"the output folder {path.parent} does not exist",
                "",
                f"make it first: mkdir -p {path.parent}",
            )
        target = path.stat() if path.exists() else None
    if target is None or not (stat.S_ISREG(target.st_mode) or stat.S_ISDIR(target.st_mode)):
        return
    for source in sources:
        if is_stream(source):
            status = status_of(stdin if stdin is not None else sys.stdin)
        else:
            status = Path(source).stat() if Path(source).exists() else None
        if status is not None and os.path.samestat(status, target):
            raise same_file(destination)


def same_file(destination: str | os.PathLike[str]) -> UsageError:
    """The error for a destination that is also an input."""
    name = "standard output" if is_stream(destination) else os.fspath(destination)
    return UsageError(
        f"{name} is also the input", "another file for the result", "choose another -o"
    )


@contextmanager
def atomic(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a private path (mode 0600, same suffix) beside `destination`; on success flush it to
    disk and rename it there.

    On an error the private file is removed and `destination` stays as it was. A destination that is
    not a regular file (``/dev/stdout``, a named pipe) gets the bytes copied instead.
    """
    # a symbolic link stays, its target is replaced
    final = Path(os.path.realpath(destination))
    if final.is_dir():
        raise UsageError(f"the output {destination} is a folder", "a file")
    special = final.exists() and not final.is_file()
    parent_folder = Path(tempfile.gettempdir()) if special else final.parent
    if not parent_folder.is_dir():
        raise UsageError(
            f"the output folder {parent_folder} does not exist",
            "",
            f"make it first: mkdir -p {parent_folder}",
        )
    with private_folder(parent_folder, final.name) as folder:
        private = folder / f"new{final.suffix[-20:]}"
        os.close(os.open(private, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        yield private
        if special:
            with private.open("rb") as new_file, final.open("wb") as sink:
                shutil.copyfileobj(new_file, sink, _BLOCK)
            return
        with private.open("rb+") as new_file:
            os.fsync(new_file.fileno())
        private.chmod(0o666 & ~_umask())
        private.replace(final)
        flush(parent_folder)


@contextmanager
def private_folder(place: Path, name: str) -> Iterator[Path]:
    """Yield a new folder (mode 0700) in `place` for what becomes `place` / `name`; it is removed at
    the end.

    Its name contains machine and process, and a lock in it is held as long as it is needed, so that
    the next process that writes into `place` can remove the folders of killed processes and leave
    those of running ones.
    """
    sweep(place)
    folder = Path(
        tempfile.mkdtemp(dir=place, prefix=f".{name[:40]}.scale-{_machine()}-{os.getpid()}-")
    )
    lock = None
    try:
        lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        # a file system without locks: machine and process identify the owner
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(lock, os.fsencode(name))
        yield folder
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def sweep(place: Path) -> None:
    """Remove the private folders in `place` whose processes have ended, and restore the folders
    that they had moved aside.
    """
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        private_folders = [
            (Path(entry.path), match)
            for entry in entries
            if (match := _PRIVATE.fullmatch(entry.name))
        ]
        for folder, match in private_folders:
            with contextlib.suppress(OSError):
                if _is_abandoned(folder, match["machine"], int(match["process"])):
                    name = (
                        os.fsdecode((folder / _LOCK).read_bytes())
                        if (folder / _LOCK).exists()
                        else ""
                    )
                    if (
                        (folder / MOVED_ASIDE).exists()
                        and name
                        and not os.path.lexists(place / name)
                    ):
                        (folder / MOVED_ASIDE).rename(place / name)
                    shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path, machine: str, process: int) -> bool:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return False
    if machine == _machine() and not _is_alive(process):
        return True
    # Another machine, or a reused process number: abandoned if it is long untouched and its lock is
    # free.
    newest = max([status.st_mtime, *(child.lstat().st_mtime for child in folder.iterdir())])
    if time.time() - newest < (_SECONDS_HERE if machine == _machine() else _SECONDS_ELSEWHERE):
        return False
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # killed before it had a lock
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    # Z: a zombie has ended, and its parent has not collected it yet
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


@functools.cache
def _machine() -> str:
    """Return eight hex digits for the space of process numbers: this boot of this machine, or this
    container.
    """
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts += [
            Path("/proc/sys/kernel/random/boot_id").read_text(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return blake2b("\n".join(parts).encode(), digest_size=4).hexdigest()


def write_bytes(destination: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to the file `destination`, completely or not at all."""
    with atomic(destination) as private:
        private.write_bytes(data)


@contextmanager
def unlinked(*, buffering: int = -1) -> Iterator[IO[bytes]]:
    """Yield a temporary file in TMPDIR without a name: it vanishes with the process."""
    with tempfile.TemporaryFile(prefix="scale-", buffering=buffering) as file:
        yield file


def seekable_copy(stream: BinaryIO, spool: IO[bytes]) -> int:
    """Copy `stream` to its end into `spool`, a block at a time; returns the number of bytes."""
    reader = getattr(stream, "raw", stream)
    while True:
        wait_for(reader)
        block = stream.read1(_BLOCK) if hasattr(stream, "read1") else stream.read(_BLOCK)
        if not block:
            break
        spool.write(block)
    spool.flush()
    return spool.tell()


def wait_for(stream: Any) -> None:
    """Wait until `stream` can be read, half a second at a time, so that signals are handled."""
    try:
        while not select.select([stream], [], [], 0.5)[0]:
            pass
    except (OSError, ValueError, TypeError):
        # no descriptor, or one that select cannot wait for: the read itself waits
        return


def copy_to_stdout(file: IO[bytes], stdout: BinaryIO) -> None:
    """Copy `file` from its start to standard output; a reader that has gone away ends the copy
    quietly.
    """
    file.seek(0)
    try:
        shutil.copyfileobj(file, stdout, _BLOCK)
        stdout.flush()
    except BrokenPipeError:
        _silence(stdout)


def input_stream(stdin: BinaryIO | None = None) -> BinaryIO:
    """Return standard input's bytes, or raise `UsageError` if it is a terminal or closed."""
    if stdin is None:
        if sys.stdin is None:
            raise UsageError(
                "standard input is closed", "a file or a pipe", "give the input's path"
            )
        stdin = sys.stdin.buffer
    if stdin.isatty():
        raise UsageError(
            "standard input is a terminal",
            "a file or a pipe",
            "give the input's path or pipe an h5ad in",
        )
    return stdin


def output_stream(stdout: BinaryIO | None = None) -> BinaryIO:
    """Return standard output's bytes, or raise `UsageError` if it is a terminal or closed."""
    stdout = stdout if stdout is not None else _stdout()
    if stdout.isatty():
        raise UsageError(
            "standard output is a terminal",
            "a file or a pipe for h5ad bytes",
            "add -o FILE or pipe on",
        )
    return stdout


def existing_file(path: str | os.PathLike[str]) -> Path:
    """Return `path` as a Path of a readable file that is not empty, or raise `InputError`."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist", "", "check the path")
    if path.is_dir():
        raise InputError(f"{path} is a folder", "a file")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)", "", "check the command that wrote it")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read (no permission)", "", "check its owner and mode")
    return path


def _stdout() -> BinaryIO:
    if sys.stdout is None:
        raise UsageError("standard output is closed", "a file or a pipe", "add -o FILE")
    return sys.stdout.buffer


def status_of(stream: IO[Any] | None) -> os.stat_result | None:
    """The open file's status, or None if it is not a file of the system."""
    try:
        return os.fstat(stream.fileno()) if stream is not None else None
    except (OSError, ValueError):
        return None


def is_regular(stream: IO[bytes]) -> bool:
    """Whether the stream is a file on disk (``> cells.h5ad``) rather than a pipe."""
    status = status_of(stream)
    return status is not None and stat.S_ISREG(status.st_mode)


def _silence(stdout: BinaryIO) -> None:
    """Redirect a stream whose reader has gone to the null device, as Python flushes it at exit."""
    try:
        number = stdout.fileno()
    except (OSError, ValueError):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


def _umask() -> int:
    # the only portable way to read it is to set it
    with _UMASK:
        mask = os.umask(0o077)
        os.umask(mask)
    return mask


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return False if the system cannot, with nothing changed."""
    # RENAME_EXCHANGE, RENAME_SWAP
    swap = 2
    with contextlib.suppress(OSError, AttributeError):
        system = ctypes.CDLL(None)
        names = os.fsencode(first), os.fsencode(second)
        if sys.platform == "darwin":
            return system.renamex_np(*names, swap) == 0
        # AT_FDCWD
        current_folder = -100
        return system.renameat2(current_folder, names[0], current_folder, names[1], swap) == 0
    return False


def flush(folder: Path, *, deep: bool = False) -> None:
    """Flush the names in `folder` to disk; with `deep` also all its files."""
    folders = [(root, names) for root, _, names in os.walk(folder)] if deep else [(str(folder), [])]
    for root, names in folders:
        for path in (*(Path(root, name) for name in names), Path(root)):
            # some file systems cannot open or flush folders; the files are safe without
            with contextlib.suppress(OSError):
                number = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(number)
                finally:
                    os.close(number)
