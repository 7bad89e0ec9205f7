"""Random generators from the user's seed; every random choice of the model uses one of them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator


def generators(seed: int) -> tuple[np.random.Generator, torch.Generator]:
    """One generator for order, masks and neighbours (NumPy), one for noise (torch, on the CPU
    whatever the device).
    """
    return np.random.default_rng(seed), torch.Generator().manual_seed(seed)


@contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Build modules inside: their random weights follow from `seed`, and torch's global
    generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
