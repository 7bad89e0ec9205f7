"""Rows of a matrix as CSR."""

import numpy as np
import pytest
from scipy import sparse

from scale_toolkit.core import rows
from scale_toolkit.core.rows import MatrixRows, all_positive


@pytest.fixture
def counts():
    return sparse.random(40, 30, 0.2, format="csr", dtype=np.float32, random_state=0)


@pytest.mark.parametrize("cells", [[3, 0, 39], [], range(40)])
def test_rows_are_those_of_the_matrix_as_counts_or_as_ones(counts, cells):
    index = np.array(cells, dtype=np.int64)
    expected = counts[index].toarray()
    np.testing.assert_array_equal(MatrixRows(counts).rows(index).toarray(), expected)
    np.testing.assert_array_equal(MatrixRows(counts, as_ones=True).rows(index).toarray(), expected > 0)


def test_as_ones_the_values_are_not_read(counts):
    source = MatrixRows(counts, as_ones=True)
    counts.data[:] = np.nan
    assert set(source.rows(np.arange(40)).data) == {1}


@pytest.mark.parametrize("position", [0, 7, -1])
def test_a_stored_zero_is_seen_in_any_chunk(counts, position, monkeypatch):
    monkeypatch.setattr(rows, "ENTRIES_AT_A_TIME", 5)
    assert all_positive(counts)
    counts.data[position] = 0
    assert not all_positive(counts)
