"""Show how far the work has come: a bar on a terminal or in a notebook, else a line now and then.

Both have a label, the count of what is done, its total as soon as the stage reports one, and the
time elapsed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

Progress = Callable[[str, int, int], None]

#: Seconds between two lines if nothing can be redrawn (a log file, a pipe).
LINE_SECONDS = 30.0


@contextlib.contextmanager
def bar(label: str = "") -> Iterator[Progress]:
    """Yield ``progress(message, done, total)``; a bar on stderr that disappears at the end.

    Nothing is drawn if stderr is neither a terminal nor a notebook.

    Parameters
    ----------
    label
        Shown from the beginning, before the first call, and in front of every message.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar
    from rich.text import Text

    class Count(ProgressColumn):
        def render(self, task: Task) -> Text:
            # before the stage has reported its total, "0/?" would say nothing
            return Text(
                "" if task.total is None else f"{int(task.completed):,}/{int(task.total):,}"
            )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        Count(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    drawn = console.is_terminal or console.is_jupyter
    with Bar(
        *columns, console=console, transient=True, redirect_stdout=False, disable=not drawn
    ) as display:
        task = display.add_task(label, total=None)
        yield lambda message, done, total: display.update(
            task, description=labelled(label, message), completed=done, total=total or None
        )


class Lines:
    """Write a line every `seconds` while a stage works, also if the stage itself reports nothing.

    Parameters
    ----------
    write
        Called with the line, the count that is done and its total (0 if unknown).
    label
        What works.
    seconds
        Between two lines; the first comes after this time, so that a short stage writes none.
    """

    def __init__(
        self, write: Callable[[str, int, int], None], label: str, seconds: float = LINE_SECONDS
    ) -> None:
        self._write, self._label, self._seconds = write, label, seconds
        self._message, self._done, self._total = "", 0, 0
        self._started, self._ended = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="scale-progress", daemon=True)

    def __enter__(self) -> Lines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def __call__(self, message: str, done: int, total: int) -> None:
        """Note how far the work has come; the next line shows it."""
        self._message, self._done, self._total = message, done, total

    def line(self) -> str:
        """Return what is known now: ``train: loss 512.3, 12/60, 1 min 30 s``."""
        count = f"{self._done:,}/{self._total:,}" if self._total else ""
        facts = (
            labelled(self._label, self._message),
            count,
            duration(time.monotonic() - self._started),
        )
        return ", ".join(fact for fact in facts if fact)

    def _run(self) -> None:
        while not self._ended.wait(self._seconds):
            self._write(self.line(), self._done, self._total)


def labelled(label: str, message: str) -> str:
    """Return the message behind its label, or the one of them that is not empty."""
    return f"{label}: {message}" if label and message else label or message


def duration(seconds: float) -> str:
    """Return a time as a person writes it: ``40 s``, ``1 min 30 s``, ``2 h 5 min``."""
    minutes, remaining = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {remaining} s" if minutes else f"{remaining} s"
