"""The presets `paper` and `release` keep the results that version 0.1.0 gave on the CPU."""

import warnings

import anndata
import numpy as np
import pytest
import torch
from scipy import sparse

import scale_toolkit as scale
from scale_toolkit.compat.draws import SequentialDraws
from scale_toolkit.core.rows import MatrixRows
from scale_toolkit.model.cells import CellsOnHost
from scale_toolkit.model.draws import Purpose
from scale_toolkit.model.encoder_view import EncoderView
from scale_toolkit.model.torch_rows import TorchRows

#: Latent vectors of cells 0, 30 and 60 after 30 steps, written by commit 6ab0d50 on one thread.
LATENT = {
    "paper": [
        [0.01211230456829071, -0.9270886182785034, 0.5371847152709961, 0.6412101984024048],
        [0.04153335094451904, -0.6893517971038818, 0.6789073348045349, 0.9398074150085449],
    ],
    "release": [
        [-1.0138227939605713, 0.5881938934326172, -0.23500990867614746, -1.0190414190292358],
        [-1.1319987773895264, 1.5627222061157227, -1.3265290260314941, 1.0096412897109985],
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(5)
    rates = rng.beta(0.5, 4, (3, 200))
    opened = rng.random((90, 200)) < rates[np.arange(90) % 3]
    return anndata.AnnData(sparse.csr_matrix(opened.astype(np.float32)))


@pytest.mark.parametrize("preset", LATENT)
def test_latent_vectors_are_those_of_the_first_version(cells, preset):
    trained = scale.train(
        cells.copy(), preset=preset, n_components=3, latent=4, max_iter=30, batch_size=32,
        encode_dim=(16,), seed=7, n_threads=1,
    )  # fmt: skip
    # equal to the last digit on the machine that wrote them; another CPU adds in another order
    np.testing.assert_allclose(trained.obsm["X_scale"][:60:30], LATENT[preset], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_are_torchs_own_to_the_last_bit(cells, dtype):
    rows = CellsOnHost(MatrixRows(cells.X), EncoderView(log_transform=False, published=True))
    seen, opened = rows.seen(np.arange(40)), rows.opened(np.arange(40))
    assert isinstance(seen, TorchRows) and isinstance(opened, TorchRows)
    forty = cells.X[:40]
    for ours, matrix, n in ((seen.times, forty, 200), (opened.times, forty, 200), (opened.transposed_times, forty.T.tocsr(), 40)):
        dense = torch.randn(n, 7, dtype=dtype, generator=torch.Generator().manual_seed(0))
        arrays = (torch.from_numpy(a) for a in (matrix.indptr, matrix.indices, matrix.data))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
            expected = torch.sparse_csr_tensor(*arrays, size=matrix.shape).to(dtype) @ dense
        assert torch.equal(ours(dense), expected)
    all_rows = rows.seen_at_once().csr()
    assert (all_rows != cells.X).nnz == 0


def test_noise_goes_on_where_a_checkpoint_was_taken():
    draws = SequentialDraws(3, np.random.default_rng(3))
    draws.normal(Purpose.NOISE, 0, (5, 2))
    state = draws.state()
    following = draws.normal(Purpose.NOISE, 1, (5, 2))
    resumed = SequentialDraws(3, np.random.default_rng(3))
    assert not torch.equal(resumed.normal(Purpose.NOISE, 1, (5, 2)), following)
    resumed.put_back(state)
    assert torch.equal(resumed.normal(Purpose.NOISE, 1, (5, 2)), following)
    with pytest.raises(NotImplementedError, match="draw no mask"):
        resumed.keys(Purpose.MASK, 1, 3)
