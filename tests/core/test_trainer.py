import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scale_toolkit.core.held_out import Thinned
from scale_toolkit.core.loss import PeakSampler
from scale_toolkit.core.model import Scale, Shape
from scale_toolkit.core.seed import generators, seeded_weights
from scale_toolkit.core.sparse import MatrixRows, binarise
from scale_toolkit.core.trainer import Diverged, Neighbours, batches, elbo_parts, fit, swap


@pytest.fixture
def source(planted):
    return MatrixRows(planted.X)


def small_model(n_peaks, seed=0):
    with seeded_weights(seed):
        return Scale(Shape(n_peaks, latent=4, n_components=3, encode_dim=(16,)))


def trained(cells, seed=0, **changes):
    """A small model after three epochs on a row source, and its history; `changes` override the settings of `fit`."""
    model = small_model(cells.n_peaks)
    rng, noise = generators(seed)
    settings = {"batch_size": 32, "max_iter": 1000, "max_epochs": 3, "lr": 1e-2, "weight_decay": 0.0} | changes
    history = fit(model, cells, binarise, np.zeros(cells.n_cells), rng=rng, noise=noise, **settings)
    return model, history


def weights_of(model):
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


def test_loss_falls_and_steps_are_counted(source):
    _, history = trained(source, max_epochs=10)
    assert history.loss[-1] < history.loss[0] - 10
    assert history.steps == 10 * 4
    assert len(history.loss) == len(history.divergence) == 10
    np.testing.assert_allclose(np.add(history.reconstruction, history.divergence), history.loss)


def test_same_seed_same_bytes_other_seed_other_weights(source):
    assert torch.equal(weights_of(trained(source)[0]), weights_of(trained(source)[0]))
    assert not torch.equal(weights_of(trained(source)[0]), weights_of(trained(source, seed=1)[0]))


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 16},
        {"max_iter": 5},
        {"max_epochs": 2},
        {"lr": 1e-3},
        {"weight_decay": 0.1},
        {"clip": 0.1},
        {"mask": 0.5},
        {"neighbours": Neighbours(np.arange(1, 121)[:, None] % 120, 0.5)},
        {"sampler": PeakSampler(np.linspace(0.5, 0.01, 300), 50)},
        {"mixture_epoch": 2},
        {"drop_last": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_setting_changes_the_weights(source, changes):
    assert not torch.equal(weights_of(trained(source)[0]), weights_of(trained(source, **changes)[0]))


def test_max_iter_bounds_the_steps(source):
    assert trained(source, max_iter=5)[1].steps == 5


def test_early_stopping_stops_and_keeps_the_best_epoch(source):
    thinned = Thinned(source, 0.1, 120, 0)
    model, history = trained(thinned, max_epochs=200, patience=5)
    assert len(history.loss) < 200
    assert history.best_epoch == len(history.loss) - 5
    assert history.held_out[history.best_epoch] == max(history.held_out[1:])
    again, _ = trained(thinned, max_epochs=history.best_epoch)
    assert torch.equal(weights_of(model), weights_of(again))


def test_mixture_is_put_in_place_once_after_its_epoch(source):
    seen = []
    trained(source, mixture_epoch=2, on_mixture=lambda z: seen.append(z.shape))
    assert seen == [(120, 4)]


def test_mixture_is_trained_only_once_in_place(source):
    before = small_model(300).prior.means.detach().clone()
    assert torch.equal(trained(source, mixture_epoch=3)[0].prior.means, before)
    assert not torch.equal(trained(source, mixture_epoch=2)[0].prior.means, before)


def test_not_a_number_names_epoch_and_parameter_and_keeps_the_last_good_weights(source):
    with pytest.raises(Diverged, match=r"epoch 1, in \w+") as caught:
        trained(source, lr=1e30)
    assert caught.value.epoch == 1

    broken = small_model(300)
    rng, noise = generators(0)
    epochs = []

    def poison(epoch, history):
        epochs.append(weights_of(broken).clone())
        if epoch == 2:
            with torch.no_grad():
                broken.decoder.bias[3] = torch.nan

    with pytest.raises(Diverged, match="epoch 3") as caught:
        fit(
            broken, source, binarise, np.zeros(120), rng=rng, noise=noise, batch_size=32, max_iter=100, max_epochs=9,
            lr=1e-3, weight_decay=0.0, on_epoch=poison,
        )  # fmt: skip
    assert len(caught.value.history.loss) == 2
    assert torch.isfinite(weights_of(broken)).all()
    assert torch.equal(weights_of(broken), epochs[1])


def test_elbo_is_the_sum_over_cells_of_its_parts(source):
    model = small_model(300)
    opened = binarise(source.rows(np.arange(10)))
    mean, log_variance = model(opened)
    z = mean.detach()
    offset = torch.zeros(10)
    whole = elbo_parts(model, z, mean, log_variance, opened, offset, mixture=True)
    single = [
        elbo_parts(model, z[i : i + 1], mean[i : i + 1], log_variance[i : i + 1], opened[i], offset[i : i + 1], mixture=True)
        for i in range(10)
    ]
    for name in ("reconstruction", "divergence"):
        assert whole[name].item() == pytest.approx(sum(part[name].item() for part in single), rel=1e-5)


@given(st.integers(1, 300), st.integers(1, 100))
def test_batches_hold_every_cell_once(n_cells, size):
    order = np.random.default_rng(0).permutation(n_cells)
    parts = batches(order, size, drop_last=False)
    np.testing.assert_array_equal(np.concatenate(parts), order)
    assert all(len(part) <= 1.5 * size for part in parts)
    dropped = batches(order, size, drop_last=True)
    assert all(len(part) == min(size, n_cells) for part in dropped)


def test_swap_takes_neighbours_for_the_share_asked():
    index = np.arange(2000)
    near = Neighbours((index[:, None] + [1, 2]) % 2000, 0.3)
    target = swap(index, near, np.random.default_rng(0))
    assert (target != index).mean() == pytest.approx(0.3, abs=0.05)
    assert set(np.unique((target - index) % 2000)) == {0, 1, 2}
