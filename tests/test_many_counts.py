"""More stored counts than int32 can number, at a small size: SciPy's limit and ours are lowered from
2³¹ − 1 to 5,000, which cells and peaks stay below and stored counts do not.
"""

from __future__ import annotations

import sys
import tracemalloc

import anndata
import h5py
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse import _sputils

import scale_toolkit as scale
from scale_toolkit import keys
from scale_toolkit.core import contrasts, differential, rows
from scale_toolkit.io.h5ad import open_h5ad, write_h5ad
from scale_toolkit.stages import counts as stage_counts
from scale_toolkit.stages import receipts
from scale_toolkit.stages.prepare import prepare

LIMIT = 5000


def index_type(arrays=(), maxval=None, check_contents=False):  # noqa: FBT002
    """`scipy.sparse.get_index_dtype` with `LIMIT` for the largest int32."""
    if maxval is not None and maxval > LIMIT:
        return np.int64
    for array in [arrays] if isinstance(arrays, np.ndarray) else arrays:
        values = np.asarray(array)
        if np.can_cast(values.dtype, np.int32):
            continue
        fits = values.size == 0 or (values.dtype.kind in "iu" and values.max() <= LIMIT)
        if not (check_contents and fits):
            return np.int64
    return np.int32


@pytest.fixture
def low_limit(monkeypatch):
    original = _sputils.get_index_dtype
    for name, module in list(sys.modules.items()):
        if name.startswith("scipy.sparse") and vars(module).get("get_index_dtype") is original:
            monkeypatch.setattr(module, "get_index_dtype", index_type)
        if name.startswith("scale_toolkit") and "MOST_INT32" in vars(module):
            monkeypatch.setattr(module, "MOST_INT32", LIMIT)


def wide(matrix):
    """The matrix with int64 indices and pointers, as SciPy keeps them past its limit."""
    result = matrix.copy()
    result.indices, result.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    return result


def open_matrix(n_cells=200, n_peaks=60, share=0.5):
    return sparse.csr_matrix(np.random.default_rng(0).random((n_cells, n_peaks)) < share)


def test_all_stages_give_the_same_bits(tmp_path, request):
    cells = scale.simulate(n_cells=200, n_peaks=600, open_peaks=60, n_clusters=3, seed=1)
    assert max(cells.shape) < LIMIT < cells.X.nnz
    cells.write_h5ad(tmp_path / "counts.h5ad")

    def chain(name):
        with open_h5ad(tmp_path / "counts.h5ad") as file:
            adata = file.read()
        prepared = prepare(adata, min_peaks=10, min_cells=2, may_overwrite=True)
        write_h5ad(prepared, tmp_path / f"{name}.h5ad")
        with open_h5ad(tmp_path / f"{name}.h5ad") as file:
            adata = file.read()
        scale.pp.select_peaks(adata, n_peaks=400)
        scale.tl.train(adata, max_epochs=2, seed=0)
        scale.tl.cluster(adata, n_clusters=3)
        scale.tl.markers(adata)
        return adata

    narrow = chain("narrow")
    request.getfixturevalue("low_limit")
    request.getfixturevalue("no_memory")
    many = chain("many")
    assert (narrow.X.indptr.dtype, narrow.X.indices.dtype) == (np.int32, np.int32)
    assert (many.X.indptr.dtype, many.X.indices.dtype) == (np.int64, np.int64)
    with h5py.File(tmp_path / "many.h5ad") as file:
        assert (file["X/indptr"].dtype, file["X/indices"].dtype) == (np.int64, np.int64)
    assert abs(narrow.X - many.X).nnz == 0
    for mapping, name in (
        ("obsm", "X_scale"),
        ("varm", "scale_decoder"),
        ("obs", "scale_cluster"),
        ("var", "scale_bias"),
    ):
        first, second = (np.asarray(getattr(adata, mapping)[name]) for adata in (narrow, many))
        np.testing.assert_array_equal(first, second)
    digests = [
        [entry["input"] for entry in receipts.receipts(adata)] for adata in (narrow, many)
    ]
    assert digests[0] == digests[1]


@pytest.mark.parametrize("piece", [1 << 26, 1 << 10])
def test_a_digest_does_not_depend_on_the_type_of_indices(monkeypatch, piece):
    monkeypatch.setattr(receipts, "PIECE", piece)
    adata = anndata.AnnData(open_matrix().astype(np.float32))
    expected = receipts.digest(adata, [keys.X])
    adata.X = wide(adata.X)
    assert adata.X.indices.dtype == np.int64
    assert receipts.digest(adata, [keys.X], 2) == expected


def test_a_digest_copies_no_array_of_indices(monkeypatch):
    monkeypatch.setattr(receipts, "PIECE", 1 << 16)
    adata = anndata.AnnData(wide(open_matrix(20_000, 60).astype(np.float32)))
    tracemalloc.start()
    receipts.digest(adata, [keys.X])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < adata.X.nnz


def test_sums_of_groups_copy_no_array_of_indices(monkeypatch):
    """and are those of a matrix with int32 indices, also over several ranges of rows."""
    opened = open_matrix(20_000, 60)
    codes = np.arange(opened.shape[0]) % 3
    bins = differential.depth_bins(np.diff(opened.indptr))

    def sums(matrix):
        groups = differential.count(matrix, codes, 3, bins)
        samples = contrasts.count_samples(matrix, codes, 3, bins)
        return groups.open_cells, groups.weighted, samples.open_cells, samples.weighted

    expected = sums(opened)
    monkeypatch.setattr(rows, "ENTRIES_AT_A_TIME", 10_000)
    many = wide(opened)
    tracemalloc.start()
    lowered = sums(many)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < opened.nnz * 3
    for first, second in zip(expected, lowered, strict=True):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(
        lowered[0], np.stack([opened[codes == k].sum(0).A1 for k in range(3)], 1)
    )


def test_a_part_of_a_wide_file_has_narrow_indices(tmp_path, no_memory):
    """A process of a team reads its cells: int64 indices would be copied into memory by SciPy."""
    matrix = open_matrix().astype(np.float32)
    anndata.AnnData(matrix).write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        for name in ("indices", "indptr"):
            values = file[f"X/{name}"][:]
            del file[f"X/{name}"]
            file[f"X/{name}"] = values.astype(np.int64)
    with open_h5ad(tmp_path / "a.h5ad") as file:
        chosen_rows = stage_counts.counts_of(file.read(counts_on_disk=True), slice(20, 150))
    base = chosen_rows.indices
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert base is not None
    assert chosen_rows.indices.dtype == chosen_rows.indptr.dtype == np.int32
    assert abs(chosen_rows - matrix[20:150]).nnz == 0


def test_indices_are_not_searched_for_their_largest(low_limit):
    matrix = wide(open_matrix().astype(np.float32))
    assert matrix.nnz > LIMIT
    parts = matrix.data, matrix.indices, matrix.indptr

    class Unseen(np.ndarray):
        def max(self, *_, **__):
            raise AssertionError("all indices are read")

    taken = rows.compressed(parts[0], parts[1].view(Unseen), parts[2], matrix.shape)
    assert taken.indices.dtype == np.int64
    assert np.shares_memory(taken.indices, matrix.indices)
    np.testing.assert_array_equal(taken[3:90].toarray(), matrix[3:90].toarray())
    few = wide(open_matrix(20, 10).astype(np.float32))
    assert rows.compressed(few.data, few.indices, few.indptr, few.shape).indices.dtype == np.int32


def test_open_peaks_of_large_counts_are_in_a_file(no_memory):
    flags = stage_counts.open_peaks(anndata.AnnData(open_matrix().astype(np.float32))).data
    while flags is not None and not isinstance(flags, np.memmap):
        flags = flags.base
    assert flags is not None
