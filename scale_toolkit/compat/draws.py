"""The random numbers of the published presets: two generators with a state, in the order of the
steps.

Results of these presets stay what every earlier version gave. The default model's numbers follow
from seed and step (`model.draws`), so that a GPU can replay a step without the host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scale_toolkit.model.draws import Draws, Purpose

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOISE = "noise"


class SequentialDraws(Draws):
    """Orders of cells from a NumPy generator, noise from a torch generator on the CPU.

    Numbers must be asked for in the order of the steps; `step` does not count. The published
    model draws nothing else: it hides no open peaks from its encoder and uses all of them.

    Parameters
    ----------
    seed
        Seed of the noise.
    rng
        Generator of the orders; its state belongs to the caller.
    """

    def __init__(self, seed: int, rng: np.random.Generator) -> None:
        super().__init__(seed)
        self._rng, self._noise = rng, torch.Generator().manual_seed(seed)

    def permutation(self, purpose: Purpose, step: int, n: int) -> torch.Tensor:
        """0 … n − 1 in a random order, int64."""
        return torch.from_numpy(self._rng.permutation(n))

    def normal(
        self, purpose: Purpose, step: int | torch.Tensor, shape: tuple[int, int]
    ) -> torch.Tensor:
        """Standard normal numbers of this shape, float32."""
        return torch.randn(shape, generator=self._noise)

    def bits(self, purpose: Purpose, step: int | torch.Tensor, n: int) -> torch.Tensor:
        """Refuse: the published model needs no other numbers.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(f"the published presets draw no {purpose.name.lower()}")

    def state(self) -> dict[str, torch.Tensor]:
        """State of the noise, uint8."""
        return {_NOISE: self._noise.get_state()}

    def put_back(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a state."""
        self._noise.set_state(state[_NOISE])
