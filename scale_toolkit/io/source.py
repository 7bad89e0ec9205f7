"""Inputs that are opened once, so that inspecting the first bytes of a pipe does not lose them."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import stat
import zlib
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, TextIO, cast

from scale_toolkit.errors import InputError
from scale_toolkit.io import files

if TYPE_CHECKING:
    from collections.abc import Iterator

_HDF5 = b"\x89HDF\r\n\x1a\n"
_GZIP = b"\x1f\x8b"
# torch saves a zip archive; before 1.6 a pickle of protocol 2
_TORCH = (b"PK\x03\x04", b"\x80\x02")
# First bytes that are inspected: the superblock of HDF5 may follow a user block of 512, 1,024, …
# bytes.
_HEAD = 1 << 16
_STEP = 1 << 20

#: Characters of a line of text, at most: a count table of 50 million cells has longer ones.
LONGEST_LINE = 1 << 27


class Source:
    """An open input: a file, a pipe, a FIFO, ``<(…)`` or standard input.

    Attributes
    ----------
    name
        Its name for messages.
    suffix
        The last suffix of the file name in lower case, without ``.gz``; empty for a pipe.
    head
        Its first bytes.
    path
        Its path, if it is a regular file.
    status
        Status of the open file; None if it is not a file of the system.
    """

    def __init__(self, stream: BinaryIO, name: str, path: Path | None, stack: ExitStack) -> None:
        self.name, self.status = name, files.status_of(stream)
        self.suffix = Path(path.name.lower().removesuffix(".gz")).suffix if path else ""
        self.path, self._stack = path, stack
        if stream.seekable():
            stream.seek(0)
            self.head = stream.read(_HEAD)
            stream.seek(0)
            self._stream = stream
        else:
            # nothing is buffered yet, so the raw stream has all bytes
            raw = cast(BinaryIO, getattr(stream, "raw", stream))
            self.head = _read_fully(raw, _HEAD)
            self._stream = cast(BinaryIO, io.BufferedReader(_Rejoined(self.head, raw), _STEP))

    @property
    def is_gzip(self) -> bool:
        """Whether the content is gzip, whatever the name says."""
        return self.head.startswith(_GZIP)

    @property
    def is_hdf5(self) -> bool:
        """Whether the content, unpacked if it is gzip, is HDF5."""
        head = self._unpacked_head() if self.is_gzip else self.head
        offsets = (0, *(512 << power for power in range(8)))
        return any(head.startswith(_HDF5, offset) for offset in offsets)

    @property
    def is_torch(self) -> bool:
        """Whether the content begins as torch saves a model, whatever the name says."""
        return self.head.startswith(_TORCH)

    def binary(self) -> BinaryIO:
        """Return all the bytes as a stream, from the first one."""
        return self._stream

    def hdf5_file(self) -> Path | BinaryIO:
        """Return what HDF5 can open: the path of a file, or a copy (unlinked, in TMPDIR) of a
        pipe or of gzip.
        """
        if self.is_gzip:
            return self._unpacked()
        if self.path is not None:
            return self.path
        if self._stream.seekable():
            return self._stream
        spool = self._stack.enter_context(files.unlinked())
        files.seekable_copy(self._stream, spool)
        spool.seek(0)
        return cast(BinaryIO, spool)

    def first_lines(self) -> list[str]:
        """Return the first lines of text, unpacked; the last may be cut. Bytes that are not text
        are replaced.
        """
        head = self._unpacked_head() if self.is_gzip else self.head
        return head.decode("utf-8-sig", "replace").splitlines()

    def _unpacked_head(self) -> bytes:
        try:
            return zlib.decompressobj(31).decompress(self.head, _HEAD)
        except zlib.error:
            # damaged: its reader reports it
            return b""

    def _unpacked(self) -> BinaryIO:
        spool = self._stack.enter_context(files.unlinked())
        with whole_gzip(self.name), gzip.open(self._stream) as unpacked:
            shutil.copyfileobj(unpacked, spool, _STEP)
        spool.seek(0)
        return cast(BinaryIO, spool)


class _Rejoined(io.RawIOBase):
    """A stream of the inspected bytes, then of those that follow."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        super().__init__()
        self._head, self._stream = memoryview(head), stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if len(self._head):
            count = min(len(buffer), len(self._head))
            buffer[:count] = self._head[:count]
            self._head = self._head[count:]
            return count
        files.wait_for(self._stream)
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _read_fully(stream: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, or all there are: one read of a pipe gives what its writer wrote at
    once.
    """
    parts: list[bytes] = []
    missing = size
    while missing:
        files.wait_for(stream)
        chunk = stream.read(missing)
        if not chunk:
            break
        parts.append(chunk)
        missing -= len(chunk)
    return b"".join(parts)


@contextmanager
def open_source(
    place: str | os.PathLike[str] | Source, *, stdin: BinaryIO | None = None
) -> Iterator[Source]:
    """Open an input once.

    Parameters
    ----------
    place
        A path, ``-`` for standard input, or a source that is open already.
    stdin
        A binary stream instead of the process's standard input.

    Raises
    ------
    InputError
        It does not exist, is empty, a folder, or cannot be read.
    UsageError
        Standard input is a terminal or closed.
    """
    if isinstance(place, Source):
        yield place
        return
    with ExitStack() as stack:
        if files.is_stream(place):
            source = Source(files.input_stream(stdin), "standard input", None, stack)
            if not source.head:
                raise InputError(
                    "standard input is empty (0 bytes)",
                    "the output of the command before",
                    "look at that command's error above",
                )
        else:
            path = files.existing_file(place)
            try:
                stream = stack.enter_context(path.open("rb"))
                is_regular = files.is_regular(stream)
                source = Source(stream, os.fspath(place), path if is_regular else None, stack)
            except OSError as error:
                raise InputError(
                    f"{place} cannot be read ({error.strerror or error})",
                    "",
                    "check its owner and mode",
                ) from error
            if not source.head:
                raise InputError(
                    f"{place} is empty (0 bytes)", "", "check the command that wrote it"
                )
        yield source


@contextmanager
def open_text(place: str | os.PathLike[str] | Source) -> Iterator[TextIO]:
    """Open text, plain or gzip (by content).

    Raises
    ------
    InputError
        Truncated, damaged or not text, wherever that is met while it is read.
    """
    with open_source(place) as source, whole_gzip(source.name):
        try:
            binary = gzip.open(source.binary()) if source.is_gzip else source.binary()  # noqa: SIM115
            file = _Lines(cast(IO[bytes], binary), source.name)
            try:
                yield file
            finally:
                # the source closes what it has opened
                file.detach()
        except UnicodeDecodeError as error:
            raise InputError(
                f"{source.name} is not text",
                "a text file, plain or gzip",
                "check that this is the right file",
            ) from error


@contextmanager
def whole_gzip(name: str) -> Iterator[None]:
    """Report gzip that ends too early or is damaged."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(
            f"{name} is truncated or damaged gzip",
            "a complete file",
            "regenerate or re-download it",
        ) from error


class _Lines(io.TextIOWrapper):
    """Text whose lines are bounded: a small gzip may unpack to one line without an end."""

    def __init__(self, binary: IO[bytes], name: str) -> None:
        super().__init__(binary, encoding="utf-8-sig", newline="")
        self._name = name

    def readline(self, size: int = -1) -> str:  # type: ignore[override]
        line = super().readline(LONGEST_LINE if size < 0 else size)
        if size < 0 and len(line) == LONGEST_LINE:
            raise InputError(
                f"{self._name} has a line of more than {LONGEST_LINE:,} characters",
                "text in lines",
                "check that it is the right file",
            )
        return line

    def __next__(self) -> str:  # type: ignore[override]
        line = self.readline()
        if not line:
            raise StopIteration
        return line


def is_readable_file(text: str) -> bool:
    """Whether a text that may be words or a path is the path of a file, a pipe or ``<(…)``."""
    try:
        return not stat.S_ISDIR(Path(text).stat().st_mode)
    except (OSError, ValueError):
        # missing, too long for a path, or with a zero byte
        return False
