"""What a job may use, from made-up /proc and /sys/fs/cgroup; and refusals with figures."""

import h5py
import numpy as np
import pytest
from scipy import sparse

import scale_toolkit as scale
from scale_toolkit import memory
from scale_toolkit.errors import InputError, MemoryLimitError
from scale_toolkit.io import source
from scale_toolkit.io.readers import read_any

GB = 1 << 30


def machine(tmp_path, cgroup_lines, limits, free=64):
    """A machine with `free` GB and these cgroups: path below /sys/fs/cgroup -> (limit, held)."""
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {free << 20} kB\nSwapFree: 0 kB\n")
    (proc / "self" / "cgroup").write_text(cgroup_lines)
    (proc / "self" / "statm").write_text("10 5 1 1 0 1 0\n")
    for place, (limit_file, limit, held_name, held) in limits.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / limit_file).write_text(f"{limit}\n")
        (root / place / "memory.stat").write_text(f"cache 999\n{held_name} {held}\n")
    return proc, root


@pytest.mark.parametrize(
    ("lines", "limits", "left", "by"),
    [
        ("0::/\n", {}, 64, "what this machine has free"),
        ("0::/job\n", {"job": ("memory.max", 8 * GB, "anon", 3 * GB)}, 5, "cgroup"),
        (
            "0::/job/step\n",
            {"job": ("memory.max", 8 * GB, "anon", GB), "job/step": ("memory.max", "max", "anon", GB)},
            7,
            "cgroup",
        ),
        ("0::/of/the/host\n", {"": ("memory.max", 4 * GB, "anon", GB)}, 3, "cgroup"),  # in a container
        ("5:cpu:/x\n4:memory:/slurm\n", {"memory/slurm": ("memory.limit_in_bytes", 6 * GB, "total_rss", 2 * GB)}, 4, "cgroup"),
        ("4:memory:/\n", {"memory": ("memory.limit_in_bytes", 2**63 - 4096, "total_rss", 0)}, 64, "machine"),
        ("0::/job\n", {"job": ("memory.max", "nonsense", "anon", 0)}, 64, "machine"),
    ],
)
def test_what_is_left(tmp_path, lines, limits, left, by):
    proc, root = machine(tmp_path, lines, limits)
    found = memory.available(proc, root)
    assert found[0] == left * GB
    assert by in found[1]


def test_the_bound_on_damaged_files_is_not_the_jobs_limit(tmp_path):
    """Else every file that is read would find too little memory, and store its counts on disk."""
    resource = pytest.importorskip("resource")
    machine_of_64 = machine(tmp_path, "0::/\n", {})
    before = resource.getrlimit(resource.RLIMIT_AS)
    with memory.bounded(GB // 2):
        assert resource.getrlimit(resource.RLIMIT_AS)[0] != before[0]
        assert memory.available(*machine_of_64) == (64 * GB, "what this machine has free")
        with memory.bounded(GB // 4):
            assert memory.available(*machine_of_64)[0] == 64 * GB
        assert memory.available(*machine_of_64)[0] == 64 * GB
    assert memory.available(*machine_of_64)[0] == 64 * GB
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_a_limit_on_address_space_is_counted_inside_the_bound_too(tmp_path):
    resource = pytest.importorskip("resource")
    machine_of_64 = machine(tmp_path, "0::/\n", {})
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (32 * GB, before[1]))
        with memory.bounded(GB // 2):
            bound = memory.available(*machine_of_64)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert bound[1] == "ulimit -v"
    assert 31 * GB < bound[0] <= 32 * GB


def test_a_system_that_does_not_tell(tmp_path):
    assert memory.available(tmp_path / "none", tmp_path / "none") is None


def test_this_machine_tells():
    bound = memory.available()
    assert bound is None or 0 < bound[0] < 1 << 60


@pytest.fixture
def small_job(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: (500_000, "the limit of this job's cgroup"))


def test_a_header_that_promises_more_than_there_is_is_refused_before_anything_is_taken(tmp_path, planted):
    for name in ("X/data", "obsm/X_big"):
        path = tmp_path / "lie.h5ad"
        planted.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            if name in file:
                del file[name]
            file.create_dataset(name, shape=(10**12,), dtype="f4", chunks=(1 << 20,))
        assert path.stat().st_size < 1_000_000
        with pytest.raises(MemoryLimitError, match=r"reading .*lie.h5ad takes at least 4,000.0 GB of memory"):
            read_any(path)


def test_a_10x_header_that_lies_is_refused(tmp_path):
    path = tmp_path / "lie.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"], group["shape"] = np.array([b"A"]), np.array([1, 1])
        group.create_dataset("data", shape=(10**12,), dtype="i4", chunks=(1 << 20,))
        group["features/id"] = np.array([b"chr1:1-2"])
    with pytest.raises(MemoryLimitError, match="4,000"):
        read_any(path)


def test_a_file_and_a_training_that_cannot_fit_are_refused_with_figures(tmp_path, plant, small_job):
    cells = plant(n_cells=400, n_peaks=3000)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(
        MemoryLimitError, match=r"and 0.5 MB are left \(the limit of this job's cgroup\); .* ask for more memory"
    ):
        read_any(tmp_path / "cells.h5ad")
    with pytest.raises(MemoryLimitError, match=r"training on 400 cells × 3,000 peaks \([\d,]+ open\) takes at least"):
        scale.train(cells, n_components=2)


def test_a_group_that_holds_itself_is_looked_at_once(tmp_path, planted):
    path = tmp_path / "loop.h5ad"
    planted.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["uns/self"] = file["uns"]
    with pytest.raises(InputError):
        read_any(path)


def test_a_line_without_an_end_is_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "LONGEST_LINE", 1000)
    (tmp_path / "counts.tsv").write_text("\ta\tb\n" + "1" * 5000)
    with pytest.raises(InputError, match="a line of more than 1,000 characters"):
        read_any(tmp_path / "counts.tsv")


def test_lines_are_read_as_before(tmp_path):
    text = "\ta\tb\r\nchr1:1-2\t1\t0\r\n"
    (tmp_path / "counts.tsv").write_text(text, newline="")
    with source.open_text(tmp_path / "counts.tsv") as file:
        assert list(file) == text.splitlines(keepends=True)
    matrix = read_any(tmp_path / "counts.tsv").X
    assert (matrix != sparse.csr_matrix([[1], [0]])).nnz == 0
