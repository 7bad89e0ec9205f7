"""Is ``--preset release`` the release's mathematics? The same weights, batches and noise, 100
training losses of both.

    PYTHON benchmarks/release_equality.py [--steps 100] [--cells 320] [--peaks 2000] [--write
    FILE.json]

PYTHON is the one of ``benchmarks/peers/install``: SCALE 1.1.2's own classes run beside this
project's `core`, on made peaks. Prints the largest relative difference of a step's loss, and the
seconds of a step of both. ``--write`` keeps the release's losses:
``tests/core/release_losses.json``, which the tests compare with where the release is not installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from scale_toolkit.core.rows import MatrixRows
from scale_toolkit.model.cells import CellsOnHost
from scale_toolkit.model.draws import Draws
from scale_toolkit.model.network import Scale, Shape
from scale_toolkit.model.seed import generators
from scale_toolkit.model.trainer import fit

LATENT, COMPONENTS, ENCODE = 10, 30, (1024, 128)


def cells_of(n_cells, n_peaks):
    """Open peaks of three planted kinds of cells, the same on every machine."""
    rng = np.random.default_rng(0)
    rates = rng.beta(0.6, 6, (3, n_peaks))
    return sparse.csr_matrix(
        (rng.random((n_cells, n_peaks)) < rates[np.arange(n_cells) % 3]).astype(np.float32)
    )


def start(n_peaks):
    """Model of the release preset with weights that NumPy draws, the same on every machine."""
    rng = np.random.default_rng(1)
    model = Scale(Shape(n_peaks, LATENT, COMPONENTS, ENCODE, release_prior=True))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("prior"):
                continue
            spread = (2 / sum(parameter.shape)) ** 0.5 if parameter.ndim == 2 else 0
            parameter.copy_(torch.from_numpy(rng.normal(0, 1, tuple(parameter.shape)) * spread))
        model.prior.means.copy_(torch.from_numpy(rng.normal(0, 1, (COMPONENTS, LATENT))))
        model.prior.variances.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, (COMPONENTS, LATENT))))
    return model


def batches_and_noise(n_cells, steps, size=32, seed=5):
    """Cells and noise of each step, as NumPy and torch draw them from this seed."""
    rng, noise = generators(seed)
    for _ in range(-(-steps // (n_cells // size))):
        order = rng.permutation(n_cells)
        for i in range(n_cells // size):
            yield order[i * size : (i + 1) * size], torch.randn(size, LATENT, generator=noise)


class RecordedDraws(Draws):
    """The order of the cells and the noise that the release's losses were recorded with: those
    of `batches_and_noise`.
    """

    def __init__(self, seed):
        super().__init__(seed)
        self.rng, self.generator = generators(seed)

    def permutation(self, purpose, step, n):
        """NumPy's permutation."""
        return torch.from_numpy(self.rng.permutation(n))

    def normal(self, purpose, step, shape):
        """torch's normal numbers."""
        return torch.randn(*shape, generator=self.generator)


def ours(cells, steps, size=32, seed=5):
    """Losses of a step a cell by `fit` as `compat.presets.train_published` calls it with
    ``release``; and seconds a step.
    """
    from scale_toolkit.model import trainer

    losses, step = [], trainer.step

    def watched(*args, **settings):
        parts = step(*args, **settings)
        losses.append(float(parts.detach().sum()) / size)
        return parts

    trainer.step = watched
    try:
        started = time.perf_counter()
        fit(
            start(cells.shape[1]),
            CellsOnHost(MatrixRows(cells), lambda rows: rows),
            np.zeros(cells.shape[0]),
            rng=generators(seed)[0],
            draws=RecordedDraws(seed),
            batch_size=size,
            max_iter=steps,
            max_epochs=steps,
            lr=2e-4,
            weight_decay=5e-4,
            clip=10.0,
            drop_last=True,
        )
    finally:
        trainer.step = step
    return np.array(losses), (time.perf_counter() - started) / steps


def theirs(cells, steps):
    """The same by the release's own model, loss, clipping and optimiser; its sampling layer is
    given our noise.
    """
    np.warnings = warnings
    setattr(np, "Inf", np.inf)  # noqa: B010
    from scale.model import SCALE

    model, weights = (
        SCALE([cells.shape[1], LATENT, list(ENCODE), []], COMPONENTS),
        dict(start(cells.shape[1]).named_parameters()),
    )
    pairs = {
        "encoder.hidden.0": "encoder.first",
        "encoder.hidden.2": "encoder.hidden.0",
        "encoder.sample.mu": "encoder.mean",
        "encoder.sample.log_var": "encoder.log_variance",
        "decoder.reconstruction": "decoder",
    }
    names = {
        f"{our_name}.{kind}": weights[f"{their_name}.{kind}"]
        for our_name, their_name in pairs.items()
        for kind in ("weight", "bias")
    }
    names["encoder.hidden.0.weight"] = names["encoder.hidden.0.weight"].T
    names |= {
        "pi": weights["prior.weights"],
        "mu_c": weights["prior.means"].T,
        "var_c": weights["prior.variances"].T,
    }
    model.load_state_dict({name: value.detach().clone() for name, value in names.items()})
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-4, weight_decay=5e-4)
    losses, dense = [], cells.toarray()
    seconds = 0.0
    for i, (index, noise) in enumerate(batches_and_noise(cells.shape[0], steps)):
        if i == steps:
            break
        model.encoder.sample.reparametrize = lambda mean, log_variance, noise=noise: mean.addcmul(
            log_variance.mul(0.5).exp(), noise
        )
        started = time.perf_counter()
        x = torch.from_numpy(dense[index]).float()
        optimiser.zero_grad()
        reconstruction, divergence = model.loss_function(x)
        loss = (reconstruction + divergence) / len(x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimiser.step()
        # the first step imports torch's compiler
        seconds += (time.perf_counter() - started) if i else 0
        losses.append(float(loss))
    return np.array(losses), seconds / (steps - 1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--cells", type=int, default=320)
    parser.add_argument("--peaks", type=int, default=2000)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    cells = cells_of(args.cells, args.peaks)
    expected, their_seconds = theirs(cells, args.steps)
    result, our_seconds = ours(cells, args.steps)
    print(
        f"{args.cells:,} cells × {args.peaks:,} peaks, {args.steps} steps: loss "
        f"{expected[0]:.3f} to {expected[-1]:.3f}"
    )
    print(f"largest relative difference of a loss: {np.abs(result / expected - 1).max():.2e}")
    print(
        f"seconds a step: release {their_seconds:.4f}, ours {our_seconds:.4f}: "
        f"{their_seconds / our_seconds:.1f} times as fast"
    )
    if args.write:
        facts = {
            "what": "losses of SCALE 1.1.2, one a step",
            "cells": args.cells,
            "peaks": args.peaks,
        }
        args.write.write_text(
            json.dumps(facts | {"losses": [round(float(loss), 6) for loss in expected]}) + "\n"
        )


if __name__ == "__main__":
    main()
