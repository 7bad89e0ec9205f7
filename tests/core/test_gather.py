"""Entries in any order as the rows of a CSR matrix: SciPy's, in one piece or in many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from scale_toolkit import scratch
from scale_toolkit.core import rows
from scale_toolkit.core.gather import RowGatherer, rows_of_columns


def is_mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


def gathered(row, column, value, shape, n_blocks, dtype=np.float32):
    gatherer = RowGatherer(dtype)
    for part in np.array_split(np.arange(len(row)), n_blocks):
        gatherer.add(row[part], column[part], None if value is None else value[part])
    return gatherer.matrix(shape)


def same(first, second):
    assert first.shape == second.shape
    assert first.has_canonical_format
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == getattr(second, name).dtype


@given(st.integers(0, 400), st.integers(1, 12), st.integers(1, 9), st.integers(1, 7), st.booleans())
def test_any_order_and_any_blocks_give_scipys_rows(n, n_rows, n_columns, n_blocks, ones):
    rng = np.random.default_rng(n)
    row, column = rng.integers(0, n_rows, n), rng.integers(0, n_columns, n)
    value = None if ones else rng.integers(0, 5, n)
    values = np.ones(n) if ones else value
    shape = n_rows + 2, n_columns + 1  # the last rows may be empty
    expected = sparse.coo_matrix((values.astype(np.float32), (row, column)), shape).tocsr()
    with pytest.MonkeyPatch.context() as patch:
        same(gathered(row, column, value, shape, n_blocks), expected)
        patch.setattr(scratch, "SMALL", 100)
        patch.setattr(scratch, "SHARE_IN_MEMORY", 1e-12)
        patch.setattr(scratch, "in_memory", lambda folder: False)
        patch.setattr(rows, "ENTRIES_AT_A_TIME", 7)
        same(gathered(row, column, value, shape, n_blocks), expected)


def test_many_entries_are_in_files(no_memory):
    rng = np.random.default_rng(0)
    row, column = rng.integers(0, 50, 9000), rng.integers(0, 300, 9000)
    matrix = gathered(row, column, None, (50, 300), 20)
    assert is_mapped(matrix.data)
    assert is_mapped(matrix.indices)


def test_many_runs_are_in_as_many_files_as_one(no_memory):
    """Each run alone fits into memory, all of them together do not, and a process may open a limited
    number of files.
    """
    gatherer = RowGatherer()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(200):
        gatherer.add(np.arange(40), np.arange(40))
    assert len(gatherer._runs) == 200
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 3
    assert sum(len(growing._parts) for growing in (gatherer._data, gatherer._indices, gatherer._pointers)) == 0
    assert (gatherer.matrix((40, 40)).data == 200).all()


def test_a_buffer_is_stored_before_it_is_large(no_memory):
    gatherer = RowGatherer()
    for _ in range(10):
        gatherer.add(np.arange(25), np.arange(25))
        assert gatherer._n_buffered * 32 <= scratch.SMALL + 25 * 32
    assert len(gatherer._runs) > 2
    before = len(list(Path("/proc/self/fd").iterdir()))
    del gatherer  # as after an error in a later line: its files are closed
    assert len(list(Path("/proc/self/fd").iterdir())) < before


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
def test_columns_become_rows(no_memory, monkeypatch, dtype):
    monkeypatch.setattr(rows, "ENTRIES_AT_A_TIME", 100)
    matrix = sparse.random(90, 40, 0.4, "csc", random_state=1)
    matrix.data = np.ceil(9 * matrix.data).astype(dtype)
    by_rows = rows_of_columns(matrix, np.float32)
    assert is_mapped(by_rows.data)
    same(by_rows, matrix.tocsr().astype(np.float32))


def test_few_columns_become_rows_by_scipy(monkeypatch):
    monkeypatch.setattr(RowGatherer, "add", None)
    matrix = sparse.random(90, 40, 0.4, "csc", random_state=1)
    assert abs(rows_of_columns(matrix, np.float64) - matrix).nnz == 0


def test_more_entries_than_int32_counts_have_int64_indices(no_memory, monkeypatch):
    monkeypatch.setattr(rows, "MOST_INT32", 5000)
    rng = np.random.default_rng(0)
    matrix = gathered(rng.integers(0, 50, 9000), rng.integers(0, 300, 9000), None, (50, 300), 20)
    assert matrix.nnz > 5000
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int64


def test_repeated_entries_are_summed_early_where_there_is_no_disk(no_memory, monkeypatch):
    """A TMPDIR in memory: what repeats is held once for each run, not as often as it comes."""
    monkeypatch.setattr(scratch, "in_memory", lambda folder: True)
    gatherer = RowGatherer()
    for _ in range(50):
        gatherer.add(np.zeros(400, int), np.zeros(400, int))
    assert sum(n for n, _ in gatherer._runs) == 50
    assert gatherer.matrix((1, 1)).data.tolist() == [20_000]
