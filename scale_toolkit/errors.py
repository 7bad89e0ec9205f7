"""The errors a user can meet: one line that says what was found, what was expected and what to
do next.
"""

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
        What was expected instead; may be empty where `found` says it.
    do
        What to do next: a command, an option, or what to look at.
    """

    exit_code = 1

    def __init__(self, found: str, expected: str = "", do: str = "") -> None:
        self.found, self.expected, self.do = found, expected, do
        parts = [found, f"expected {expected}" if expected else "", do]
        super().__init__("; ".join(part for part in parts if part))


class UsageError(ScaleError):
    """The words of the call are off (exit code 2)."""

    exit_code = 2


class OptionError(UsageError, ValueError):
    """An option's value is out of range or unknown."""


class InputError(ScaleError):
    """An input file or matrix is not what it should be."""


class MissingSlotError(ScaleError, KeyError):
    """An AnnData lacks a slot that an earlier stage writes."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


class NothingLeftError(ScaleError):
    """A filter removed every cell or every peak."""


class DeviceError(ScaleError):
    """The device asked for is not there."""


class TrainingError(ScaleError):
    """Training met a value that is not a number."""


class MemoryLimitError(ScaleError):
    """The work takes more memory than the job may use; told before it begins."""


class NotReproducedError(ScaleError):
    """A result's receipts, done again, gave something else."""


class ScaleWarning(UserWarning):
    """Something the user should know that does not stop the work; always one line."""


def warn(message: str) -> None:
    """Issue a `ScaleWarning` that points to the line outside this package which called it."""
    # Python 3.12 has skip_file_prefixes for this; 3.11 needs the level
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    warnings.warn(message, ScaleWarning, stacklevel=level)


_PACKAGE = __file__.removesuffix("errors.py")
