"""The training loop: real steps on the evidence lower bound, watched by a likelihood it does not train on.

Prints nothing, opens nothing: progress reaches the caller through `on_epoch`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from scale_toolkit.core.held_out import Thinned, hidden_likelihood, keep_entries
from scale_toolkit.core.loss import PeakSampler, open_logits, softplus_sum
from scale_toolkit.core.mixture import standard_divergence
from scale_toolkit.core.model import Scale, sample
from scale_toolkit.core.optimiser import Adam
from scale_toolkit.core.sparse import RowSource, binarise, blocks

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy import sparse

#: Counts of some cells (CSR) to what the encoder sees of them (CSR).
EncoderInput = "Callable[[sparse.csr_matrix], sparse.csr_matrix]"


class Diverged(ArithmeticError):
    """A loss or a weight is no longer a number; the model holds the last good weights."""

    def __init__(self, epoch: int, parameter: str, history: History) -> None:
        self.epoch, self.parameter, self.history = epoch, parameter, history
        super().__init__(f"not a number in epoch {epoch}, in {parameter}")


@dataclass
class History:
    """Learning curves, one value an epoch; `held_out` also has the start's as its first value."""

    loss: list[float] = field(default_factory=list)
    reconstruction: list[float] = field(default_factory=list)
    divergence: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    best_epoch: int = 0
    steps: int = 0


@dataclass
class Neighbours:
    """Cells near each cell, (cells, n) int; a step may reconstruct one of them instead of the cell itself."""

    index: np.ndarray
    share: float


def fit(
    model: Scale,
    source: RowSource,
    encoder_input: EncoderInput,
    offsets: np.ndarray,
    *,
    rng: np.random.Generator,
    noise: torch.Generator,
    batch_size: int,
    max_iter: int,
    max_epochs: int,
    lr: float,
    weight_decay: float,
    clip: float | None = None,
    mask: float = 0.0,
    neighbours: Neighbours | None = None,
    sampler: PeakSampler | None = None,
    on_mixture: Callable[[np.ndarray], None] | None = None,
    mixture_epoch: int = 0,
    drop_last: bool = False,
    patience: int = 0,
    on_epoch: Callable[[int, History], None] | None = None,
) -> History:
    """Train `model` in place; where `source` hides open peaks (`Thinned`), end at the epoch that gave them most.

    Parameters
    ----------
    source
        Cells to train on.
    encoder_input
        Turns counts into what the encoder sees.
    offsets
        Depth offset of each cell's logits, (cells,); zeros in the published model.
    batch_size, max_iter, max_epochs
        Cells a step; upper bounds on steps and on passes over the cells.
    lr, weight_decay, clip
        Of Adam; `clip` bounds the gradient's norm.
    mask
        Share of a cell's open peaks hidden from the encoder in each step, new ones every time.
    neighbours
        Where given, that share of targets is a random near cell's peaks.
    sampler
        Draws the peaks that estimate the softplus sum; without it all peaks are used.
    on_mixture, mixture_epoch
        Before this epoch the prior is a plain N(0, I); then `on_mixture` is called with the latent means of all cells, to
        put a mixture in place, and the mixture is trained with the rest.
    drop_last
        Leave out the last, smaller batch, as the release does.
    patience
        Epochs without a better held-out likelihood after which training stops; 0 trains to the end and keeps the last.
    on_epoch
        Called after each epoch.

    Raises
    ------
    Diverged
        Where the loss is no longer a number.
    """
    device = model.decoder.weight.device
    offset = torch.from_numpy(offsets.astype(np.float32)).to(device)
    optimiser = Adam(model.parameters(), lr, weight_decay)
    held_out = source if isinstance(source, Thinned) else None
    history = History()
    if held_out is not None:
        history.held_out.append(held_out_likelihood(model, held_out, encoder_input, offset))
    good = copy.deepcopy(model.state_dict())
    best, best_score = good, history.held_out[0] if held_out is not None else -np.inf
    mixture = False
    for epoch in range(1, max_epochs + 1):
        if not mixture and epoch > mixture_epoch:
            if on_mixture is not None:
                on_mixture(latent_means(model, source, encoder_input))
            mixture = True
        sums = np.zeros(2)
        n_seen = 0
        for index in batches(rng.permutation(source.n_cells), batch_size, drop_last=drop_last):
            rows = source.rows(index)
            target = index
            if neighbours is not None:
                target = swap(index, neighbours, rng)
            opened = binarise(rows if target is index else source.rows(target))
            seen = keep_entries(rows, rng.random(rows.nnz) >= mask) if mask else rows

            mean, log_variance = model(encoder_input(seen))
            z = sample(mean, log_variance, torch.randn(mean.shape, generator=noise).to(device))
            parts = elbo_parts(model, z, mean, log_variance, opened, offset[target], mixture, sampler, rng)
            loss = (parts["reconstruction"] + parts["divergence"]) / len(index)

            optimiser.zero_grad()
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimiser.step()
            sums += [float(parts["reconstruction"].detach()), float(parts["divergence"].detach())]
            n_seen += len(index)
            history.steps += 1
            if history.steps >= max_iter:
                break
        broken = not_a_number(model, sums)
        if broken:
            model.load_state_dict(good)
            raise Diverged(epoch, broken, history)
        good = copy.deepcopy(model.state_dict())
        history.reconstruction.append(sums[0] / n_seen)
        history.divergence.append(sums[1] / n_seen)
        history.loss.append(sums.sum() / n_seen)
        if held_out is not None:
            history.held_out.append(held_out_likelihood(model, held_out, encoder_input, offset))
            # Before the mixture is in place the model is not yet SCALE's: those weights are never the ones kept.
            if history.held_out[-1] > best_score or epoch == mixture_epoch + 1:
                best, best_score, history.best_epoch = good, history.held_out[-1], epoch
        if on_epoch is not None:
            on_epoch(epoch, history)
        if history.steps >= max_iter or (patience and epoch - max(history.best_epoch, mixture_epoch) >= patience):
            break
    if patience:
        model.load_state_dict(best)
    else:
        history.best_epoch = len(history.loss)
    return history


def elbo_parts(
    model: Scale,
    z: torch.Tensor,
    mean: torch.Tensor,
    log_variance: torch.Tensor,
    opened: sparse.csr_matrix,
    offset: torch.Tensor,
    mixture: bool,
    sampler: PeakSampler | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, torch.Tensor]:
    """The two parts of the negative ELBO, summed over cells: ``reconstruction`` and ``divergence``."""
    decoder = model.decoder
    h = decoder(z)
    subset = scale = None
    if sampler is not None:
        subset, scale = (torch.from_numpy(part).to(h.device) for part in sampler.draw(rng))
    likelihood = open_logits(opened, h, decoder.weight, decoder.bias, offset) - softplus_sum(
        h, decoder.weight, decoder.bias, offset, subset, scale
    )
    divergence = model.prior.divergence(z, mean, log_variance) if mixture else standard_divergence(mean, log_variance)
    return {"reconstruction": -likelihood.sum(), "divergence": divergence.sum()}


def batches(order: np.ndarray, size: int, *, drop_last: bool) -> list[np.ndarray]:
    """Cut an order of cells into batches; a remainder smaller than half a batch joins the one before it."""
    full = len(order) // size
    if drop_last:
        return np.split(order[: full * size], full) if full else [order]
    parts = max(full + (len(order) % size >= size / 2), 1)
    return [order[i * size : (i + 1) * size if i < parts - 1 else None] for i in range(parts)]


def swap(index: np.ndarray, neighbours: Neighbours, rng: np.random.Generator) -> np.ndarray:
    """Each cell, or with probability `neighbours.share` a random one of its neighbours."""
    chosen = rng.random(len(index)) < neighbours.share
    column = rng.integers(0, neighbours.index.shape[1], len(index))
    return np.where(chosen, neighbours.index[index, column], index)


@torch.no_grad()
def latent_means(model: Scale, source: RowSource, encoder_input: EncoderInput) -> np.ndarray:
    """Posterior mean of z of every cell, (cells, latent) float32."""
    return np.concatenate([model(encoder_input(rows))[0].cpu().numpy() for _, rows in blocks(source)])


@torch.no_grad()
def held_out_likelihood(model: Scale, thinned: Thinned, encoder_input: EncoderInput, offset: torch.Tensor) -> float:
    """Mean log-likelihood of a hidden open peak, in nats, given what is left of its cell (`held_out.hidden_likelihood`)."""
    mean, _ = model(encoder_input(thinned.kept))
    decoder = model.decoder
    cells = torch.from_numpy(thinned.cells).to(offset.device)
    return hidden_likelihood(thinned.hidden, decoder(mean), decoder.weight, decoder.bias, offset[cells])


def not_a_number(model: Scale, sums: np.ndarray) -> str:
    """Name of the first parameter that is not finite, or of the loss part; empty where all is well."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return name
    for name, value in zip(("reconstruction", "divergence"), sums, strict=True):
        if not np.isfinite(value):
            return f"the {name} loss"
    return ""
