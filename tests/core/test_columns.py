import numpy as np
import pytest

from scale_toolkit.core import sparse_products
from scale_toolkit.core.columns import paired_groups
from scale_toolkit.core.open_peaks import OpenPeaks, WeightedRows


def _rows(n_cells, n_peaks, rng):
    """Ascending open peaks of each cell, and the pointers of the rows."""
    rows = [np.flatnonzero(rng.random(n_peaks) < 0.3) for _ in range(n_cells)]
    pointers = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return np.concatenate(rows).astype(np.int32), pointers


@pytest.mark.parametrize("n_columns", [1, 3, 7, 8, 9, 23, 24, 25, 31, 32, 49])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_every_column_is_summed_alone_entry_by_entry(n_columns, n_threads):
    """The sum of a column is the same bit for bit, whichever columns stand beside it."""
    rng = np.random.default_rng(n_columns)
    peaks, pointers = _rows(70, 130, rng)
    opened = OpenPeaks.of_rows(peaks, pointers, 130, n_threads)
    rows = WeightedRows(opened, rng.random(130).astype(np.float32), log=True)
    right, left = (rng.normal(size=(n, n_columns)).astype(np.float32) for n in (130, 70))
    bounds = sparse_products.block_bounds(peaks, pointers, 130, n_threads)
    ones, weights = np.empty(0, np.float32), rng.random(len(peaks)).astype(np.float32)
    products = [(rows.times, right), (rows.transposed_times, left)]
    for values in (ones, weights):
        products += [
            (lambda dense, values=values: sparse_products.times(peaks, values, bounds, dense, n_threads), right),
            (lambda dense, values=values: _transposed(peaks, values, bounds, dense, n_threads), left),
        ]
    for product, dense in products:
        alone = [product(np.ascontiguousarray(dense[:, [column]])) for column in range(n_columns)]
        np.testing.assert_array_equal(product(dense), np.hstack(alone))


def _transposed(peaks, weights, bounds, dense, n_threads):
    out = np.ones((130, dense.shape[1]), np.float32)  # added to
    sparse_products.add_transposed_times(peaks, weights, bounds, dense, n_threads, out)
    return out


def test_sums_of_rows_follow_the_order_of_the_entries():
    rng = np.random.default_rng(0)
    peaks, pointers = _rows(20, 40, rng)
    dense = rng.normal(size=(40, 25)).astype(np.float32)
    expected = np.zeros((20, 25), np.float32)
    for cell in range(20):
        for entry in range(pointers[cell], pointers[cell + 1]):
            expected[cell] += dense[peaks[entry]]
    rows = WeightedRows(OpenPeaks.of_rows(peaks, pointers, 40, 1), np.ones(40, np.float32))
    np.testing.assert_array_equal(rows.times(dense), expected)


@pytest.mark.parametrize(("n_columns", "widths"), [(0, []), (5, [8]), (24, [24]), (25, [24, 8]), (33, [24, 8, 8]), (48, [24, 24])])
def test_groups_cover_all_columns(n_columns, widths):
    dense, out = np.zeros((3, n_columns), np.float32), np.zeros((4, n_columns), np.float32)
    assert [operand.width for operand, _ in paired_groups(dense, out)] == widths
