"""SCALE's default training, from a row source to a trained model: read it from top to bottom.

Depth is taken out first, the encoder starts as a spectral projection, the decoder one Newton step from there, and the mixture
joins once the space has settled. The published model from random weights is `compat.presets.train_published`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from scale_toolkit.core.depth import cell_offsets, open_sums, rasch
from scale_toolkit.core.rows import RowSource, binarise, blocks
from scale_toolkit.core.weighting import Weighting, fit_weighting
from scale_toolkit.model.batches import Neighbours
from scale_toolkit.model.calibrate import calibrated
from scale_toolkit.model.held_out import Thinned
from scale_toolkit.model.loss import PeakSampler
from scale_toolkit.model.network import Scale, Shape, directions, sample
from scale_toolkit.model.seed import generators, seeded_weights
from scale_toolkit.model.snapshot import History, Snapshot
from scale_toolkit.model.start import decoder_step, fit_mixture
from scale_toolkit.model.trainer import Diverged, fit, latent_means, some_cells
from scale_toolkit.model.views import WeightedRows, find_start, linear_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy import sparse

HELD_OUT_SHARE = 0.05  # of the open peaks of a watched cell
HELD_OUT_PEAKS = 50_000  # hidden in all, about: more tell no more, and each watched cell costs a row of all peaks an epoch
HELD_OUT_CELLS = 2000  # watched at most
ALL_PEAKS_UP_TO = 10_000  # more peaks than this: the softplus sum is estimated from a subset of SAMPLED_PEAKS
SAMPLED_PEAKS = 5_000
STEPS_PER_EPOCH = 16  # an epoch of the fast recipe: one pass over the cells, so many steps or a sixteenth of a pass
NEAR_AMONG = 10_000  # the nearest cells are searched among so many random ones: exact up to there, linear in cells beyond


@dataclass
class Trained:
    """A trained model and what encoding a cell needs besides: all of it can be written to a file and read back.

    Attributes
    ----------
    model
        Encoder, prior, decoder.
    depth_bias
        b of the depth-only model, (peaks,) float64, from which a cell's offset follows; None: no offsets.
    weighting
        How the encoder sees a cell; None: as open peaks (or log counts) are.
    log_transform
        The encoder sees log2(count + 1) instead of open peaks.
    sampled
        The latent vector is one random sample of z, as in release 1.1.2, not its mean.
    history
        Learning curves.
    stopped
        What went wrong, where training had to stop early with the last good weights.
    """

    model: Scale
    depth_bias: np.ndarray | None
    weighting: Weighting | None
    log_transform: bool
    sampled: bool
    history: History
    stopped: str = ""

    def encoder_input(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Counts of some cells as the encoder sees them."""
        rows = view(counts, log_transform=self.log_transform)
        return rows if self.weighting is None else self.weighting(rows)

    def offsets(self, n_open: np.ndarray) -> np.ndarray:
        """Depth offset of cells with so many open peaks, (cells,); 0 where the model has none."""
        if self.depth_bias is None:
            return np.zeros(len(n_open))
        return cell_offsets(n_open, self.depth_bias)


@dataclass
class Encoded:
    """What the model says of cells: latent (cells, d), hidden (cells, h), posterior (cells, k), offset (cells,)."""

    latent: np.ndarray
    hidden: np.ndarray
    posterior: np.ndarray
    offset: np.ndarray


def view(counts: sparse.csr_matrix, *, log_transform: bool) -> sparse.csr_matrix:
    """Open peaks as ones, or log2(count + 1)."""
    if not log_transform:
        return binarise(counts)
    logged = counts.astype(np.float32)
    logged.eliminate_zeros()
    logged.data = np.log2(logged.data + 1)
    return logged


@torch.no_grad()
def encode(trained: Trained, source: RowSource, *, seed: int) -> Encoded:
    """Posterior means (or samples), hidden layer, responsibilities and offsets of every cell of `source`."""
    _, noise = generators(seed)
    latent, hidden, posterior, n_open = [], [], [], []
    for _, rows in blocks(source):
        mean, log_variance = trained.model(trained.encoder_input(rows))
        z = sample(mean, log_variance, torch.randn(mean.shape, generator=noise).to(mean)) if trained.sampled else mean
        latent.append(z.cpu().numpy())
        hidden.append(trained.model.decoder(z).cpu().numpy())
        posterior.append(trained.model.prior.responsibilities(z).cpu().numpy())
        n_open.append(np.diff(binarise(rows).indptr))
    return Encoded(
        np.concatenate(latent),
        np.concatenate(hidden),
        np.concatenate(posterior),
        trained.offsets(np.concatenate(n_open)).astype(np.float32),
    )


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
    on_epoch: Callable[[int, History], None] | None = None,
    resume: Snapshot | None = None,
    on_snapshot: Callable[[Callable[[], Snapshot]], None] | None = None,
) -> Trained:
    """Depth offsets, spectral start, one Newton step for the decoder, then ELBO steps on all of it.

    Parameters
    ----------
    source
        Counts; open peaks are modelled.
    latent
        Dimensions of z; None: as many as rise above chance in the start (`views.find_start`).
    n_neighbors, neighbour_share
        In a step, this share of the cells reconstructs one of its nearest cells by all spectral coordinates instead of itself.
    ridge
        Precision of a normal prior on the decoder's loadings in the Newton step.
    Others
        As in `trainer.fit`.
    """
    rng, noise = generators(seed)
    thinned = Thinned(source, HELD_OUT_SHARE, watched_cells(source), seed)
    cell_sums, peak_sums = open_sums(thinned)
    offset, bias = rasch(cell_sums, peak_sums)

    def encoder_input(counts: sparse.csr_matrix) -> sparse.csr_matrix:
        return weighting(view(counts, log_transform=log_transform))

    weighting = fit_weighting(source.n_cells, peak_sums)
    n_threads = torch.get_num_threads()
    start = find_start(thinned, peak_sums, latent, n_threads, seed)
    latent = start.coordinates.shape[1]
    rows = WeightedRows(thinned, encoder_input, n_threads)
    projection = linear_map(rows, start.coordinates)
    shape = Shape(source.n_peaks, latent, n_components, encode_dim, decode_dim, spectral_dim=latent)
    with seeded_weights(seed):
        model = Scale(shape)
    model.encoder.start(torch.from_numpy(projection))
    with torch.no_grad():
        if not decode_dim:
            z = directions(torch.from_numpy(rows.times(projection)), latent).numpy()
            model.decoder.weight.copy_(torch.from_numpy(decoder_step(thinned, z, offset, bias, ridge)))
        model.decoder.bias.copy_(torch.from_numpy(bias.astype(np.float32)))
    model.to(device)
    untrained = copy.deepcopy(model.state_dict())

    def put_mixture(z: np.ndarray) -> None:
        set_mixture(model, z, n_components, seed)

    history, stopped = fit_to_last_good(
        model,
        thinned,
        encoder_input,
        offset,
        rng=rng,
        noise=noise,
        batch_size=batch_size,
        max_iter=max_iter,
        max_epochs=max_epochs,
        lr=lr,
        weight_decay=weight_decay,
        mask=mask,
        neighbours=near_cells(start.coordinates, n_neighbors, neighbour_share, rng),
        sampler=sampler_of(peak_sums, source.n_cells),
        on_mixture=put_mixture,
        mixture_epoch=mixture_epoch,
        steps_per_epoch=max(STEPS_PER_EPOCH, source.n_cells // (STEPS_PER_EPOCH * batch_size)),
        patience=patience,
        on_epoch=on_epoch,
        resume=resume,
        on_snapshot=on_snapshot,
    )
    if patience and is_below_start(history):
        model.load_state_dict(untrained)
        put_mixture(latent_means(model, thinned, encoder_input, some_cells(source.n_cells, rng)))
        history.best_epoch = 0
    calibrate(model, thinned, encoder_input, offset, peak_sums, rng)
    return Trained(model, bias, weighting, log_transform, sampled=False, history=history, stopped=stopped)


def is_below_start(history: History) -> bool:
    """Whether training has not raised the held-out likelihood above that of its start, so that the start is kept."""
    return history.held_out[history.best_epoch] <= history.held_out[0]


def watched_cells(source: RowSource) -> int:
    """How many cells to hide open peaks of, so that about `HELD_OUT_PEAKS` are hidden in all; judged by the first 1,000."""
    first = source.rows(np.arange(min(source.n_cells, 1000)))
    hidden_a_cell = HELD_OUT_SHARE * max(first.nnz / first.shape[0], 1)
    return min(HELD_OUT_CELLS, int(np.ceil(HELD_OUT_PEAKS / hidden_a_cell)))


def fit_to_last_good(model: Scale, *args, **settings) -> tuple[History, str]:
    """Call `trainer.fit`; if training diverges after the first epoch, keep the last good weights and return the reason."""
    try:
        return fit(model, *args, **settings), ""
    except Diverged as error:
        if error.epoch == 1:
            raise
        return error.history, str(error)


@torch.no_grad()
def calibrate(
    model: Scale,
    thinned: Thinned,
    encoder_input: Callable[[sparse.csr_matrix], sparse.csr_matrix],
    offset: np.ndarray,
    peak_sums: np.ndarray,
    rng: np.random.Generator,
) -> float:
    """Give the decoder loadings and intercepts whose probabilities can be taken at their word (`calibrate.calibrated`); t."""
    cells = some_cells(thinned.n_cells, rng)
    of = np.arange(thinned.n_cells) if cells is None else cells

    def decoded(rows: sparse.csr_matrix) -> np.ndarray:
        return model.decoder(model(encoder_input(rows))[0]).float().cpu().numpy()

    h = np.concatenate([decoded(rows) for _, rows in blocks(thinned, cells=cells)])
    weight, bias = (part.detach().cpu().numpy() for part in (model.decoder.weight, model.decoder.bias))
    watched = decoded(thinned.kept), offset[thinned.cells]
    counts = peak_sums * (len(of) / thinned.n_cells)
    weight, bias, t = calibrated(weight, bias, h, offset[of], counts, watched, thinned.kept, thinned.hidden, rng)
    model.decoder.weight.copy_(torch.from_numpy(weight))
    model.decoder.bias.copy_(torch.from_numpy(bias))
    return t


def near_cells(coordinates: np.ndarray, n_neighbors: int, share: float, rng: np.random.Generator) -> Neighbours | None:
    """The nearest cells of each cell by cosine, itself left out; None for a single cell or no share.

    Of more than `NEAR_AMONG` cells, random groups of about that size are searched one by one.
    """
    from sklearn.neighbors import NearestNeighbors

    n_cells = len(coordinates)
    n = min(n_neighbors, n_cells - 1)
    if n < 1 or share == 0:
        return None
    unit = coordinates / np.maximum(np.linalg.norm(coordinates, axis=1, keepdims=True), 1e-12)
    index = np.empty((n_cells, n), np.int64)
    for group in np.array_split(rng.permutation(n_cells), -(-n_cells // NEAR_AMONG)):
        found = NearestNeighbors(n_neighbors=n, algorithm="brute").fit(unit[group]).kneighbors(return_distance=False)
        index[group] = group[found]
    return Neighbours(index, share)


def sampler_of(peak_sums: np.ndarray, n_cells: int) -> PeakSampler | None:
    """A sampler of peaks where there are too many to sum over in each step."""
    if len(peak_sums) <= ALL_PEAKS_UP_TO:
        return None
    return PeakSampler(peak_sums / n_cells, SAMPLED_PEAKS)


def set_mixture(model: Scale, z: np.ndarray, n_components: int, seed: int) -> None:
    """Fit a mixture to latent vectors and make it the prior."""
    fitted = fit_mixture(z, n_components, seed, n_init=1)
    model.prior.set(*(torch.from_numpy(np.asarray(part, np.float32)) for part in fitted))
