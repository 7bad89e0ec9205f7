import contextlib
import fcntl
import gzip
import io
import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from scale_toolkit.errors import InputError, UsageError
from scale_toolkit.io import files
from scale_toolkit.io.source import open_text


class Terminal(io.BytesIO):
    def isatty(self):
        return True


@pytest.fixture
def umask():
    old = os.umask(0o027)
    yield
    os.umask(old)


def test_a_file_appears_whole_with_the_users_mode(tmp_path, umask):
    target = tmp_path / "model.pt"
    with files.atomic(target) as private:
        assert private.parent.parent == tmp_path
        assert stat.S_IMODE(private.parent.stat().st_mode) == 0o700
        assert private.suffix == ".pt"  # so that a library that goes by the suffix writes the right format
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        private.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [target]


def test_a_failure_leaves_what_was_there(tmp_path):
    target = tmp_path / "a.tsv"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), files.atomic(target) as private:
        private.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


WRITER = """
import sys, time
from scale_toolkit.io import files
from scale_toolkit.io.source import open_text
with files.atomic(sys.argv[1]) as private:
    private.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def writing(target):
    """A process that is half-way through writing `target`."""
    with subprocess.Popen([sys.executable, "-c", WRITER, target], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout.readline() == b"writing\n"
            yield writer
        finally:
            writer.kill()


def test_what_a_killed_process_left_is_gone_with_the_next_write_and_a_living_ones_is_not(tmp_path):
    target = tmp_path / "cells.h5ad"
    target.write_bytes(b"old")
    with writing(target), writing(target) as dead:
        assert len(list(tmp_path.iterdir())) == 3
        dead.kill()
        os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
        assert len(list(tmp_path.iterdir())) == 3
        files.write_bytes(tmp_path / "other.h5ad", b"other")
        left = {path.name for path in tmp_path.iterdir()} - {"cells.h5ad", "other.h5ad"}
        assert len(left) == 1
        assert str(dead.pid) not in left.pop()
        assert target.read_bytes() == b"old"
    files.write_bytes(target, b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.h5ad", "other.h5ad"]


@pytest.mark.parametrize(
    ("machine", "process", "hours", "locked", "stays"),
    [
        ("other", 1, 0, False, True),  # may be at work on another machine of the cluster
        ("other", 1, 30, True, True),  # long untouched and still held
        ("other", 1, 30, False, False),
        ("own", "this", 0, False, True),
        ("own", "this", 1, True, True),
        ("own", "this", 1, False, False),  # its number was given again
        ("own", 2**31 - 1, 0, False, False),
    ],
)
def test_a_private_folder_is_swept_where_its_process_has_ended(tmp_path, machine, process, hours, locked, stays):
    name = files._machine() if machine == "own" else "0123abcd"
    process = os.getpid() if process == "this" else process
    folder = tmp_path / f".cells.h5ad.scale-{name}-{process}-x1"
    folder.mkdir()
    (folder / "new.h5ad").write_bytes(b"half")
    (folder / "lock").write_bytes(b"cells.h5ad")
    then = time.time() - 3600 * hours
    with (folder / "lock").open("rb+") as lock:
        if locked:
            fcntl.flock(lock, fcntl.LOCK_EX)
        for path in (folder / "new.h5ad", folder / "lock", folder):
            os.utime(path, (then, then))
        files.sweep(tmp_path)
    assert folder.exists() is stays


def test_what_looks_alike_is_not_swept(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "keep").write_bytes(b"mine")
    (tmp_path / f".a.scale-{files._machine()}-2147483647-x").symlink_to("elsewhere")
    (tmp_path / f".b.scale-{files._machine()}-2147483647-x").write_bytes(b"a file")
    (tmp_path / ".c.scale-notes").mkdir()
    before = sorted(tmp_path.rglob("*"))
    files.sweep(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_store_moved_aside_by_a_killed_process_comes_back(tmp_path):
    folder = tmp_path / f".cells.zarr.scale-{files._machine()}-2147483647-x"
    (folder / files.MOVED_ASIDE).mkdir(parents=True)
    (folder / files.MOVED_ASIDE / "zarr.json").write_bytes(b"old store")
    (folder / "lock").write_bytes(b"cells.zarr")
    files.sweep(tmp_path)
    assert (tmp_path / "cells.zarr" / "zarr.json").read_bytes() == b"old store"
    assert [path.name for path in tmp_path.iterdir()] == ["cells.zarr"]


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    files.write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_named_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    files.write_bytes(pipe, b"bytes")
    reader.join()
    assert got == [b"bytes"]
    assert pipe.is_fifo()


def test_a_very_long_name_still_fits(tmp_path):
    target = tmp_path / ("n" * 250)
    files.write_bytes(target, b"x")
    assert target.read_bytes() == b"x"


def test_destination_in_a_missing_folder(tmp_path):
    expected = r"the output folder .*none does not exist; make it first: mkdir -p"
    with pytest.raises(UsageError, match=expected):
        files.check_destination(tmp_path / "none" / "a.h5ad")
    with pytest.raises(UsageError, match=expected):
        files.write_bytes(tmp_path / "none" / "a.h5ad", b"")


def test_destination_is_a_folder(tmp_path):
    with pytest.raises(UsageError, match="is a folder; expected a file"):
        files.check_destination(tmp_path)
    with pytest.raises(UsageError, match="is a folder; expected a file"):
        files.write_bytes(tmp_path, b"")


@pytest.mark.parametrize("how", ["same", "symlink", "hardlink", "dots"])
def test_destination_is_the_input_under_another_name(tmp_path, how):
    source = tmp_path / "a.h5ad"
    source.write_bytes(b"x")
    other = tmp_path / "b.h5ad"
    if how == "symlink":
        other.symlink_to(source)
    elif how == "hardlink":
        other.hardlink_to(source)
    else:
        other = source if how == "same" else tmp_path / ".." / tmp_path.name / "a.h5ad"
    with pytest.raises(UsageError, match="is also the input; expected another file"):
        files.check_destination(other, [source])
    files.check_destination(tmp_path / "c.h5ad", [source])


def test_destination_is_what_stdin_is_redirected_from(tmp_path):
    source = tmp_path / "a.h5ad"
    source.write_bytes(b"x")
    with source.open("rb") as stdin, pytest.raises(UsageError, match="is also the input"):
        files.check_destination(source, ["-"], stdin=stdin)
    with source.open("ab") as stdout, pytest.raises(UsageError, match="standard output is also the input"):
        files.check_destination("-", [source], stdout=stdout)


def test_terminals_are_refused():
    with pytest.raises(UsageError, match=r"standard output is a terminal; expected a file or a pipe.*-o FILE"):
        files.check_destination("-", stdout=Terminal())
    with pytest.raises(UsageError, match="standard output is a terminal"):
        files.output_stream(Terminal())
    with pytest.raises(UsageError, match=r"standard input is a terminal; expected a file or a pipe.*pipe an h5ad in"):
        files.input_stream(Terminal())


def test_closed_streams_are_refused(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        files.input_stream()
    with pytest.raises(UsageError, match="standard output is closed"):
        files.output_stream()


@pytest.mark.parametrize("compressed", [True, False])
def test_text_opens_plain_or_gzip_by_content(tmp_path, compressed):
    path = tmp_path / "misnamed.txt"
    path.write_bytes(gzip.compress("é\n".encode()) if compressed else "é\n".encode())
    with open_text(path) as file:
        assert file.read() == "é\n"


def test_truncated_gzip_is_one_line(tmp_path):
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(os.urandom(1000).hex().encode())[:300])
    with pytest.raises(InputError, match="is truncated or damaged gzip; expected a complete file"), open_text(path) as file:
        file.read()


def test_binary_is_no_text(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="is not text"), open_text(path) as file:
        file.read()


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        files.existing_file(tmp_path / "none")
    with pytest.raises(InputError, match="is a folder; expected a file"):
        files.existing_file(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match=r"is empty \(0 bytes\)"):
        files.existing_file(tmp_path / "empty")


def test_a_reader_that_has_gone_away_ends_the_copy_quietly():
    end, start = os.pipe()
    os.close(end)
    with os.fdopen(start, "wb") as stdout:
        files.copy_to_stdout(io.BytesIO(bytes(1 << 21)), stdout)
        stdout.write(b"more")  # to the null device by now: closing must not raise either
