"""A bar of progress with the time left, on a terminal or in a notebook."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Progress = Callable[[str, int, int], None]


@contextlib.contextmanager
def bar() -> Iterator[Progress]:
    """Yield ``progress(message, done, total)``; what is drawn on stderr disappears at the end, and a file gets nothing."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    seen = console.is_terminal or console.is_jupyter
    with Bar(*columns, console=console, transient=True, redirect_stdout=False, disable=not seen) as shown:
        task = shown.add_task("", total=None)
        yield lambda message, done, total: shown.update(task, description=message, completed=done, total=total)
