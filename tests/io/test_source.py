"""Input that cannot be opened, and text without an end."""

import os
import threading
from pathlib import Path

import pytest

from scale_toolkit.errors import InputError
from scale_toolkit.io import source
from scale_toolkit.io.hdf5 import open_hdf5


def test_a_file_that_may_not_be_opened_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "counts.tsv"
    path.write_text("a\n")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with (
        pytest.raises(InputError, match=r"counts.tsv cannot be read \(Permission denied\)"),
        source.open_source(str(path)),
    ):
        pass


def test_a_line_without_an_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "LONGEST_LINE", 10)
    path = tmp_path / "peaks.bed"
    path.write_text("chr1\t1\t2\nchr1\t1000000\t2000000\n")
    with (
        source.open_text(str(path)) as lines,
        pytest.raises(InputError, match="has a line of more than 10 characters"),
    ):
        list(iter(lines.readline, ""))


def test_an_empty_named_pipe_is_one_line(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.open("wb").close())
    writer.start()
    with pytest.raises(InputError, match=r"pipe is empty \(0 bytes\); check the command"), source.open_source(pipe):
        pass
    writer.join()


def test_what_is_opened_as_hdf5_and_is_none(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"text " * 200)
    with (
        pytest.raises(InputError, match="is not an HDF5 file; expected an h5ad; other formats enter"),
        open_hdf5(tmp_path / "a.h5", "a.h5"),
    ):
        pass
