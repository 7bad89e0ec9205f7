"""Input that cannot be opened, and text without an end."""

from pathlib import Path

import pytest

from scale_toolkit.errors import InputError
from scale_toolkit.io import source


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
