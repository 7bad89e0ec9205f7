import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.special import expit

from scale_toolkit.core.rows import MatrixRows, keep_entries
from scale_toolkit.model.held_out import Thinned, hidden_likelihood


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(1, 30), st.floats(0, 1), st.integers(1, 25), st.integers(0, 2**31))
def test_kept_and_hidden_are_the_whole_and_every_cell_keeps_one(n_cells, n_peaks, share, max_cells, seed):
    rng = np.random.default_rng(seed)
    counts = sparse.csr_matrix(rng.poisson(0.4, (n_cells, n_peaks)).astype(np.float32))
    thinned = Thinned(MatrixRows(counts), share, max_cells, seed)
    hidden = np.zeros(counts.shape, np.float32)
    hidden[thinned.cells] = thinned.hidden.toarray()
    order = rng.permutation(n_cells)
    np.testing.assert_array_equal(thinned.rows(order).toarray() + hidden[order], counts.toarray()[order])
    left = np.diff(thinned.rows(np.arange(n_cells)).indptr)
    assert (left[np.diff(counts.indptr) > 0] > 0).all()
    assert len(thinned.cells) == min(max_cells, n_cells)


def test_share_hidden_is_the_share_asked():
    counts = sparse.csr_matrix(np.ones((200, 500), np.float32))
    thinned = Thinned(MatrixRows(counts), 0.05, 100, 0)
    assert thinned.hidden.nnz / thinned.hidden.shape[0] / 500 == pytest.approx(0.05, abs=0.005)


def test_hidden_likelihood_is_numpys():
    rng = np.random.default_rng(0)
    hidden = sparse.csr_matrix((rng.random((300, 40)) < 0.1).astype(np.float32))
    h, w, b, s = rng.normal(size=(300, 3)), rng.normal(size=(40, 3)), rng.normal(size=40), rng.normal(size=300)
    p = expit(h @ w.T + b + s[:, None])
    expected = np.log(p / p.sum(1, keepdims=True))[hidden.toarray() > 0].mean()
    got = hidden_likelihood(hidden, *(torch.from_numpy(a.astype(np.float32)) for a in (h, w, b, s)))
    assert got == pytest.approx(expected, rel=1e-5)


def test_nothing_hidden_scores_zero():
    empty = sparse.csr_matrix((3, 5), dtype=np.float32)
    assert hidden_likelihood(empty, torch.zeros(3, 2), torch.zeros(5, 2), torch.zeros(5), torch.zeros(3)) == 0


def test_keep_entries_keeps_the_flagged():
    rows = sparse.csr_matrix(np.array([[1, 0, 2], [0, 3, 4]], np.float32))
    kept = keep_entries(rows, np.array([True, False, False, True]))
    np.testing.assert_array_equal(kept.toarray(), [[1, 0, 0], [0, 0, 4]])
