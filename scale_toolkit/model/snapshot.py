"""The state of a training at the end of an epoch as plain arrays and values: the content of a
checkpoint.

A training that resumes from a snapshot gives the same result as one without interruption. The
snapshot holds weights, the optimiser's moments, the generators' states, the number of steps (from
which random numbers follow, `draws`), the best weights so far and the state of early stopping.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from scale_toolkit.model.draws import Draws
    from scale_toolkit.model.network import Scale
    from scale_toolkit.model.optimiser import Adam

# nats a hidden peak: a smaller rise of the held-out likelihood is chance, and seeds differ by more
ENOUGH = 1e-3


class NotThisTraining(ValueError):
    """A snapshot does not fit the model; the message says what is wrong."""


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
class Rise:
    """Counts the epochs since a score last rose by more than `ENOUGH`."""

    score: float
    epochs_without: int = 0

    def see(self, score: float) -> None:
        """Take the score of one more epoch."""
        if score > self.score + ENOUGH:
            self.score, self.epochs_without = score, 0
        else:
            self.epochs_without += 1


@dataclass
class Course:
    """Everything that a training changes: model, optimiser, generator and the state of early
    stopping.

    Attributes
    ----------
    good, best
        Weights after the last epoch whose loss was a number, and of the best epoch so far.
    """

    model: Scale
    optimiser: Adam
    rng: np.random.Generator
    draws: Draws
    history: History = field(default_factory=History)
    rise: Rise = field(default_factory=lambda: Rise(np.inf))
    epoch: int = 0
    mixture: bool = False
    best_score: float = -np.inf

    def __post_init__(self) -> None:
        self.good = self.best = copy.deepcopy(self.model.state_dict())

    def snapshot(self) -> Snapshot:
        """Return a copy of the present state."""
        adam = self.optimiser
        moments = {"steps": adam.steps, "means": adam.means, "squares": adam.squares}
        tensors = {f"good/{name}": value for name, value in self.good.items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        tensors |= {
            f"adam/{kind}/{i}": value
            for kind, values in moments.items()
            for i, value in enumerate(values)
        }
        tensors |= {f"draws/{name}": value for name, value in self.draws.state().items()}
        facts = {
            "history": dataclasses.asdict(self.history),
            "rise": dataclasses.asdict(self.rise),
            "epoch": self.epoch,
            "mixture": self.mixture,
            "best_score": self.best_score,
            "rng": self.rng.bit_generator.state,
        }
        return Snapshot(
            {name: value.detach().cpu().numpy().copy() for name, value in tensors.items()}, facts
        )

    def put_back(self, snapshot: Snapshot) -> None:
        """Restore the state of `snapshot`.

        Raises
        ------
        NotThisTraining
            The snapshot is of a model of another shape, or is incomplete.
        """
        arrays, facts = snapshot.arrays, snapshot.facts
        expected = self.snapshot().arrays
        for name, value in expected.items():
            if name not in arrays or arrays[name].shape != value.shape:
                shape = arrays[name].shape if name in arrays else "nothing"
                raise NotThisTraining(f"{name} is {shape}, the model has {value.shape}")
        tensors = {name: torch.from_numpy(arrays[name].copy()) for name in expected}
        self.good, self.best = (
            {
                name: tensors[f"{kind}/{name}"].to(value)
                for name, value in self.model.state_dict().items()
            }
            for kind in ("good", "best")
        )
        self.model.load_state_dict(self.good)
        adam = self.optimiser
        for kind, values in (
            ("steps", adam.steps),
            ("means", adam.means),
            ("squares", adam.squares),
        ):
            for i, moment in enumerate(values):
                moment.copy_(tensors[f"adam/{kind}/{i}"])
        self.rng.bit_generator.state = facts["rng"]
        self.draws.put_back({name: tensors[f"draws/{name}"] for name in self.draws.state()})
        self.history, self.rise = History(**facts["history"]), Rise(**facts["rise"])
        self.epoch, self.mixture, self.best_score = (
            facts["epoch"],
            facts["mixture"],
            facts["best_score"],
        )


@dataclass
class Snapshot:
    """A `Course` as NumPy arrays by name, and JSON values."""

    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]
