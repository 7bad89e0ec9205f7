import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import cosine_distances
from threadpoolctl import threadpool_info, threadpool_limits

from scale_toolkit.compat.presets import train_published
from scale_toolkit.core.rows import MatrixRows
from scale_toolkit.model import near, recipes
from scale_toolkit.model.files import NotAModel, dumps, loads
from scale_toolkit.model.near import near_cells
from scale_toolkit.model.recipes import encode, train_fast

FAST = {
    "n_components": 3, "latent": 4, "encode_dim": (16,), "decode_dim": (), "lr": 2e-3, "batch_size": 32,
    "max_iter": 1000, "max_epochs": 30, "mixture_epoch": 5, "weight_decay": 0.0, "mask": 0.3, "n_neighbors": 5,
    "neighbour_share": 0.5, "ridge": 1.0, "patience": 10, "log_transform": False, "seed": 0, "device": torch.device("cpu"),
}  # fmt: skip
PUBLISHED = {
    "n_components": 3, "latent": 4, "encode_dim": (32, 16), "decode_dim": (), "lr": 2e-3, "batch_size": 32, "max_iter": 60,
    "weight_decay": 5e-4, "patience": 50, "log_transform": False, "release": False, "seed": 0, "device": torch.device("cpu"),
}  # fmt: skip


def test_fast_finds_planted_clusters_and_beats_its_start(plant):
    cells = plant(200, 400, 4)
    trained = train_fast(MatrixRows(cells.X), **FAST)
    z = encode(trained, MatrixRows(cells.X), seed=0).latent
    labels = KMeans(4, n_init=10, random_state=0).fit_predict(z)
    assert adjusted_rand_score(cells.obs["cell_type"], labels) > 0.95
    curve = trained.history.held_out
    assert curve[trained.history.best_epoch] > curve[0]


def test_training_that_gains_too_little_keeps_its_start_with_a_mixture(planted, monkeypatch):
    monkeypatch.setattr(recipes, "LEAST_GAIN", np.inf)
    trained = train_fast(MatrixRows(planted.X), **FAST)
    assert trained.history.best_epoch == 0
    assert not trained.model.encoder.mean.weight.any()  # as before the first step
    z = encode(trained, MatrixRows(planted.X), seed=0).latent
    means = trained.model.prior.means.detach().numpy()
    distance = np.linalg.norm(z[:, None] - means, axis=2).min(1)
    assert distance.mean() < 0.5 * np.linalg.norm(z - z.mean(0), axis=1).mean()  # fitted to it
    np.testing.assert_allclose(np.linalg.norm(z, axis=1), z.shape[1] ** 0.5, rtol=1e-3)


def test_the_projection_stays_as_it_starts(planted):
    one, thirty = (
        train_fast(MatrixRows(planted.X), **FAST | {"max_epochs": n, "patience": 0}) for n in (1, 30)
    )
    for layer in ("first", "skip"):
        before, after = (getattr(t.model.encoder, layer).weight for t in (one, thirty))
        assert torch.equal(before, after)


@pytest.mark.parametrize("n_passes", [0, 3])
def test_parts_of_a_pass_do_not_end_training_before_whole_passes(plant, monkeypatch, n_passes):
    monkeypatch.setattr(recipes, "STEPS_PER_EPOCH", 2)  # 200 cells: 3 of 7 steps
    monkeypatch.setattr(recipes, "LEAST_PASSES", n_passes)
    source = MatrixRows(plant(200, 400, 4).X)
    settings = FAST | {"lr": 1e-12, "patience": 1, "mixture_epoch": 1, "max_epochs": 60}
    history = train_fast(source, **settings).history
    assert (history.steps >= 3 * 7) == (n_passes == 3)
    assert history.steps < 60 * 3


def test_z_stays_at_its_start_and_the_rest_is_trained(plant):
    source = MatrixRows(plant(200, 400, 4).X)
    untrained, trained = (
        train_fast(source, **FAST | {"patience": 0} | changes).model
        for changes in ({"lr": 1e-12, "max_iter": 1}, {})
    )
    assert not trained.encoder.mean.weight.any() and not trained.encoder.mean.bias.any()
    assert trained.encoder.log_variance.weight.any()
    for name in ("decoder.weight", "decoder.bias", "prior.means"):
        before, after = (model.state_dict()[name] for model in (untrained, trained))
        assert (before - after).abs().max() > 1e-3, name


def test_the_projection_is_fitted_again_with_what_was_hidden_in_the_same_coordinates(plant, monkeypatch):
    source = MatrixRows(plant(200, 400, 4).X)
    after = encode(train_fast(source, **FAST), source, seed=0).latent
    monkeypatch.setattr(recipes, "refit_projection", lambda *_: None)
    before = encode(train_fast(source, **FAST), source, seed=0).latent
    cosine = (after * before).sum(1) / np.linalg.norm(after, axis=1) / np.linalg.norm(before, axis=1)
    assert 0.8 < cosine.mean() < 0.9999


@pytest.mark.parametrize(("n_watched", "n_fits"), [(100, 1), (10, 0)])  # 2.5 and 0.25 % of all open peaks
def test_the_projection_is_fitted_again_if_a_hundredth_was_hidden(plant, monkeypatch, n_watched, n_fits):
    fits = []
    monkeypatch.setattr(recipes, "HELD_OUT_CELLS", n_watched)
    monkeypatch.setattr(recipes, "refit_projection", lambda *_: fits.append(1))
    train_fast(MatrixRows(plant(200, 400, 4).X), **FAST)
    assert len(fits) == n_fits


def test_calibration_changes_the_decoder_and_nothing_else(plant, monkeypatch):
    source = MatrixRows(plant(200, 300, open_share=0.15).X)
    after = train_fast(source, **FAST)
    monkeypatch.setattr(recipes, "calibrate", lambda *_: 1.0)
    before = train_fast(source, **FAST)
    for name, value in before.model.state_dict().items():
        same = torch.equal(value, after.model.state_dict()[name])
        assert same != name.startswith("decoder."), name
    np.testing.assert_array_equal(encode(before, source, seed=0).latent, encode(after, source, seed=0).latent)


def test_depth_stays_out_of_the_latent_space(plant):
    cells = plant(200, 400, 4)
    z = encode(train_fast(MatrixRows(cells.X), **FAST), MatrixRows(cells.X), seed=0).latent
    depth = np.log(np.asarray((cells.X > 0).sum(1)).ravel())
    assert max(abs(np.corrcoef(z[:, d], depth)[0, 1]) for d in range(4)) < 0.6


def test_offsets_reproduce_the_depth_of_each_cell_at_the_start(planted):
    trained = train_fast(MatrixRows(planted.X), **FAST | {"max_epochs": 1})
    n_open = np.asarray((planted.X > 0).sum(1)).ravel()
    offsets = trained.offsets(n_open)
    expected = 1 / (1 + np.exp(-(offsets[:, None] + trained.depth_bias)))
    np.testing.assert_allclose(expected.sum(1), n_open, rtol=1e-5)


def test_near_cells_are_scikit_learns_by_cosine_and_never_the_cell_itself():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3)).astype(np.float32)
    index = near_cells(points, 4, 0.5, rng).index
    distance = cosine_distances(points)
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_array_equal(np.sort(index, 1), np.sort(np.argsort(distance, 1)[:, :4], 1))
    assert near_cells(points[:1], 4, 0.5, rng) is None
    assert near_cells(points, 4, 0.0, rng) is None


def test_near_cells_of_many_are_searched_in_groups_and_still_near(monkeypatch):
    monkeypatch.setattr(near, "NEAR_AMONG", 100)
    kinds = np.repeat(np.eye(5, dtype=np.float32), 80, 0)
    points = kinds + np.random.default_rng(0).normal(0, 0.05, (400, 5)).astype(np.float32)
    index = near_cells(points, 6, 0.5, np.random.default_rng(1)).index
    assert (kinds[index].argmax(2) == kinds.argmax(1)[:, None]).all()
    assert (index != np.arange(400)[:, None]).all()


def test_published_trains_and_release_differs_by_what_it_says(planted):
    source = MatrixRows(planted.X)
    paper = train_published(source, **PUBLISHED)
    release = train_published(source, **PUBLISHED | {"release": True})
    assert paper.history.held_out
    assert not release.history.held_out
    mean = encode(paper, source, seed=0).latent
    np.testing.assert_array_equal(mean, encode(paper, source, seed=1).latent)
    assert not np.array_equal(encode(release, source, seed=0).latent, encode(release, source, seed=1).latent)
    assert (encode(paper, source, seed=0).offset == 0).all()
    assert release.history.steps == 60
    assert len(release.history.loss) == 20  # 3 whole batches of 32 an epoch: the last 24 cells are dropped


def test_log_transform_changes_what_the_encoder_sees(planted):
    source = MatrixRows(planted.X)
    for train, settings in ((train_fast, FAST), (train_published, PUBLISHED)):
        plain, logged = (
            encode(train(source, **settings | {"log_transform": flag, "max_iter": 5}), source, seed=0).latent
            for flag in (False, True)
        )
        assert not np.array_equal(plain, logged)


@pytest.mark.parametrize(
    "counts",
    [
        np.ones((20, 30)),  # every peak open in every cell
        np.eye(20, 30),  # one open peak a cell, and peaks open nowhere
        np.repeat(np.eye(2, 30), 10, 0),  # identical cells
        np.random.default_rng(0).random((20, 1)) < 0.5,  # one peak
        np.vstack([np.zeros(30), np.random.default_rng(0).random((19, 30)) < 0.3]),  # a cell with nothing open
        np.random.default_rng(0).random((2, 30)) < 0.5,  # two cells
    ],
    ids=["all-open", "one-peak-a-cell", "identical", "one-peak", "empty-cell", "two-cells"],
)
@pytest.mark.parametrize("recipe", ["fast", "published"])
def test_degenerate_matrices_train_to_finite_numbers(counts, recipe):
    source = MatrixRows(sparse.csr_matrix(counts.astype(np.float32)))
    settings = {"max_iter": 20, "n_components": 40}
    trained = train_fast(source, **(FAST | settings)) if recipe == "fast" else train_published(source, **(PUBLISHED | settings))
    encoded = encode(trained, source, seed=0)
    for values in (encoded.latent, encoded.hidden, encoded.posterior, encoded.offset):
        assert np.isfinite(values).all()
    np.testing.assert_allclose(encoded.posterior.sum(1), 1, rtol=1e-4)


def test_many_peaks_are_sampled_and_still_learnt(plant, monkeypatch):
    monkeypatch.setattr(recipes, "ALL_PEAKS_UP_TO", 100)
    monkeypatch.setattr(recipes, "SAMPLED_PEAKS", 60)
    cells = plant(200, 400, 4)
    trained = train_fast(MatrixRows(cells.X), **FAST)
    labels = KMeans(4, n_init=10, random_state=0).fit_predict(encode(trained, MatrixRows(cells.X), seed=0).latent)
    assert adjusted_rand_score(cells.obs["cell_type"], labels) > 0.95


@pytest.mark.parametrize("recipe", ["fast", "paper", "release"])
def test_model_file_gives_the_same_encoding_back(planted, recipe):
    source = MatrixRows(planted.X)
    if recipe == "fast":
        trained = train_fast(source, **FAST | {"max_iter": 5, "decode_dim": (8,)})
    else:
        trained = train_published(source, **PUBLISHED | {"max_iter": 5, "release": recipe == "release"})
    data = dumps(trained, planted.var_names.tolist(), {"version": "x"})
    again, peaks, facts = loads(data)
    assert peaks == planted.var_names.tolist()
    assert facts == {"version": "x"}
    first, second = (encode(one, source, seed=3) for one in (trained, again))
    for name in ("latent", "hidden", "posterior", "offset"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_damaged_or_foreign_model_bytes_are_refused(planted, tmp_path):
    data = dumps(train_fast(MatrixRows(planted.X), **FAST | {"max_iter": 2}), planted.var_names.tolist(), {})
    torch.save({"other": 1}, tmp_path / "other.pt")
    for bad in (b"", b"hello", data[: len(data) // 2], (tmp_path / "other.pt").read_bytes()):
        with pytest.raises(NotAModel):
            loads(bad)


def test_training_limits_numpys_blas_and_not_torch(planted):
    def threads():
        blas = [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]
        return max(blas), torch.get_num_threads()

    with threadpool_limits(2):
        usual, counts = threads(), []
        train_fast(
            MatrixRows(planted.X), **FAST | {"max_epochs": 1}, on_phase=lambda *_: counts.append(threads())
        )
        assert counts and all(count == (1, usual[1]) for count in counts)
        assert threads() == usual
