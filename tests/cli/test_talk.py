"""What a command says on stderr, and the exit code of each kind of error."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import time
import warnings

import pytest
import typer

from scale_toolkit.bars import duration
from scale_toolkit.cli.outcome import outcome, translated
from scale_toolkit.cli.talk import Talk
from scale_toolkit.errors import DeviceError, MissingSlotError, OptionError, ScaleWarning

log = logging.getLogger("scale_toolkit")


def chatter():
    log.info("an information")
    log.debug("a detail")
    warnings.warn("a warning\nof two lines", ScaleWarning, stacklevel=1)
    warnings.warn("a library's own", FutureWarning, stacklevel=1)
    print("a library's print")


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ({}, ["an information", "warning: a warning of two lines"]),
        ({"quiet": True}, ["warning: a warning of two lines"]),
        (
            {"json_logs": True},
            ['{"level": "info", "message": "an information"}', '{"level": "warning", "message": "a warning of two lines"}'],
        ),
    ],
)
def test_what_is_said(capsys, options, lines):
    with Talk(**options).listening():
        chatter()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == lines


def test_debug_lets_others_speak_on_stderr(capsys):
    with Talk(debug=True).listening():
        chatter()
    out, err = capsys.readouterr()
    assert out == ""
    for part in ("debug: a detail", "warning: a library's own (FutureWarning, ", "a library's print"):
        assert part in err


def test_listening_leaves_no_trace():
    before = (log.level, list(log.handlers), log.propagate, warnings.showwarning)
    with Talk().listening():
        pass
    assert (log.level, list(log.handlers), log.propagate, warnings.showwarning) == before


def test_progress_away_from_a_terminal_is_a_line_per_step_with_verbose_and_json(capsys):
    def said(talk):
        with talk.progress("train") as progress:
            for done in range(1, 4):
                progress(f"epoch {done}", done, 3)
        return capsys.readouterr().err.splitlines()

    assert said(Talk()) == []  # it took less than 30 seconds
    verbose = Talk()
    verbose.verbose = True
    assert said(verbose) == ["train: epoch 1", "train: epoch 2", "train: epoch 3"]
    lines = [json.loads(line) for line in said(Talk(json_logs=True))]
    assert lines[-1] == {"level": "progress", "message": "train: epoch 3", "done": 3, "total": 3}
    assert said(Talk(json_logs=True, quiet=True)) == []


def test_a_long_stage_writes_lines_to_a_log_file_even_if_it_reports_nothing(capsys):
    talk = Talk()
    talk.label, talk.line_seconds = "embed", 0.05
    lines = []
    with talk.progress() as progress:
        while not (lines := lines + capsys.readouterr().err.splitlines()):
            time.sleep(0.01)
        assert re.fullmatch(r"embed, \d+ s", lines[0])
        progress("UMAP layout", 1, 2)
        while not (last := [line for line in capsys.readouterr().err.splitlines() if "UMAP" in line]):
            time.sleep(0.01)
    assert re.fullmatch(r"embed: UMAP layout, 1/2, \d+ s", last[0])
    time.sleep(0.15)
    assert capsys.readouterr().err == ""  # no line after the end
    quiet = Talk(quiet=True)
    quiet.line_seconds = 0.01
    with quiet.progress("train"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.9, "59 s"), (90, "1 min 30 s"), (7500, "2 h 5 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OptionError("n_peaks is 0", "1 or more"), 2, "--n-peaks is 0; expected 1 or more"),
        (DeviceError("no GPU", "one", "use --device auto"), 1, "no GPU; expected one; use --device auto"),
        (MissingSlotError("obsm['X_scale'] is missing"), 1, "obsm['X_scale'] is missing"),
        (typer.BadParameter("no such thing"), 2, "Invalid value: no such thing"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError("cannot allocate 3 GiB"), 1, "out of memory (cannot allocate 3 GiB); use fewer peaks"),
        (OSError(13, "HDF5's long words", "x.h5ad"), 1, "Permission denied: x.h5ad"),
        (ZeroDivisionError("by 0"), 1, "unexpected ZeroDivisionError: by 0; run again with --debug for the traceback"),
    ],
)
def test_errors_become_a_line_and_a_code(capsys, error, code, message):
    assert translated(error, {"n_peaks": "--n-peaks"})[0] == code
    with pytest.raises(typer.Exit) as end, outcome(Talk(), {"n_peaks": "--n-peaks"}):
        raise error
    assert end.value.exit_code == code
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert len(err.splitlines()) == 1


def test_an_error_as_json_and_with_its_traceback(capsys):
    with pytest.raises(typer.Exit), outcome(Talk(json_logs=True)):
        raise DeviceError("no GPU")
    assert json.loads(capsys.readouterr().err) == {"level": "error", "message": "no GPU", "exit_code": 1}
    with pytest.raises(typer.Exit), outcome(Talk(debug=True)):
        raise DeviceError("no GPU")
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_terminal_gets_a_bar():
    """A pseudo-terminal on stderr: the bar shows the message and the count, and is gone at the end."""
    pty = pytest.importorskip("pty")
    code = (
        "from scale_toolkit.cli.talk import Talk\n"
        "import time\n"
        "with Talk().progress('train') as progress:\n"
        "    time.sleep(0.3)\n"
        "    progress('epoch 2, loss 512.3', 2, 4)\n"
    )
    import subprocess
    import sys

    main, worker = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stderr=worker, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}
    )
    out, _ = process.communicate()
    os.close(worker)
    seen = b""
    while True:
        try:
            chunk = os.read(main, 4096)
        except OSError:
            break
        if not chunk:
            break
        seen += chunk
    os.close(main)
    assert out == b""
    assert b"train" in seen[: seen.index(b"epoch 2")]  # before the stage has reported anything
    assert b"/?" not in seen
    assert b"train: epoch 2, loss 512.3" in seen
    assert b"2/4" in seen
    assert b"0:00:00" in seen  # elapsed


def test_a_full_disk_ends_the_process_at_once(capsys, monkeypatch):
    """HDF5 crashes at exit over a file it could not finish; by then temporary files are gone and the line is out."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with pytest.raises(typer.Exit), outcome(Talk()):
        raise OSError(errno.ENOSPC, "HDF5's long words")
    assert codes == [1]
    assert capsys.readouterr().err.startswith("error: No space left on device; make room, or choose another -o")
