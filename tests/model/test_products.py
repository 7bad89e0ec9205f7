"""The start's products from packed rows on a device are those from rows on the host."""

import numpy as np
import pytest
import torch

from scale_toolkit.core.open_peaks import OpenPeaks
from scale_toolkit.core.rows import MatrixRows
from scale_toolkit.core.weighting import fit_weighting
from scale_toolkit.model.encoder_view import EncoderView
from scale_toolkit.model.kinship import VIEWS
from scale_toolkit.model.packed import pack
from scale_toolkit.model.products import ProductsOnDevice, ProductsOnHost
from scale_toolkit.model.views import find_start

CPU = torch.device("cpu")


def both(counts):
    source = MatrixRows(counts)
    return ProductsOnHost(OpenPeaks.of_source(source, 1), source), ProductsOnDevice(pack(MatrixRows(counts), CPU))


def sums_of(counts):
    return np.asarray((counts > 0).sum(0)).ravel()


@pytest.mark.parametrize("view", [*VIEWS, "seen"], ids=lambda view: getattr(view, "name", view))
@pytest.mark.parametrize("some", [False, True])
def test_rows_of_a_view_are_the_same(planted, view, some):
    sums = sums_of(planted.X)
    index = np.sort(np.random.default_rng(0).permutation(120)[:50]) if some else None
    see = EncoderView(log_transform=False, weighting=fit_weighting(120, sums))
    host, device = (
        products.seen(see) if view == "seen" else products.weighted(view, sums, 120, index) for products in both(planted.X)
    )
    assert host.shape == device.shape
    rng = np.random.default_rng(1)
    dense, left = (torch.from_numpy(rng.normal(size=(n, 4)).astype(np.float32)) for n in (300, host.shape[0]))
    np.testing.assert_allclose(device.times(dense), host.times(dense), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(device.transposed_times(left), host.transposed_times(left), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(device.square_norms(), host.square_norms(), rtol=1e-4)


def test_shuffled_peaks_keep_the_sums_of_cells_and_peaks_and_no_order(planted):
    cells = np.arange(10, 110)
    products, peak_sums = both(planted.X)[1].shuffled(cells, np.random.default_rng(0))
    store = products.store
    opened = planted.X[cells] > 0
    before = np.asarray(opened.sum(1)).ravel()
    assert (store.host_lengths <= before).all()
    assert store.host_lengths.sum() > 0.8 * before.sum()
    assert np.corrcoef(store.host_lengths, before)[0, 1] > 0.9
    assert np.corrcoef(peak_sums, np.asarray(opened.sum(0)).ravel())[0, 1] > 0.9
    rows = [store.indices[s : s + n].tolist() for s, n in zip(store.starts, store.lengths, strict=True)]
    assert all(row == sorted(set(row)) for row in rows)
    shared = np.mean([len(set(row) & set(opened[i].indices)) / len(row) for i, row in enumerate(rows)])
    assert shared < 0.7


def test_the_same_peaks_are_dealt_on_both(planted):
    host, device = (products.shuffled(np.arange(0, 120, 2), np.random.default_rng(4)) for products in both(planted.X))
    np.testing.assert_array_equal(host[1], device[1])
    np.testing.assert_array_equal(host[0].opened.rows(np.arange(host[0].n_cells))[0], device[0].store.indices)


def test_the_start_is_the_same(plant):
    counts = plant(300, 600, 4).X
    host, device = (find_start(products, sums_of(counts), 4, 0).coordinates for products in both(counts))
    assert np.linalg.norm(host - device) < 1e-3 * np.linalg.norm(host)
