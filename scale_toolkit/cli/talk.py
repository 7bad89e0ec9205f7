"""Messages of a command: progress, information, warnings and errors, all on stderr."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

from scale_toolkit.bars import LINE_SECONDS, Lines, Progress, bar, labelled
from scale_toolkit.cli.spelling import as_typed
from scale_toolkit.errors import ScaleWarning

_SECONDS_BETWEEN_LINES = 1.0


class Talk:
    """The messages of one command.

    Parameters
    ----------
    quiet
        Show only warnings and errors.
    json_logs
        One JSON object a line, with ``level`` and ``message``.
    debug
        Let other libraries' warnings and prints through, and show the traceback of an error.
    """

    def __init__(
        self, *, quiet: bool = False, json_logs: bool = False, debug: bool = False
    ) -> None:
        self.quiet, self.json_logs, self.debug = quiet, json_logs, debug
        self.stdout = sys.stdout
        self.verbose = False
        #: Keyword -> flag of this command.
        self.spellings: dict[str, str] = {}
        #: The command's name, in front of its progress.
        self.label = ""
        self.line_seconds = LINE_SECONDS

    def binary_stdout(self) -> BinaryIO | None:
        """Return the process's stdout for h5ad bytes, which `listening` replaces for prints."""
        return getattr(self.stdout, "buffer", None)

    @contextlib.contextmanager
    def listening(self) -> Iterator[Talk]:
        """Carry warnings and log records to stderr, and keep stdout free of anything but the
        result.
        """
        handler = _Handler(self)
        package = logging.getLogger("scale_toolkit")
        level, propagate = package.level, package.propagate
        silent = sys.stderr if self.debug else io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            stack.enter_context(contextlib.redirect_stdout(silent))
            warnings.simplefilter("default" if self.debug else "ignore")
            warnings.simplefilter("always", ScaleWarning)
            warnings.showwarning = self._show_warning
            # h5py prints a traceback for every object it cannot close on a full disk
            if not self.debug:
                stack.enter_context(_replaced(sys, "excepthook", lambda *_: None))
                stack.enter_context(_replaced(sys, "unraisablehook", lambda *_: None))
            package.addHandler(handler)
            package.setLevel(
                logging.DEBUG if self.debug else logging.WARNING if self.quiet else logging.INFO
            )
            package.propagate = False
            try:
                yield self
            finally:
                package.removeHandler(handler)
                package.setLevel(level)
                package.propagate = propagate

    def say(self, level: str, message: str, **facts: Any) -> None:
        """Write one line: ``warning: ...``, ``error: ...``, or for ``info`` the bare message."""
        line = as_typed(" ".join(message.split()), self.spellings)
        if self.json_logs:
            line = json.dumps({"level": level, "message": line, **facts}, ensure_ascii=False)
        elif level != "info":
            line = f"{level}: {line}"
        with contextlib.suppress(BrokenPipeError):
            print(line, file=sys.stderr, flush=True)

    def info(self, message: str, **facts: Any) -> None:
        """Show information for the user."""
        if not self.quiet:
            self.say("info", message, **facts)

    def error(self, error: BaseException, message: str, exit_code: int) -> None:
        """Report why the command ends, with the traceback if ``--debug`` is given."""
        if self.debug:
            traceback.print_exception(error, file=sys.stderr)
        self.say("error", message, exit_code=exit_code)

    def show(self, table: Any, facts: dict[str, Any]) -> None:
        """Print a rich renderable, or the same as a line of JSON."""
        if self.json_logs:
            self.info("result", **facts)
        elif not self.quiet:
            from rich.console import Console

            Console(stderr=True, highlight=False).print(table)

    @contextlib.contextmanager
    def progress(self, label: str = "") -> Iterator[Progress]:
        """Yield ``progress(message, done, total)`` for one stage.

        A bar on a terminal; with ``--verbose`` and ``--json-logs`` a line for every step; else, in
        a log file, a line every 30 seconds, so that a long stage does not look as if it had
        stopped.

        Parameters
        ----------
        label
            What works; left out, the name of the command.
        """
        label = label or self.label
        every_step = self.json_logs or self.verbose
        if self.quiet:
            yield lambda message, done, total: None
        elif sys.stderr.isatty() and not every_step:
            with bar(label) as progress:
                yield progress
        else:
            with Lines(self._progress_line, label, self.line_seconds) as lines:
                yield self._steps(label, lines) if every_step else lines

    def _steps(self, label: str, lines: Lines) -> Progress:
        """Write a line for each step, for ``--json-logs`` at most one per second."""
        last = -_SECONDS_BETWEEN_LINES

        def progress(message: str, done: int, total: int) -> None:
            nonlocal last
            lines(message, done, total)
            seconds = time.monotonic()
            if self.verbose or done >= total or seconds - last >= _SECONDS_BETWEEN_LINES:
                last = seconds
                self._progress_line(labelled(label, message), done, total)

        return progress

    def _progress_line(self, message: str, done: int, total: int) -> None:
        self.say("progress" if self.json_logs else "info", message, done=done, total=total)

    def _show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        origin = (
            ""
            if issubclass(category, ScaleWarning)
            else (f" ({category.__name__}, {filename}:{lineno})")
        )
        self.say("warning", f"{message}{origin}")


@contextlib.contextmanager
def _replaced(place: Any, name: str, value: Any) -> Iterator[None]:
    previous = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, previous)


class _Handler(logging.Handler):
    """Show the package's log records."""

    def __init__(self, talk: Talk) -> None:
        super().__init__()
        self._talk = talk

    def emit(self, record: logging.LogRecord) -> None:
        self._talk.say(record.levelname.lower(), record.getMessage())
