"""Cells on the host and on a device give the same rows, the same training and the same encoding."""

import numpy as np
import pytest
import torch

from scale_toolkit.core.rows import MatrixRows
from scale_toolkit.core.weighting import fit_weighting
from scale_toolkit.model import cells as places
from scale_toolkit.model.batches import Loader, Neighbours
from scale_toolkit.model.cells import (
    CellsOnDevice,
    CellsOnHost,
    CellsStreamed,
    EncoderView,
    OnGpu,
    place_cells,
)
from scale_toolkit.model.draws import Draws, Purpose, threshold_of
from scale_toolkit.model.held_out import Thinned
from scale_toolkit.model.loss import PeakSampler
from scale_toolkit.model.network import Scale, Shape
from scale_toolkit.model.packed import Mask
from scale_toolkit.model.seed import seeded_weights
from scale_toolkit.model.trainer import fit, latent_means

CPU = torch.device("cpu")


@pytest.fixture(params=[False, True], ids=["open", "logged"])
def see(request, planted):
    return EncoderView(request.param, fit_weighting(120, np.asarray((planted.X > 0).sum(0)).ravel()))


@pytest.fixture
def everywhere(planted, see):
    """The same thinned cells on the host, on a device, and copied to it batch by batch."""
    thinned = Thinned(MatrixRows(planted.X), 0.1, 60, 0)
    return CellsOnHost(thinned, see), CellsOnDevice(thinned, see, CPU), CellsStreamed(thinned, see, CPU)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_rows_are_the_same(everywhere, share):
    index = torch.from_numpy(np.random.default_rng(0).permutation(120)[:40])
    mask = Mask(Draws(0).keys(Purpose.MASK, 3, 40), threshold_of(share)) if share else None
    dense = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    left = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    host, *others = everywhere
    for cells in others:
        for ours, theirs in ((host.seen(index, mask), cells.seen(index, mask)), (host.opened(index), cells.opened(index))):
            torch.testing.assert_close(theirs.times(dense), ours.times(dense), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(theirs.transposed_times(left), ours.transposed_times(left), rtol=1e-4, atol=1e-4)
            assert torch.equal(theirs.n_stored, ours.n_stored) or share


def test_sums_and_whole_operands_are_the_same(everywhere):
    host, *others = everywhere
    dense = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    for cells in others:
        for ours, theirs in zip(host.open_sums(), cells.open_sums(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for index in (None, np.array([3, 50, 7])):
            ours, theirs = host.seen_at_once(index).times(dense), cells.seen_at_once(index).times(dense)
            torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-4)


def trained(cells):
    with seeded_weights(0):
        model = Scale(Shape(300, latent=4, n_components=3, encode_dim=(16,), spectral_dim=6))
    settings = {
        "batch_size": 32, "max_iter": 40, "max_epochs": 8, "lr": 1e-2, "weight_decay": 0.0, "mask": 0.5,
        "neighbours": Neighbours(np.arange(1, 121)[:, None] % 120, 0.5), "mixture_epoch": 3,
        "sampler": PeakSampler(np.linspace(0.5, 0.01, 300), 50),
    }  # fmt: skip
    history = fit(model, cells, np.linspace(-1, 1, 120), rng=np.random.default_rng(0), draws=Draws(0), **settings)
    return latent_means(model, cells), history


def test_training_is_the_same(everywhere):
    (host, curve), *others = (trained(cells) for cells in everywhere)
    for latent, history in others:
        assert np.linalg.norm(latent - host) / np.linalg.norm(host) < 1e-3
        np.testing.assert_allclose(history.loss, curve.loss, rtol=1e-4)
        np.testing.assert_allclose(history.held_out, curve.held_out, rtol=1e-4)
    assert curve.loss[-1] < curve.loss[0]


def test_each_step_draws_a_mask_noise_and_targets_of_its_own(everywhere):
    near = Neighbours(np.arange(1, 121)[:, None] % 120, 0.5)
    loader = Loader(everywhere[1], np.zeros(120), Draws(0), 4, mask=0.5, neighbours=near)
    index = torch.arange(40)
    first, again, second = loader.make(index, 1), loader.make(index, torch.tensor(1)), loader.make(index, 2)
    for name in ("noise",):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(second, name))
    assert torch.equal(first.encoder_rows.mask.keys, again.encoder_rows.mask.keys)
    assert not torch.equal(first.encoder_rows.mask.keys, second.encoder_rows.mask.keys)
    assert not torch.equal(first.opened.index, second.opened.index)


def test_cells_are_placed_where_they_fit(planted, see, monkeypatch):
    source = MatrixRows(planted.X)
    assert isinstance(place_cells(source, see, CPU), CellsOnHost)
    made = []
    monkeypatch.setattr(places, "CellsOnDevice", lambda *_, **options: made.append(("resident", options)))
    monkeypatch.setattr(places, "CellsStreamed", lambda *_, **options: made.append(("streamed", options)))
    gpu = torch.device("cuda")
    size = places.bytes_on_device(120, planted.X.nnz, with_values=see.log_transform)
    place_cells(source, see, gpu, OnGpu(size))
    place_cells(source, see, gpu, OnGpu(size - 1))
    place_cells(source, see, gpu, OnGpu(size, deterministic=True))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (size, 10 * size))
    place_cells(source, see, gpu)
    kinds = [kind for kind, _ in made]
    assert kinds == ["resident", "streamed", "resident", "streamed"]
    assert [options["fused"] for _, options in made] == [None, None, False, None]
