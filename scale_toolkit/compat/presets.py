"""The presets ``paper`` and ``release``: SCALE as published, and as its release 1.1.2 computes it.

Xiong et al. 2019, Nat Commun 10:4576. The terms of the loss are those of `model.mixture` and
`model.loss`; what differs from the default is the start (random weights), the prior's parameters,
the stopping rule and how cells are drawn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scale_toolkit.compat.draws import SequentialDraws
from scale_toolkit.model.batches import draws_for
from scale_toolkit.model.cells import OnGpu, place_cells
from scale_toolkit.model.encoder_view import EncoderView
from scale_toolkit.model.held_out import Thinned
from scale_toolkit.model.network import Scale, Shape
from scale_toolkit.model.recipes import (
    HELD_OUT_SHARE,
    Trained,
    encode,
    fit_to_last_good,
    set_mixture,
    watched_cells,
)
from scale_toolkit.model.seed import generators, seeded_weights
from scale_toolkit.model.snapshot import History

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from scale_toolkit.core.rows import RowSource
    from scale_toolkit.model.snapshot import Snapshot


def train_published(
    source: RowSource,
    *,
    n_components: int,
    latent: int,
    encode_dim: tuple[int, ...],
    decode_dim: tuple[int, ...],
    lr: float,
    batch_size: int,
    max_iter: int,
    max_epochs: int | None = None,
    weight_decay: float,
    patience: int,
    log_transform: bool,
    release: bool,
    seed: int,
    device: torch.device,
    gpu: OnGpu | None = None,
    on_epoch: Callable[[int, History], None] | None = None,
    resume: Snapshot | None = None,
    on_snapshot: Callable[[Callable[[], Snapshot]], None] | None = None,
) -> Trained:
    """Train the published model: random weights, a mixture fitted to the untrained encoder.

    As published (preset ``paper``), π and σ² stay valid by construction, training stops when hidden
    open peaks are no longer predicted better (`patience` epochs), and the latent vector is the
    posterior mean.

    Parameters
    ----------
    source
        Counts; open peaks are modelled.
    release
        Compute what 1.1.2 computes (preset ``release``): π and σ² unconstrained, a floor below γ,
        no early stopping, the last partial batch dropped, and a latent vector that is a random
        sample.
    gpu
        How a GPU is used. Its random numbers and products are the default model's; on the CPU both
        are those of every earlier version.
    Others
        As in `trainer.fit`.

    Returns
    -------
    The trained model.
    """
    rng, _ = generators(seed)
    thinned = source if release else Thinned(source, HELD_OUT_SHARE, watched_cells(source), seed)
    on_gpu = device.type == "cuda"
    cells = place_cells(thinned, EncoderView(log_transform, published=True), device, gpu)
    shape = Shape(
        source.n_peaks, latent, n_components, encode_dim, decode_dim, release_prior=release
    )
    with seeded_weights(seed):
        model = Scale(shape)
        model.reset_as_published()
    model.to(device)

    def put_mixture(mean: np.ndarray) -> None:
        set_mixture(model, drawn() if release else mean, n_components, seed)

    def drawn() -> np.ndarray:
        untrained = Trained(model, None, None, log_transform, release, History())
        return encode(untrained, source, seed=seed, gpu=gpu).latent

    history, stopped = fit_to_last_good(
        model,
        cells,
        np.zeros(source.n_cells),
        rng=rng,
        draws=draws_for(cells, seed) if on_gpu else SequentialDraws(seed, rng),
        batch_size=min(batch_size, source.n_cells),
        max_iter=max_iter,
        max_epochs=max_epochs or max_iter,
        lr=lr,
        weight_decay=weight_decay,
        clip=10.0,
        on_mixture=put_mixture,
        drop_last=release,
        patience=0 if release else patience,
        on_epoch=on_epoch,
        resume=resume,
        on_snapshot=on_snapshot,
    )
    return Trained(model, None, None, log_transform, release, history, stopped)
