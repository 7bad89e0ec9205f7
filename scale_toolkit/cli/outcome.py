"""Translate an exception into one line on stderr and an exit code: 0 success, 1 the data or the
work failed, 2 invalid command line.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

import typer

from scale_toolkit.cli.talk import Talk
from scale_toolkit.errors import ScaleError, UsageError

# As in shells: 128 + SIGINT, 128 + SIGPIPE.
INTERRUPTED, BROKEN_PIPE = 130, 141

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: Typer's error for an invalid command line (`ClickException` of the click it uses, bundled or
#: not).
CallError = typer.BadParameter.__mro__[2]


@contextlib.contextmanager
def outcome(talk: Talk, spellings: dict[str, str] | None = None) -> Iterator[None]:
    """Translate whatever the body raises into a message and `typer.Exit`.

    Parameters
    ----------
    talk
        Says the message.
    spellings
        Field name to command-line spelling, for errors that name a field.
    """
    try:
        yield
    except (typer.Exit, SystemExit):
        raise
    except BrokenPipeError:
        _close_stdout()
        raise typer.Exit(BROKEN_PIPE) from None
    except (Exception, KeyboardInterrupt) as error:
        code, message = translated(error, spellings or {})
        talk.error(error, message, code)
        if isinstance(error, OSError) and error.errno in _FULL:
            sys.stderr.flush()
            # HDF5 would crash at exit on the file that it could not finish
            os._exit(code)
        raise typer.Exit(code) from error


def translated(error: BaseException, spellings: dict[str, str]) -> tuple[int, str]:
    """Return the exit code and the one-line message of an error."""
    if isinstance(error, ScaleError):
        return error.exit_code, str(spelled(error, spellings))
    if isinstance(error, CallError):
        return UsageError.exit_code, error.format_message()  # type: ignore[attr-defined]
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, MemoryError):
        detail = f" ({error})" if str(error) else ""
        return 1, (
            f"out of memory{detail}; use fewer peaks (scale select-peaks --n-peaks) or a "
            "machine with more memory"
        )
    if isinstance(error, OSError) and error.errno:
        return 1, _of_the_system(error)
    return 1, (
        f"unexpected {type(error).__name__}: {error}; run again with --debug for the traceback"
    )


def _of_the_system(error: OSError) -> str:
    """Return the operating system's message: HDF5's own takes several lines."""
    message = os.strerror(error.errno or 0) + (f": {error.filename}" if error.filename else "")
    if error.errno in _FULL:
        message += "; make room, or choose another -o (between pipes, another TMPDIR)"
    return message


def spelled(error: ScaleError, spellings: dict[str, str]) -> ScaleError:
    """Name an option as the user types it: ``--n-peaks is 0`` for ``n_peaks is 0``; other errors
    stay as they are.
    """
    name, _, problem = error.found.partition(" ")
    if not isinstance(error, UsageError) or name not in spellings:
        return error
    return UsageError(f"{spellings[name]} {problem}", error.expected, error.do)


def _close_stdout() -> None:
    """Redirect stdout to the null device: its reader has gone, and Python flushes it at exit."""
    if sys.__stdout__ is None:
        return
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
