"""A short slice of what `fuzz.py` and `kills.py` do at length (docs/reliability.md has their counts)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fuzz
import kills

HERE = Path(__file__).parent
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc")
CASES = 60


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> dict[str, dict]:
    """How 60 cases of every kind ended."""
    cases = str(CASES * len(fuzz.KINDS))
    folder = tmp_path_factory.mktemp("fuzz")
    done = subprocess.run(
        [sys.executable, HERE / "fuzz.py", "--cases", cases, "--seed", "1"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode in (0, 1), done.stderr
    return {end["kind"]: end for end in map(json.loads, done.stdout.splitlines())}


@on_linux
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_input_is_read_or_refused(kind, ends):
    assert not ends[kind].get("fault"), ends[kind]
    assert ends[kind].get("read", 0) + ends[kind].get("refused", 0) == CASES


PLANTED = """
import json, pathlib, sys
import fuzz
def read(folder):
    if len((folder / "peaks.bed").read_bytes()) % 2:
        raise ZeroDivisionError
fuzz.KINDS["bed"] = (lambda: {"peaks.bed": b"chr1\\t1\\t20\\n"}, read)
print(json.dumps(fuzz.fuzz("bed", 40, 0, pathlib.Path("kept"))))
"""


@on_linux
def test_a_fault_would_be_seen(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PLANTED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert json.loads(done.stdout)["fault"] > 0
    assert list(tmp_path.rglob("error.txt"))


@pytest.mark.parametrize("job", ["prepare", "zarr"])
def test_a_killed_stage_leaves_the_old_file_or_the_new(job, tmp_path):
    kills.prepare_chain(tmp_path)
    found = kills.torture(job, 3, tmp_path, seed=7)
    assert found["faults"] == []
    assert found["old_kept"] + found["new_whole"] == 3
