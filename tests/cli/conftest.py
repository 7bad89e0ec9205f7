"""The command line in this process."""

from __future__ import annotations

import contextlib
import io
import signal

import pytest

from scale_toolkit.cli import app


@pytest.fixture
def scale(tmp_path):
    """Return ``scale(words)``: run the command in `tmp_path`; gives its exit code and what it said on stderr."""

    def call(words: str) -> tuple[int, str]:
        on_term = signal.getsignal(signal.SIGTERM)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(tmp_path), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                app.main(words.split())
            except SystemExit as end:
                code = end.code
            finally:
                signal.signal(signal.SIGTERM, on_term)
        assert out.getvalue() == ""
        return code, err.getvalue()

    return call
