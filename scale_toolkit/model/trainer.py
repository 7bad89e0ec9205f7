"""The training loop: real steps on the evidence lower bound, watched by a likelihood it does not
train on.

Prints nothing, opens nothing: progress reaches the caller through `on_epoch`.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import torch

from scale_toolkit.model.batches import Batch, Loader, Neighbours
from scale_toolkit.model.cells import Cells, CellsOnDevice
from scale_toolkit.model.draws import Draws
from scale_toolkit.model.graphs import GraphedSteps
from scale_toolkit.model.held_out import Thinned, hidden_likelihood
from scale_toolkit.model.loss import PeakSampler, open_logits, softplus_sum
from scale_toolkit.model.mixture import standard_divergence
from scale_toolkit.model.network import Scale, sample
from scale_toolkit.model.optimiser import Adam
from scale_toolkit.model.snapshot import Course, History, Rise, Snapshot
from scale_toolkit.model.team import ALONE, Team

if TYPE_CHECKING:
    from collections.abc import Callable

# The mixture is first fitted to at most this many cells: more do not change the fit.
MIXTURE_CELLS = 20_000
SETTLED_AFTER = 3  # epochs without a rise after which the mixture joins, before its epoch has come


class Diverged(ArithmeticError):
    """A loss or a weight is no longer a number; the model holds the last good weights."""

    def __init__(self, epoch: int, parameter: str, history: History) -> None:
        self.epoch, self.parameter, self.history = epoch, parameter, history
        super().__init__(f"not a number in epoch {epoch}, in {parameter}")


def fit(
    model: Scale,
    cells: Cells,
    offsets: np.ndarray,
    *,
    rng: np.random.Generator,
    draws: Draws,
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
    steps_per_epoch: int = 0,
    patience: int = 0,
    min_steps: int = 0,
    on_epoch: Callable[[int, History], None] | None = None,
    resume: Snapshot | None = None,
    on_snapshot: Callable[[Callable[[], Snapshot]], None] | None = None,
    team: Team = ALONE,
) -> History:
    """Train `model` in place; if open peaks are hidden from the cells (`Thinned`), end at the epoch
    that gave them most.

    Parameters
    ----------
    cells
        Cells to train on, those of this process.
    offsets
        Depth offset of each cell's logits, (cells,); zeros in the published model.
    rng, draws
        Random choices: `rng` which cells the mixture is fitted to, `draws` everything in a step
        (`batches.draws_for`).
    batch_size, max_iter, max_epochs
        Cells a step, of all processes; upper bounds on steps and on passes over the cells.
    lr, weight_decay, clip
        Of Adam; `clip` bounds the gradient's norm.
    mask
        Share of a cell's open peaks hidden from the encoder in each step, new ones every time.
    neighbours
        If given, that share of targets is a random near cell's peaks.
    sampler
        Draws the peaks that estimate the softplus sum; without it all peaks are used.
    on_mixture, mixture_epoch
        Up to this epoch, or until the held-out likelihood has not risen for `SETTLED_AFTER` epochs,
        the prior is a plain N(0, I); then `on_mixture` is called with the latent means of all
        cells, to put a mixture in place (of `MIXTURE_CELLS` if there are more), and the mixture
        is trained with the rest.
    drop_last
        Leave out the last, smaller batch, as the release does.
    steps_per_epoch
        An epoch is a pass over the cells, or this many steps on random cells if a pass takes more;
        0: always a pass.
    patience
        Epochs without a rise of the held-out likelihood after which training stops, counted from
        the mixture on, with the weights of the best epoch; 0 trains to the end and keeps the last.
    min_steps
        Steps before which `patience` does not end training.
    on_epoch
        Called after each epoch.
    resume
        Go on from here instead of from the first epoch; everything else must be as it was then.
    on_snapshot
        Called after each epoch with a function that makes the snapshot to go on from.
    team
        The processes that train the model: each step has cells of all of them, and the same
        gradients.

    Raises
    ------
    Diverged
        The loss is no longer a number.
    NotThisTraining
        `resume` does not fit the model.
    """
    loader = Loader(
        cells, offsets, draws, model.shape.latent, mask=mask, neighbours=neighbours, sampler=sampler
    )
    n_cells = int(team.total(cells.n_cells))
    held_out = cells.source if isinstance(cells.source, Thinned) else None
    course = Course(model, Adam(model.parameters(), lr, weight_decay), rng, draws)
    if resume is not None:
        course.put_back(resume)
    elif held_out is not None:
        course.history.held_out.append(held_out_likelihood(model, cells, held_out, offsets, team))
        course.rise = Rise(course.history.held_out[0])
    history = course.history
    graphs = None
    if isinstance(cells, CellsOnDevice) and cells.device.type == "cuda":
        # torch's own operations ask the GPU how many entries a batch has: no graph can hold that
        graphs = GraphedSteps(loader, enabled=cells.store.fused and team.size == 1)

    def ended() -> bool:
        stopped = (
            patience > 0
            and course.mixture
            and course.rise.epochs_without >= patience
            and history.steps >= min_steps
        )
        return course.epoch >= max_epochs or history.steps >= max_iter or stopped

    while not ended():
        course.epoch += 1
        if not course.mixture and (
            course.epoch > mixture_epoch or course.rise.epochs_without >= SETTLED_AFTER
        ):
            if on_mixture is not None:
                on_mixture(latent_means(model, cells, some_cells(n_cells, rng), team))
            course.mixture, course.rise = True, Rise(-np.inf)
        parts = loader.index(
            course.epoch,
            batch_size,
            drop_last=drop_last,
            max_steps=steps_per_epoch,
            n_cells=n_cells,
        )
        parts = parts[: max_iter - history.steps]
        n_seen = team.total(sum(map(len, parts)))
        sums = train_epoch(
            model,
            course.optimiser,
            loader,
            parts,
            history.steps,
            mixture=course.mixture,
            clip=clip,
            graphs=graphs,
            team=team,
        )
        # processors of different machines may round differently
        team.share(model)
        history.steps += len(parts)
        broken = not_a_number(model, sums)
        if broken:
            model.load_state_dict(course.good)
            raise Diverged(course.epoch, broken, history)
        course.good = copy.deepcopy(model.state_dict())
        history.reconstruction.append(float(sums[0] / n_seen))
        history.divergence.append(float(sums[1] / n_seen))
        history.loss.append(float(sums.sum() / n_seen))
        if held_out is not None:
            history.held_out.append(held_out_likelihood(model, cells, held_out, offsets, team))
            course.rise.see(history.held_out[-1])
            # Before the mixture is in place the model is not yet SCALE's: those weights are never
            # the ones kept.
            if course.mixture and history.held_out[-1] > course.best_score:
                course.best, course.best_score, history.best_epoch = (
                    course.good,
                    history.held_out[-1],
                    course.epoch,
                )
        if on_epoch is not None:
            on_epoch(course.epoch, history)
        if on_snapshot is not None:
            on_snapshot(course.snapshot)
    if patience and history.best_epoch:
        model.load_state_dict(course.best)
    else:
        history.best_epoch = len(history.loss)
    return history


def some_cells(n_cells: int, rng: np.random.Generator) -> np.ndarray | None:
    """Which cells the mixture is fitted to: `MIXTURE_CELLS` random ones; None for all if
    there are no more.
    """
    return (
        None
        if n_cells <= MIXTURE_CELLS
        else np.sort(rng.choice(n_cells, MIXTURE_CELLS, replace=False))
    )


def train_epoch(
    model: Scale,
    optimiser: Adam,
    loader: Loader,
    parts: list[torch.Tensor],
    first_step: int,
    *,
    mixture: bool,
    clip: float | None,
    graphs: GraphedSteps | None = None,
    team: Team = ALONE,
) -> np.ndarray:
    """One step on each batch of cells; returns the parts of the negative ELBO summed over all, (2,)
    float64.

    The host waits for a GPU only at the end.
    """

    def take(batch: Batch) -> torch.Tensor:
        return step(model, optimiser, batch.wait(), mixture=mixture, clip=clip, team=team)

    if graphs is not None:
        return team.total(graphs.run(parts, first_step, take, (mixture, clip)))
    losses = [take(batch).detach() for batch in loader.epoch(parts, first_step)]
    return team.total(torch.stack(losses).cpu().double().sum(0).numpy())


def step(
    model: Scale,
    optimiser: Adam,
    batch: Batch,
    *,
    mixture: bool,
    clip: float | None,
    team: Team = ALONE,
) -> torch.Tensor:
    """One step along the gradient of the negative ELBO; returns its two parts, summed over the
    batch's cells.
    """
    optimiser.zero_grad()
    mean, log_variance = model(batch.encoder_rows)
    z = sample(mean, log_variance, batch.noise)
    parts = elbo_parts(model, z, mean, log_variance, batch, mixture=mixture)
    (parts.sum() / len(batch)).backward()
    team.average_gradients(model, len(batch))
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
    return parts


def elbo_parts(
    model: Scale,
    z: torch.Tensor,
    mean: torch.Tensor,
    log_variance: torch.Tensor,
    batch: Batch,
    *,
    mixture: bool,
) -> torch.Tensor:
    """The two parts of the negative ELBO, summed over cells: reconstruction and divergence,
    (2,).
    """
    decoder = model.decoder
    h = decoder(z)
    likelihood = open_logits(
        batch.opened, h, decoder.weight, decoder.bias, batch.offset
    ) - softplus_sum(
        h, decoder.weight, decoder.bias, batch.offset, batch.subset, batch.scale, batch.shift
    )
    if batch.open_shift is not None:
        likelihood = likelihood + batch.open_shift
    divergence = (
        model.prior.divergence(z, mean, log_variance)
        if mixture
        else standard_divergence(mean, log_variance)
    )
    return torch.stack([-likelihood.sum(), divergence.sum()])


@torch.no_grad()
def latent_means(
    model: Scale, cells: Cells, index: np.ndarray | None = None, team: Team = ALONE
) -> np.ndarray:
    """Posterior mean of z of every cell, or of those in `index`, (cells, latent) float32, in the
    leader.
    """
    if index is not None:
        index = team.local(index, int(team.total(cells.n_cells)))
    return team.gathered(of_blocks(lambda block: model(cells.seen(block))[0], cells, index))


def of_blocks(
    values: Callable[[np.ndarray], torch.Tensor], cells: Cells, index: np.ndarray | None = None
) -> np.ndarray:
    """Return what `values` gives for blocks of all cells or of those in `index`, float32."""
    parts = [values(block) for block in cells.blocks(index)]
    # the rows of no cell have as many columns as those of any
    return torch.cat(parts or [values(np.arange(1))[:0]]).float().cpu().numpy()


@torch.no_grad()
def held_out_likelihood(
    model: Scale, cells: Cells, thinned: Thinned, offsets: np.ndarray, team: Team = ALONE
) -> float:
    """Mean log-likelihood of a hidden open peak, in nats, given what is left of its cell
    (`held_out.hidden_likelihood`).
    """
    if len(thinned.cells) == 0:
        return team.mean(0.0, 0)
    mean, _ = model(cells.seen(thinned.cells))
    decoder = model.decoder
    offset = torch.from_numpy(offsets[thinned.cells].astype(np.float32)).to(mean.device)
    h, effects = decoder(mean), cells.effects
    shift = None
    if effects is not None:
        shift = effects.logits, effects.codes[thinned.cells]
    likelihood = hidden_likelihood(thinned.hidden, h, decoder.weight, decoder.bias, offset, shift)
    return team.mean(likelihood, thinned.hidden.nnz)


def not_a_number(model: Scale, sums: np.ndarray) -> str:
    """Name of the first parameter that is not finite, or of the loss part; empty if all are
    finite.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return name
    for name, value in zip(("reconstruction", "divergence"), sums, strict=True):
        if not np.isfinite(value):
            return f"the {name} loss"
    return ""
