"""A short slice of what `fuzz.py` and `kills.py` do at length (docs/reliability.md has their counts)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fuzz
import kills


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads /proc")
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_input_is_read_or_refused(kind, tmp_path):
    ends = fuzz.fuzz(kind, 60, 1, tmp_path)
    assert not ends["fault"], ends
    assert ends["read"] + ends["refused"] == 60


def test_a_fault_would_be_seen(tmp_path, monkeypatch):
    def read(folder):
        if len((folder / "peaks.bed").read_bytes()) % 2:
            raise ZeroDivisionError

    monkeypatch.setitem(fuzz.KINDS, "bed", (lambda: {"peaks.bed": b"chr1\t1\t20\n"}, read))
    ends = fuzz.fuzz("bed", 40, 0, tmp_path)
    assert ends["fault"] > 0
    assert list(tmp_path.rglob("error.txt"))


@pytest.mark.parametrize("job", ["prepare", "zarr"])
def test_a_killed_stage_leaves_the_old_file_or_the_new(job, tmp_path):
    kills.prepare_chain(tmp_path)
    found = kills.torture(job, 3, tmp_path, seed=7)
    assert found["faults"] == []
    assert found["old_kept"] + found["new_whole"] == 3
