"""Packed rows on a device give what SciPy gives, by torch operations and by Triton kernels."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from scale_toolkit.core.rows import MatrixRows, keep_entries
from scale_toolkit.core.weighting import Weighting
from scale_toolkit.model import packed
from scale_toolkit.model.draws import Draws, Purpose, kept, threshold_of
from scale_toolkit.model.held_out import Thinned
from scale_toolkit.model.packed import Mask, StoredRows, pack

CPU = torch.device("cpu")
TRITON_CHECK = """
import sys
sys.path.insert(0, {folder!r})
import test_packed
test_packed.check_every_kind(fused=True)
from scale_toolkit.model import fused
fused.ENTRIES_A_ROW, fused.TILE = 4, 64  # several programs a row, several rounds a program
test_packed.check_every_kind(fused=True, widths=(3,))
"""


def counts(n_cells=37, n_peaks=90, seed=0):
    rng = np.random.default_rng(seed)
    matrix = sparse.random(n_cells, n_peaks, 0.3, format="csr", dtype=np.float32, random_state=rng)
    matrix.data = rng.integers(1, 5, matrix.nnz).astype(np.float32)
    lil = matrix.tolil()
    lil[5] = 0  # a cell without open peaks
    return lil.tocsr()


def as_scipy(matrix, index, *, log, idf, mask):
    rows = matrix[index].copy()
    rows.data = np.log2(rows.data + 1) if log else np.ones_like(rows.data)
    if mask is not None:
        entry = np.concatenate([np.arange(n) for n in np.diff(rows.indptr)])
        keys = np.repeat(mask.keys.numpy(), np.diff(rows.indptr))
        keep = kept(torch.from_numpy(keys), torch.from_numpy(entry), mask.threshold).numpy()
        rows = keep_entries(rows, keep)
    return rows if idf is None else Weighting(idf)(rows)


def check_every_kind(*, fused, widths=(3, 70)):
    matrix = counts()
    source = MatrixRows(matrix)
    rng = np.random.default_rng(1)
    index = rng.permutation(37)[:20]
    for log in (False, True):
        store = pack(source, CPU, with_values=log, fused=fused)
        for idf in (None, rng.random(90).astype(np.float32)):
            for share in (0.0, 0.5):
                mask = Mask(Draws(3).keys(Purpose.MASK, 7, 20), threshold_of(share)) if share else None
                rows = StoredRows(store, torch.from_numpy(index), None if idf is None else torch.from_numpy(idf), mask)
                expected = as_scipy(matrix, index, log=log, idf=idf, mask=mask)
                for width in widths:
                    dense, left = (rng.normal(size=(n, width)).astype(np.float32) for n in (90, 20))
                    got = rows.times(torch.from_numpy(dense))
                    np.testing.assert_allclose(got, expected @ dense, rtol=1e-4, atol=1e-4)
                    got = rows.transposed_times(torch.from_numpy(left))
                    np.testing.assert_allclose(got, expected.T @ left, rtol=1e-4, atol=1e-4)
    ones = StoredRows(store, as_ones=True)
    np.testing.assert_array_equal(ones.n_stored, np.diff(matrix.indptr))
    dense = rng.normal(size=(90, 2)).astype(np.float32)
    np.testing.assert_allclose(ones.times(torch.from_numpy(dense)), (matrix > 0) @ dense, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at_a_time", [1 << 22, 100])
def test_torch_products_are_scipys(monkeypatch, at_a_time):
    monkeypatch.setattr(packed, "ENTRIES_AT_A_TIME", at_a_time)
    check_every_kind(fused=False)


def test_triton_kernels_are_scipys_products():
    pytest.importorskip("triton")
    code = TRITON_CHECK.format(folder=str(Path(__file__).parent))
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def test_hidden_peaks_are_not_packed():
    matrix = counts()
    thinned = Thinned(MatrixRows(matrix), 0.4, 12, 0)
    store = pack(thinned, CPU)
    expected = thinned.rows(np.arange(37))
    assert expected.nnz < matrix.nnz
    cell_sums, peak_sums = store.open_sums()
    np.testing.assert_array_equal(cell_sums, np.diff(expected.indptr))
    np.testing.assert_array_equal(peak_sums, np.bincount(expected.indices, minlength=90))


def test_explicit_zeros_and_sources_that_are_not_in_memory_are_packed(monkeypatch):
    monkeypatch.setattr(packed, "UPLOAD_CELLS", 10)
    matrix = counts()
    matrix.data[::3] = 0

    class File:
        n_cells, n_peaks = matrix.shape

        def rows(self, index):
            return matrix[index]

    for source in (MatrixRows(matrix), File()):
        cell_sums, peak_sums = pack(source, CPU).open_sums()
        np.testing.assert_array_equal(cell_sums, (matrix.toarray() > 0).sum(1))
        np.testing.assert_array_equal(peak_sums, (matrix.toarray() > 0).sum(0))
