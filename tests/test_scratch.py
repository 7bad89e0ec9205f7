"""Counts that are larger than the memory allowed: the same results from temporary files."""

from __future__ import annotations

from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse

import scale_toolkit as scale
from scale_toolkit import memory, scratch
from scale_toolkit.core import rows
from scale_toolkit.errors import MemoryLimitError, OptionError
from scale_toolkit.io.h5ad import open_h5ad
from scale_toolkit.io.hdf5 import read_compressed
from scale_toolkit.stages.prepare import prepare


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


@pytest.fixture
def few_entries(monkeypatch):
    """Passes over stored values take several steps."""
    monkeypatch.setattr(rows, "ENTRIES_AT_A_TIME", 500)


@pytest.fixture
def counts():
    rng = np.random.default_rng(3)
    matrix = sparse.random(150, 80, 0.2, "csr", np.float32, random_state=3)
    matrix.data = rng.integers(1, 4, matrix.nnz).astype(np.float32)
    return matrix


def test_small_arrays_stay_in_memory_and_large_ones_do_not(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: (8 << 30, "test"))
    monkeypatch.setattr(scratch, "in_memory", lambda folder: False)
    assert scratch.fits_in_memory(1 << 30)
    assert not scratch.fits_in_memory((1 << 30) + 1)
    monkeypatch.setattr(scratch, "in_memory", lambda folder: True)
    assert scratch.fits_in_memory(1 << 40)


def test_a_file_holds_what_is_written_and_vanishes_with_its_array(no_memory):
    files = set(Path(scratch._folder()).iterdir())
    array = scratch.empty(100_000, np.int32)
    assert is_mapped(array)
    array[:] = np.arange(100_000)
    assert (array[99_990:] == np.arange(99_990, 100_000)).all()
    assert not [
        path
        for path in set(Path(scratch._folder()).iterdir()) - files
        if path.name.startswith("scale-")
    ]


def test_an_array_grows_into_a_file(no_memory):
    growing = scratch.Growing(np.int32)
    for first in range(0, 2000, 50):
        growing.append(np.arange(first, first + 50))
    assert not growing._parts
    array = growing.array()
    assert is_mapped(array)
    np.testing.assert_array_equal(array, np.arange(2000))
    array[7] = 1  # may be changed
    small = scratch.Growing(np.float32)
    assert small.array().dtype == np.float32
    small.append(np.arange(3))
    assert not is_mapped(small.array())
    assert small.array().tolist() == [0, 1, 2]


def test_an_array_that_grows_needs_room_on_the_disk(no_memory, monkeypatch):
    usage = scratch.shutil.disk_usage("/")
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda folder: usage._replace(free=100))
    growing = scratch.Growing(np.int32)
    growing.append(np.arange(100))
    with pytest.raises(MemoryLimitError, match="free in TMPDIR"):
        growing.append(np.arange(1000))


def test_a_disk_without_room_is_one_line(no_memory):
    with pytest.raises(
        MemoryLimitError, match=r"storing counts takes at least 4,000,000.0 GB .* free in TMPDIR"
    ):
        scratch.empty(10**15, np.float32)


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ("/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n", True),
        ("tmpfs / tmpfs rw 0 0\n/dev/a /tmp ext4 rw 0 0\n", False),
        ("/dev/a / ext4 rw 0 0\ntmpfs /tmp/other tmpfs rw 0 0\n", False),
        ("nonsense\n", False),
    ],
)
def test_a_folder_in_memory_is_recognised(tmp_path, monkeypatch, mounts, expected):
    (tmp_path / "mounts").write_text(mounts)
    monkeypatch.setattr(Path, "resolve", lambda path, strict=False: path)
    assert scratch.in_memory(Path("/tmp/job"), tmp_path / "mounts") is expected


def test_an_unknown_system_has_folders_on_disk(tmp_path):
    assert scratch.in_memory(tmp_path, tmp_path / "none") is False


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4G", 4 << 30),
        ("1500M", 1500 << 20),
        ("2gib", 2 << 30),
        ("1.5 GB", 3 << 29),
        (1 << 31, 1 << 31),
    ],
)
def test_sizes(text, expected):
    assert memory.as_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "4X", "-4G", "100M", "G", "0", "nan"])
def test_sizes_that_are_none(text):
    with pytest.raises(OptionError, match=r"memory is .* expected a size of 1G or more"):
        memory.as_bytes(text)


def test_a_promise_bounds_what_may_be_used_and_ends():
    before = memory.available()[0]
    with memory.limited_memory("3G"):
        bound, origin = memory.available()
        assert bound < 3 << 30
        assert origin == "--memory"
        with memory.limited_memory("2G"):
            assert memory.available()[0] < 2 << 30
    assert memory.available()[1] != "--memory"
    assert memory.available()[0] > before / 2


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("which", ["both", "rows", "columns", "all", "none"])
def test_selection_is_scipys(counts, which, in_place, few_entries, no_memory):
    rng = np.random.default_rng(0)
    n_rows, n_columns = counts.shape
    keep_rows = (
        rng.random(n_rows) < 0.6 if which in ("both", "rows") else np.full(n_rows, which != "none")
    )
    keep_columns = (
        rng.random(n_columns) < 0.4 if which in ("both", "columns") else np.ones(n_columns, bool)
    )
    expected = counts[np.flatnonzero(keep_rows)][:, np.flatnonzero(keep_columns)]
    given, before = counts.copy(), counts.copy()
    result = rows.selected(given, keep_rows, keep_columns, in_place=in_place)
    assert result.shape == expected.shape
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))
        assert in_place or (getattr(given, name) == getattr(before, name)).all()
    assert np.shares_memory(result.data, given.data) == (in_place and result.nnz > 0)


def test_what_is_kept_of_little_frees_the_rest(counts):
    few = np.arange(counts.shape[1]) < 10
    assert not np.shares_memory(rows.selected(counts, None, few, in_place=True).data, counts.data)


def test_sums_are_scipys(counts, few_entries):
    np.testing.assert_array_equal(
        rows.column_counts(counts), np.asarray((counts > 0).sum(0)).ravel()
    )
    np.testing.assert_array_equal(rows.row_sums(counts), np.asarray(counts.sum(1)).ravel())


@pytest.mark.parametrize("index_type", [np.int32, np.int64])
@pytest.mark.parametrize("format_name", ["csr", "csc"])
def test_a_large_matrix_is_read_into_a_file(
    tmp_path, counts, no_memory, few_entries, format_name, index_type
):
    matrix = counts.asformat(format_name)
    anndata.AnnData(matrix).write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        for name in ("indices", "indptr"):
            values = file[f"X/{name}"][:]
            del file[f"X/{name}"]
            file[f"X/{name}"] = values.astype(index_type)
        read = read_compressed(file["X"])
    with open_h5ad(tmp_path / "a.h5ad") as opened:
        X = opened.read().X
    assert is_mapped(X.data)
    assert X.indices.dtype == X.indptr.dtype == np.int32
    for found in (X, read):
        assert found.format == format_name
        assert abs(found - matrix).nnz == 0


def test_all_stages_give_the_same_bits_from_files(tmp_path, monkeypatch, few_entries):
    cells = scale.simulate(n_cells=200, n_peaks=600, open_peaks=60, n_clusters=3, seed=1)
    cells.write_h5ad(tmp_path / "counts.h5ad")

    def chain():
        with open_h5ad(tmp_path / "counts.h5ad") as file:
            adata = file.read()
        adata = prepare(adata, min_peaks=10, min_cells=2, may_overwrite=True)
        scale.pp.select_peaks(adata, n_peaks=400)
        scale.tl.train(adata, max_epochs=2, seed=0)
        scale.tl.cluster(adata, n_clusters=3)
        scale.tl.markers(adata)
        return adata

    in_memory = chain()
    monkeypatch.setattr(scratch, "SMALL", 1000)
    monkeypatch.setattr(scratch, "SHARE_IN_MEMORY", 1e-12)
    monkeypatch.setattr(scratch, "in_memory", lambda folder: False)
    from_files = chain()
    assert is_mapped(from_files.X.data)
    assert not is_mapped(in_memory.X.data)
    assert abs(in_memory.X - from_files.X).nnz == 0
    for mapping, name in (
        ("obsm", "X_scale"),
        ("varm", "scale_decoder"),
        ("obs", "scale_cluster"),
        ("var", "scale_bias"),
    ):
        first, second = (
            np.asarray(getattr(adata, mapping)[name]) for adata in (in_memory, from_files)
        )
        np.testing.assert_array_equal(first, second)


def test_counts_are_taken_only_if_that_is_allowed(counts):
    adata = anndata.AnnData(counts.copy())
    before = adata.X.copy()
    kept = prepare(adata, min_peaks=10, min_cells=20)
    assert abs(adata.X - before).nnz == 0
    assert not np.shares_memory(kept.X.data, adata.X.data)
    taken = prepare(adata, min_peaks=10, min_cells=20, may_overwrite=True)
    assert np.shares_memory(taken.X.data, adata.X.data)
    assert abs(kept.X - taken.X).nnz == 0


def test_a_layer_is_never_taken(counts):
    adata = anndata.AnnData(counts * 0.5, layers={"counts": counts.copy()})
    result = prepare(adata, layer="counts", min_peaks=10, min_cells=20, may_overwrite=True)
    assert abs(result.X - result.layers["counts"]).nnz == 0
    assert abs(adata.layers["counts"] - counts).nnz == 0


@pytest.mark.parametrize("repeated", [False, True])
def test_columns_in_the_order_of_a_model_are_selected_in_files(counts, request, repeated):
    from scale_toolkit.stages.encode import in_model_order

    positions = np.random.default_rng(0).permutation(counts.shape[1])[:50]
    positions[[3, 20]] = -1
    expected = np.where(positions >= 0, counts.toarray()[:, positions], 0)
    if repeated:  # stored twice
        counts = sparse.csr_matrix(
            (np.repeat(counts.data, 2) / 2, np.repeat(counts.indices, 2), 2 * counts.indptr), counts.shape
        )
    request.getfixturevalue("few_entries")
    request.getfixturevalue("no_memory")
    reordered = in_model_order(counts, positions)
    assert is_mapped(reordered.data)
    assert reordered.has_canonical_format != repeated
    assert reordered.has_sorted_indices
    np.testing.assert_array_equal(reordered.toarray(), expected)
    if not repeated:
        assert in_model_order(counts, np.arange(counts.shape[1])) is counts
