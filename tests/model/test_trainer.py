import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scale_toolkit.core.rows import MatrixRows, binarise
from scale_toolkit.model.batches import Batch, Neighbours, ahead, batches, swap
from scale_toolkit.model.cells import CellsOnHost
from scale_toolkit.model.draws import Draws
from scale_toolkit.model.held_out import Thinned
from scale_toolkit.model.loss import PeakSampler
from scale_toolkit.model.network import Scale, Shape
from scale_toolkit.model.seed import generators, seeded_weights
from scale_toolkit.model.sparse import SparseRows
from scale_toolkit.model.trainer import Diverged, Rise, elbo_parts, fit


@pytest.fixture
def source(planted):
    return MatrixRows(planted.X)


def small_model(n_peaks, seed=0):
    with seeded_weights(seed):
        return Scale(Shape(n_peaks, latent=4, n_components=3, encode_dim=(16,)))


def trained(cells, seed=0, **changes):
    """A small model after three epochs on a row source, and its history; `changes` override the
    settings of `fit`.
    """
    model = small_model(cells.n_peaks)
    rng, _ = generators(seed)
    settings = {"batch_size": 32, "max_iter": 1000, "max_epochs": 3, "lr": 1e-2, "weight_decay": 0.0} | changes
    history = fit(model, CellsOnHost(cells, binarise), np.zeros(cells.n_cells), rng=rng, draws=Draws(seed), **settings)
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
        {"steps_per_epoch": 1},
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
    rise = Rise(-np.inf)
    for score in history.held_out[1:]:
        rise.see(score)
    assert rise.epochs_without == 5
    assert history.held_out[history.best_epoch] == max(history.held_out[1:])
    again, _ = trained(thinned, max_epochs=history.best_epoch)
    assert torch.equal(weights_of(model), weights_of(again))


def test_rise_counts_epochs_since_the_last_one_worth_the_name():
    rise = Rise(-10.0)
    for score, epochs in ((-9.9, 0), (-9.8995, 1), (-9.95, 2), (-9.8, 0), (-np.inf, 1)):
        rise.see(score)
        assert rise.epochs_without == epochs


def test_mixture_joins_early_where_the_plain_model_no_longer_gains(source):
    joined = []
    _, history = trained(
        Thinned(source, 0.1, 120, 0), lr=1e-9, max_epochs=8, mixture_epoch=6, patience=5, on_mixture=lambda z: joined.append(z)
    )
    assert len(joined) == 1
    assert history.best_epoch > 3  # weights from before the mixture are never kept
    assert len(history.loss) == 8


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
    rng, _ = generators(0)
    epochs = []

    def poison(epoch, history):
        epochs.append(weights_of(broken).clone())
        if epoch == 2:
            with torch.no_grad():
                broken.decoder.bias[3] = torch.nan

    with pytest.raises(Diverged, match="epoch 3") as caught:
        fit(
            broken, CellsOnHost(source, binarise), np.zeros(120), rng=rng, draws=Draws(0),
            batch_size=32, max_iter=100, max_epochs=9,
            lr=1e-3, weight_decay=0.0, on_epoch=poison,
        )  # fmt: skip
    assert len(caught.value.history.loss) == 2
    assert torch.isfinite(weights_of(broken)).all()
    assert torch.equal(weights_of(broken), epochs[1])


def batch_of(rows):
    n_cells = rows.shape[0]
    noise = torch.zeros(n_cells, 0)  # `elbo_parts` is given z
    return Batch(SparseRows(rows), SparseRows(rows), torch.zeros(n_cells), None, None, noise)


def test_elbo_is_the_sum_over_cells_of_its_parts(source):
    model = small_model(300)
    opened = binarise(source.rows(np.arange(10)))
    mean, log_variance = model(opened)
    z = mean.detach()
    whole = elbo_parts(model, z, mean, log_variance, batch_of(opened), mixture=True)
    single = [
        elbo_parts(model, z[i : i + 1], mean[i : i + 1], log_variance[i : i + 1], batch_of(opened[i]), mixture=True)
        for i in range(10)
    ]
    torch.testing.assert_close(whole, sum(single), rtol=1e-5, atol=1e-3)


def test_steps_per_epoch_bounds_an_epoch_but_not_a_shorter_pass(source):
    assert trained(source, max_epochs=3, steps_per_epoch=2)[1].steps == 6
    assert trained(source, max_epochs=3, steps_per_epoch=50)[1].steps == 12


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_made_ahead_are_the_same_batches(source, threads):
    before = torch.get_num_threads()
    alone = weights_of(trained(source, mask=0.5)[0])
    try:
        torch.set_num_threads(threads)
        assert torch.allclose(weights_of(trained(source, mask=0.5)[0]), alone, atol=1e-5)
    finally:
        torch.set_num_threads(before)


def test_ahead_keeps_the_order_and_passes_errors_on():
    assert list(ahead(iter(range(1, 6)))) == [1, 2, 3, 4, 5]

    def failing():
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(ahead(failing()))


@given(st.integers(1, 300), st.integers(1, 100))
def test_batches_hold_every_cell_once(n_cells, size):
    order = torch.from_numpy(np.random.default_rng(0).permutation(n_cells))
    parts = batches(order, size, drop_last=False)
    assert torch.equal(torch.cat(parts), order)
    assert all(len(part) <= 1.5 * size for part in parts)
    dropped = batches(order, size, drop_last=True)
    assert all(len(part) == min(size, n_cells) for part in dropped)


def test_swap_takes_neighbours_for_the_share_asked():
    index = torch.arange(2000)
    near = (index[:, None] + torch.tensor([1, 2])) % 2000
    target = swap(index, near, 0.3, Draws(0), 5)
    assert (target != index).float().mean() == pytest.approx(0.3, abs=0.05)
    assert set(((target - index) % 2000).tolist()) == {0, 1, 2}
