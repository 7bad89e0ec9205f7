"""Where numba and matplotlib keep things when no place of theirs can be written; for real in tests/pipeline/test_docker.py."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from scale_toolkit.cli.caches import give_caches_a_place

NAMES = ("NUMBA_CACHE_DIR", "MPLCONFIGDIR")


@pytest.fixture
def at_exit(monkeypatch):
    """The environment as it was after the test, and what would have been done at the end of the process."""
    todo = []
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(atexit, "register", lambda function, *given, **named: todo.append((function, given, named)))
    return todo


def test_caches_that_can_be_written_are_left_alone(at_exit, tmp_path):
    os.environ.update(dict.fromkeys(NAMES, str(tmp_path / "not" / "there" / "yet")))
    give_caches_a_place()
    assert {os.environ[name] for name in NAMES} == {str(tmp_path / "not" / "there" / "yet")}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [None, "/dev/null/cache"], ids=["no-variable", "a-variable-that-cannot-be"])
def test_on_a_read_only_root_they_get_a_folder_that_goes_with_the_process(at_exit, monkeypatch, tmp_path, given):
    for name in NAMES:
        os.environ.pop(name, None)
        if given:
            os.environ[name] = given
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    give_caches_a_place()
    folders = {Path(os.environ[name]).parent for name in NAMES}
    assert [folder.parent for folder in folders] == [tmp_path]
    (remove,) = [(given, named) for function, given, named in at_exit if function is shutil.rmtree]
    shutil.rmtree(*remove[0], **remove[1])
    assert not list(tmp_path.iterdir())


def test_a_uid_without_name_home_or_temporary_folder_is_no_error(at_exit, monkeypatch):
    for name in (*NAMES, "HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        os.environ.pop(name, None)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null/nowhere")
    give_caches_a_place()
    assert not any(name in os.environ for name in NAMES)


def test_what_was_compiled_beforehand_is_copied_to_a_folder_of_this_user_alone(at_exit, monkeypatch, tmp_path):
    (tmp_path / "ready" / "umap").mkdir(parents=True)
    (tmp_path / "ready" / "umap" / "a.nbc").write_bytes(b"code")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    os.environ |= {"SCALE_COMPILED": str(tmp_path / "ready"), "MPLCONFIGDIR": str(tmp_path), "NUMBA_CACHE_DIR": ""}
    give_caches_a_place()
    copy = Path(os.environ["NUMBA_CACHE_DIR"])
    assert (copy / "umap" / "a.nbc").read_bytes() == b"code"
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    assert [one.parent for one in (copy.parent, tmp_path / "ready")] == [tmp_path, tmp_path]
    os.environ["NUMBA_CACHE_DIR"] = str(tmp_path / "mine")  # who names a place has chosen
    give_caches_a_place()
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    os.environ |= {"SCALE_COMPILED": str(tmp_path / "gone"), "NUMBA_CACHE_DIR": ""}
    give_caches_a_place()
    assert Path(os.environ["NUMBA_CACHE_DIR"]).parent.parent == tmp_path  # compiled there anew
