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
        products.seen(see) if view == "seen" else products.weighted(view.peak_weights(sums, 120), index) for products in both(planted.X)
    )
    assert host.shape == device.shape
    rng = np.random.default_rng(1)
    dense, left = (torch.from_numpy(rng.normal(size=(n, 4)).astype(np.float32)) for n in (300, host.shape[0]))
    np.testing.assert_allclose(device.times(dense), host.times(dense), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(device.transposed_times(left), host.transposed_times(left), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(device.square_norms(), host.square_norms(), rtol=1e-4)


def test_other_cells_have_the_same_products_on_both(planted):
    rows = planted.X[10:50].astype(bool).astype(np.float32).tocsr()
    weights = np.random.default_rng(0).random(300).astype(np.float32)
    host, device = (
        products.of_rows(rows.indices.astype(np.int32), rows.indptr.astype(np.int64)) for products in both(planted.X)
    )
    np.testing.assert_array_equal(host.n_open(), device.n_open())
    dense = torch.from_numpy(np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32))
    expected = rows @ (weights[:, None] * dense.numpy())
    for products in (host, device):
        np.testing.assert_allclose(products.weighted(weights).times(dense), expected, rtol=1e-4, atol=1e-4)


def test_the_start_is_the_same(plant):
    counts = plant(300, 600, 4).X
    host, device = (find_start(products, sums_of(counts), 4, 0).coordinates for products in both(counts))
    assert np.linalg.norm(host - device) < 1e-3 * np.linalg.norm(host)
