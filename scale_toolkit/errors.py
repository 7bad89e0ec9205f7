"""Errors for users: one line with what was found, what was expected and what to do next."""

from __future__ import annotations

import sys
import warnings


class ScaleError(Exception):
    """The data or the work failed (exit code 1).

    Parameters
    ----------
    found
        What was found, with the figures.
    expected
        What was expected instead; may be empty if `found` says it.
    do
        What to do next: a command, an option, or what to look at.
    """

    exit_code = 1
    #: Another process, which has the same error, reports it.
    reported = False

    def __init__(self, found: str, expected: str = "", do: str = "") -> None:
        self.found, self.expected, self.do = found, expected, do
        parts = [found, f"expected {expected}" if expected else "", do]
        super().__init__("; ".join(phrase for phrase in parts if phrase))

    def __reduce__(self) -> tuple[type[ScaleError], tuple[str, str, str]]:
        # it travels between processes in its parts
        return type(self), (self.found, self.expected, self.do)


class UsageError(ScaleError):
    """Invalid command line (exit code 2)."""

    exit_code = 2


class OptionError(UsageError, ValueError):
    """An option's value is out of range or unknown."""


class InputError(ScaleError):
    """An input file or matrix is not what it should be."""


class MissingSlotError(ScaleError, KeyError):
    """An AnnData lacks a slot that an earlier stage writes."""

    # KeyError would show the message in quotes
    __str__ = Exception.__str__


class NothingLeftError(ScaleError):
    """A filter removed every cell or every peak."""


class DeviceError(ScaleError):
    """The requested device is not available."""


class TrainingError(ScaleError):
    """Training met a value that is not a number."""


class ProcessLostError(ScaleError):
    """Another of the processes that train one model has ended or cannot be reached."""


class MemoryLimitError(ScaleError):
    """The work takes more memory than the job may use; raised before it begins."""


class NotReproducedError(ScaleError):
    """Replaying a result's receipts gave a different result."""


class ScaleWarning(UserWarning):
    """Something that the user should know and that does not stop the work; always one line."""


def warn(message: str) -> None:
    """Issue a `ScaleWarning` that points to the line outside this package which called it."""
    # Python 3.12 has skip_file_prefixes for this; 3.11 needs the level
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    warnings.warn(message, ScaleWarning, stacklevel=level)


_PACKAGE = __file__.removesuffix("errors.py")
