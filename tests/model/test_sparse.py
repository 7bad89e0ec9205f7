import threading

import numpy as np
import pytest
import torch
from scipy import sparse

from scale_toolkit.core import kernels, rows
from scale_toolkit.core.rows import MatrixRows, blocks
from scale_toolkit.model.sparse import SparseRows, product
from scale_toolkit.threads import available_cores


@pytest.fixture
def csr():
    return sparse.random(40, 60, 0.2, format="csr", dtype=np.float32, random_state=np.random.default_rng(0))


@pytest.mark.parametrize(("n_threads", "rows_at_a_time"), [(1, 2048), (2, 16)])
def test_products_are_numpys(csr, n_threads, rows_at_a_time, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    monkeypatch.setattr(kernels, "ROWS_AT_A_TIME", rows_at_a_time)
    rng = np.random.default_rng(1)
    right, left = (rng.normal(size=shape).astype(np.float32) for shape in ((60, 5), (40, 5)))
    rows = SparseRows(csr)
    np.testing.assert_allclose(rows.times(torch.from_numpy(right)), csr.toarray() @ right, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rows.transposed_times(torch.from_numpy(left)), csr.toarray().T @ left, rtol=1e-4, atol=1e-5)


def test_gradient_is_that_of_the_dense_product(csr):
    dense = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    doubles = csr.astype(np.float64)
    torch.autograd.gradcheck(lambda d: product(doubles, d), (dense,), atol=1e-4, eps=1e-3)


def test_rows_equal_scipys(csr):
    source = MatrixRows(csr)
    for index in (np.arange(5, 12), np.array([3, 3, 9]), np.array([7]), np.array([39, 0])):
        assert (source.rows(index) != csr[index]).nnz == 0


def test_blocks_cover_all_cells_or_those_asked(csr):
    source = MatrixRows(csr)
    assert [len(index) for index, _ in blocks(source, 15)] == [15, 15, 10]
    chosen = np.array([1, 4, 30])
    found = list(blocks(source, 2, chosen))
    np.testing.assert_array_equal(np.concatenate([index for index, _ in found]), chosen)
    assert (sparse.vstack([rows for _, rows in found]) != csr[chosen]).nnz == 0


def test_products_do_not_hang_on_the_number_of_threads(csr, monkeypatch):
    """The cut into blocks of peaks is the same for all, and so is the order of every sum."""
    dense = torch.randn(60, 7, generator=torch.Generator().manual_seed(0))
    left = torch.randn(40, 7, generator=torch.Generator().manual_seed(1))
    results = []
    for n_threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        rows = SparseRows(csr)
        results.append((rows.times(dense), rows.transposed_times(left)))
    for times, transposed in results[1:]:
        assert torch.equal(times, results[0][0])
        assert torch.equal(transposed, results[0][1])


def test_unsorted_rows_are_sorted_first(csr):
    shuffled = csr.copy()
    for row in range(40):
        part = slice(*csr.indptr[row : row + 2])
        shuffled.indices[part], shuffled.data[part] = csr.indices[part][::-1], csr.data[part][::-1]
    shuffled.has_sorted_indices = False
    dense = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(SparseRows(shuffled).times(dense), SparseRows(csr).times(dense))
    assert not shuffled.has_sorted_indices


def test_stack_is_scipys_vstack(csr):
    parts = [csr[:7], csr[7:8], csr[8:]]
    assert (rows.stack(iter(parts), csr.shape, csr.nnz + 3) != csr).nnz == 0


@pytest.mark.parametrize("n_threads", [1, 2, 7, 500])
def test_threads_are_shared_and_at_most_one_a_core(n_threads):
    done = []
    kernels.POOL.map(done.append, range(1000), n_threads)
    assert sorted(done) == list(range(1000))
    assert sum(thread.name.startswith("scale_") for thread in threading.enumerate()) <= available_cores()


def test_an_error_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        kernels.POOL.map(lambda item: 1 / (item - 999), range(1000), 2)
