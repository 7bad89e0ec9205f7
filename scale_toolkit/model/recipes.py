"""SCALE's default training, from a row source to a trained model: read it from top to bottom.

Depth is taken out first, the encoder starts as a spectral projection, the decoder one Newton step
from there, and the mixture joins once the space has settled. The published model from random
weights is `compat.presets.train_published`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from scale_toolkit.core.batch_effects import BatchEffects, fit_batch_effects
from scale_toolkit.core.depth import cell_offsets, rasch
from scale_toolkit.core.rows import RowSource
from scale_toolkit.core.weighting import Weighting, fit_weighting
from scale_toolkit.model.after_training import calibrate, refit_projection
from scale_toolkit.model.batches import draws_for
from scale_toolkit.model.cells import OnGpu, place_cells
from scale_toolkit.model.em import fit_mixture_on
from scale_toolkit.model.encoder_view import EncoderView
from scale_toolkit.model.held_out import Thinned
from scale_toolkit.model.loss import PeakSampler
from scale_toolkit.model.near import near_cells
from scale_toolkit.model.network import Scale, Shape, SpectralEncoder, directions, sample
from scale_toolkit.model.products import products_of
from scale_toolkit.model.seed import generators, seeded_weights
from scale_toolkit.model.snapshot import ENOUGH, History, Snapshot
from scale_toolkit.model.start import decoder_step, fit_mixture
from scale_toolkit.model.team import ALONE, Team
from scale_toolkit.model.trainer import Diverged, fit, latent_means, some_cells
from scale_toolkit.model.views import find_start, linear_map
from scale_toolkit.threads import blas_on_one_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from scale_toolkit.model.products import Products

HELD_OUT_SHARE = 0.05  # of the open peaks of a watched cell
#: Share of the open peaks hidden from training above which the projection is fitted again with
#: them: without 3 %, neighbours of 3,000 sparse cells lost 0.02 of purity.
REFIT_SHARE = 0.01
LEAST_GAIN = ENOUGH  # nats a hidden peak by which training must improve on its start
# About this many are hidden in all: more do not change the estimate, and each watched cell costs a
# row of all peaks an epoch.
HELD_OUT_PEAKS = 50_000
HELD_OUT_CELLS = 2000  # watched at most
# more peaks than this: the softplus sum is estimated from a subset of SAMPLED_PEAKS
ALL_PEAKS_UP_TO = 10_000
SAMPLED_PEAKS = 5_000
# An epoch of the fast recipe is one pass over the cells, or this many steps or a sixteenth of a
# pass if a pass takes more.
STEPS_PER_EPOCH = 16
#: Passes before early stopping where an epoch is less than one: the likelihood of the hidden peaks
#: rises by less than chance from one sixteenth of a pass to the next. After one pass over 100,000
#: cells it had risen by 0.0008 nats, too little to be kept; after three by 0.0018.
LEAST_PASSES = 3


@dataclass
class Trained:
    """A trained model and what encoding a cell needs besides: all of it can be written to a file
    and read back.

    Attributes
    ----------
    model
        Encoder, prior, decoder.
    depth_bias
        b of the depth-only model, (peaks,) float64, from which a cell's offset follows; None: no
        offsets.
    weighting
        How the encoder sees a cell; None: as open peaks (or log counts) are.
    log_transform
        The encoder sees log2(count + 1) instead of open peaks.
    sampled
        The latent vector is one random sample of z, as in release 1.1.2, not its mean.
    history
        Learning curves.
    stopped
        Why training stopped early with the last good weights; empty if it did not.
    effects
        Of the batches of the cells it was trained on; None: it knows no batches.
    plain_start
        Start of those cells from which no batch was taken out, (cells, d), if one was.
    """

    model: Scale
    depth_bias: np.ndarray | None
    weighting: Weighting | None
    log_transform: bool
    sampled: bool
    history: History
    stopped: str = ""
    effects: BatchEffects | None = None
    plain_start: np.ndarray | None = None

    @property
    def encoder_input(self) -> EncoderView:
        """Counts of some cells as the encoder sees them: a function of CSR rows."""
        published = not self.model.shape.spectral_dim
        return EncoderView(self.log_transform, self.weighting, published)

    def offsets(self, n_open: np.ndarray) -> np.ndarray:
        """Return the depth offset of cells from their open peaks, (cells,); 0 if the model has
        none.
        """
        if self.depth_bias is None:
            return np.zeros(len(n_open))
        return cell_offsets(n_open, self.depth_bias)


@dataclass
class Encoded:
    """What the model says of cells: latent (cells, d), hidden (cells, h), posterior (cells, k),
    offset (cells,).

    And what was counted on the way: open peaks of each cell (cells,), open cells of each peak
    (peaks,).
    """

    latent: np.ndarray
    hidden: np.ndarray
    posterior: np.ndarray
    offset: np.ndarray
    cell_sums: np.ndarray
    peak_sums: np.ndarray


@torch.no_grad()
def encode(
    trained: Trained,
    source: RowSource,
    *,
    seed: int,
    gpu: OnGpu | None = None,
    codes: np.ndarray | None = None,
    team: Team = ALONE,
) -> Encoded:
    """Return posterior means (or samples), hidden layer, responsibilities and offsets of every
    cell of `source`, and in the leader of a team those of all its processes.

    `codes` are the groups of the cells in the model's `effects`; None: as in the average batch.
    """
    effects = None
    if trained.effects is not None and codes is not None:
        effects = trained.effects.of_cells(codes)
    _, noise = generators(seed)
    model = trained.model
    device = model.decoder.weight.device
    cells = place_cells(source, trained.encoder_input, device, gpu, effects)
    parts: list[tuple[np.ndarray, ...]] = []
    for block in cells.blocks():
        mean, log_variance = model(cells.seen(block))
        z = (
            sample(mean, log_variance, torch.randn(mean.shape, generator=noise).to(mean))
            if trained.sampled
            else mean
        )
        parts.append(
            tuple(
                values.cpu().numpy()
                for values in (z, model.decoder(z), model.prior.responsibilities(z))
            )
        )
    latent, hidden, posterior = (
        team.gathered(np.concatenate(arrays)) for arrays in zip(*parts, strict=True)
    )
    cell_sums, peak_sums = cells.open_sums()
    cell_sums, peak_sums = team.gathered(cell_sums), team.total(peak_sums)
    return Encoded(
        latent,
        hidden,
        posterior,
        trained.offsets(cell_sums).astype(np.float32),
        cell_sums,
        peak_sums,
    )


@blas_on_one_thread()
def train_fast(
    source: RowSource,
    *,
    n_components: int,
    latent: int | None,
    encode_dim: tuple[int, ...],
    decode_dim: tuple[int, ...],
    lr: float,
    batch_size: int,
    max_iter: int,
    max_epochs: int,
    mixture_epoch: int,
    weight_decay: float,
    mask: float,
    n_neighbors: int,
    neighbour_share: float,
    ridge: float,
    patience: int,
    log_transform: bool,
    seed: int,
    device: torch.device,
    gpu: OnGpu | None = None,
    groups: tuple[np.ndarray, np.ndarray] | None = None,
    on_epoch: Callable[[int, History], None] | None = None,
    on_phase: Callable[[str, int, int], None] | None = None,
    resume: Snapshot | None = None,
    on_snapshot: Callable[[Callable[[], Snapshot]], None] | None = None,
    team: Team = ALONE,
) -> Trained:
    """Depth offsets, spectral start, one Newton step for the decoder, then ELBO steps on all of it.

    Parameters
    ----------
    source
        Counts of this process's cells; open peaks are modelled.
    latent
        Dimensions of z; None: as many as rise above chance in the start (`views.find_start`).
    n_neighbors, neighbour_share
        In a step, this share of the cells reconstructs one of its nearest cells by all spectral
        coordinates instead of itself.
    ridge
        Precision of a normal prior on the decoder's loadings in the Newton step.
    gpu
        How a GPU is used.
    groups
        Group of each cell, and the levels of each group: batches whose peak frequencies are taken
        out (`core.batch_effects.fit_batch_effects`).
    on_phase
        Called with what is done beside the epochs, how many parts of it are done, and how many it
        has (0 if it has no parts).
    team
        The processes that train the model. Groups of cells need a single one.
    Others
        As in `trainer.fit`.
    """
    on_phase = on_phase or (lambda *_: None)
    rng, _ = generators(seed)
    n_cells = int(team.total(source.n_cells))
    first, stop = team.bounds(n_cells)[team.rank : team.rank + 2]
    thinned = Thinned(source, HELD_OUT_SHARE, team.shared(watched_cells(source)), seed, team)
    effects = None if groups is None else fit_batch_effects(thinned, *groups)
    cells = place_cells(thinned, EncoderView(log_transform), device, gpu, effects)
    cell_sums, peak_sums = cells.open_sums()
    cell_sums, peak_sums = team.joined(cell_sums), team.total(peak_sums)
    all_offsets, bias = team.shared(rasch(cell_sums, peak_sums))
    offset = all_offsets[first:stop]
    weighting = fit_weighting(n_cells, peak_sums)
    cells.see = EncoderView(log_transform, weighting)
    plain_start = None
    if effects is not None:
        plain_start = team.led(
            products_of(cells, divided=False),
            thinned,
            lambda plain: find_start(plain, peak_sums, latent, seed).coordinates,
        )

    def found_start(products: Products) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates of all cells, the encoder's projection, and what it gives for all cells."""
        coordinates = find_start(products, peak_sums, latent, seed, on_phase).coordinates
        on_phase("projection of the encoder", 0, 0)
        rows = products.seen(cells.see)
        projection = linear_map(rows, coordinates)
        spectral = rows.times(torch.from_numpy(projection).to(products.device))
        return coordinates, projection, directions(spectral, coordinates.shape[1]).cpu().numpy()

    coordinates, projection, z = team.led(products_of(cells), thinned, found_start)
    latent = coordinates.shape[1]
    shape = Shape(
        source.n_peaks,
        latent,
        n_components,
        encode_dim,
        decode_dim,
        spectral_dim=latent,
        on_sphere=True,
    )
    with seeded_weights(seed):
        model = Scale(shape)
    encoder = cast(SpectralEncoder, model.encoder)
    encoder.start(torch.from_numpy(projection))
    # z stays at its start. Trained, the projection fits the cells it has seen, and the residual
    # moves cells of 300 to 20,000 away from their types while the held-out likelihood rises
    # (benchmarks/RESULTS.md).
    for layer in (encoder.first, encoder.skip, encoder.mean):
        layer.requires_grad_(requires_grad=False)
    with torch.no_grad():
        if not decode_dim:
            weight = decoder_step(cells, z[first:stop], offset, bias, ridge, team=team)
            model.decoder.weight.copy_(torch.from_numpy(weight))
        model.decoder.bias.copy_(torch.from_numpy(bias.astype(np.float32)))
    model.to(device)
    team.share(model)
    untrained = copy.deepcopy(model.state_dict())

    def put_mixture(z: np.ndarray) -> None:
        if team.leads:
            set_mixture(model, z, n_components, seed)
        team.share(model)

    steps_per_epoch = epoch_steps(n_cells, batch_size)
    steps_per_pass = -(-n_cells // batch_size)
    min_steps = LEAST_PASSES * steps_per_pass if steps_per_epoch < steps_per_pass else 0
    history, stopped = fit_to_last_good(
        model,
        cells,
        offset,
        rng=rng,
        draws=draws_for(cells, team.seed(seed)),
        batch_size=batch_size,
        max_iter=max_iter,
        max_epochs=max_epochs,
        lr=lr,
        weight_decay=weight_decay,
        mask=mask,
        neighbours=near_cells(
            coordinates[first:stop],
            n_neighbors,
            neighbour_share,
            team.rng(rng, seed),
            device,
            n_cells_in_all=n_cells,
        ),
        sampler=sampler_of(peak_sums, n_cells),
        on_mixture=put_mixture,
        mixture_epoch=mixture_epoch,
        steps_per_epoch=steps_per_epoch,
        patience=patience,
        min_steps=min_steps,
        on_epoch=on_epoch,
        resume=resume,
        on_snapshot=on_snapshot,
        team=team,
    )
    if patience and is_no_better(history):
        model.load_state_dict(untrained)
        put_mixture(latent_means(model, cells, some_cells(n_cells, rng), team))
        history.best_epoch = 0
    on_phase("calibration", 0, 0)
    calibrate(model, cells, thinned, all_offsets, peak_sums, rng, team)
    if team.total(thinned.hidden.nnz) > REFIT_SHARE * peak_sums.sum():
        on_phase("projection with all open peaks", 0, 0)
        all_cells = place_cells(source, cells.see, device, gpu, effects)
        refit_projection(model, all_cells, coordinates, seed, team)
    return Trained(
        model,
        bias,
        weighting,
        log_transform,
        sampled=False,
        history=history,
        stopped=stopped,
        effects=effects,
        plain_start=plain_start,
    )


def epoch_steps(n_cells: int, batch_size: int) -> int:
    """Return the steps after which an epoch ends if a pass over the cells takes more."""
    return max(STEPS_PER_EPOCH, n_cells // (STEPS_PER_EPOCH * batch_size))


def is_no_better(history: History) -> bool:
    """Whether training has not raised the held-out likelihood by a counted rise: the start is
    kept.
    """
    return history.held_out[history.best_epoch] < history.held_out[0] + LEAST_GAIN


def watched_cells(source: RowSource) -> int:
    """How many cells to hide open peaks of, so that about `HELD_OUT_PEAKS` are hidden in all;
    judged by the first 1,000.
    """
    first = source.rows(np.arange(min(source.n_cells, 1000)))
    hidden_a_cell = HELD_OUT_SHARE * max(first.nnz / first.shape[0], 1)
    return min(HELD_OUT_CELLS, int(np.ceil(HELD_OUT_PEAKS / hidden_a_cell)))


def fit_to_last_good(model: Scale, *args: Any, **settings: Any) -> tuple[History, str]:
    """Call `trainer.fit`; if training diverges after the first epoch, keep the last good weights
    and return the reason.
    """
    try:
        return fit(model, *args, **settings), ""
    except Diverged as error:
        if error.epoch == 1:
            raise
        return error.history, str(error)


def sampler_of(peak_sums: np.ndarray, n_cells: int) -> PeakSampler | None:
    """A sampler of peaks if there are too many to sum over in each step."""
    if len(peak_sums) <= ALL_PEAKS_UP_TO:
        return None
    return PeakSampler(peak_sums / n_cells, SAMPLED_PEAKS)


def set_mixture(model: Scale, z: np.ndarray, n_components: int, seed: int) -> None:
    """Fit a mixture to latent vectors and make it the prior."""
    device = model.decoder.weight.device
    if device.type == "cuda" and len(z) >= n_components:
        fitted = fit_mixture_on(device, z, n_components, seed)
    else:
        fitted = fit_mixture(z, n_components, seed, n_init=1)
    model.prior.set(*(torch.from_numpy(np.asarray(array, np.float32)) for array in fitted))
