"""Random numbers as a function of seed, step and purpose: the same on every device, in any order
and after a resume.

A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3")
instead of one with a state: a training step can be replayed on a GPU without the host, and a
checkpoint needs the number of the step alone. The 64-bit mixing function is SplitMix64's (Steele et
al. 2014); masks of open peaks use the 32-bit one of Wellons ("lowbias32", 2018).
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

# Increment and multipliers of SplitMix64 (Steele, Lea and Flood 2014).
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Purpose(enum.IntEnum):
    """Uses of random numbers; each has its own stream."""

    ORDER = 1
    SWAP = 2
    NEIGHBOUR = 3
    MASK = 4
    PEAKS = 5
    NOISE = 6


class Draws:
    """Random tensors on one device, each named by a purpose and a step.

    Parameters
    ----------
    seed
        Seed of every stream.
    device
        Device of the tensors; the bits are the same on all devices.
    """

    def __init__(self, seed: int, device: torch.device | None = None) -> None:
        self.seed, self.device = seed, device or torch.device("cpu")

    def bits(self, purpose: Purpose, step: int | torch.Tensor, n: int) -> torch.Tensor:
        """Return `n` random 64-bit integers; `step` may be a tensor on the device, so that a
        CUDA graph can count it.
        """
        # odd constants without a common pattern keep the streams of steps and purposes apart
        key = (
            step * _signed(0xD1B54A32D192ED03)
            if isinstance(step, torch.Tensor)
            else _wrapped(step * 0xD1B54A32D192ED03)
        )
        start = key + _wrapped(_mixed(self.seed) + int(purpose) * 0xABC98388FB8FAC03)
        if not isinstance(start, torch.Tensor):
            start = torch.tensor(_wrapped(start), dtype=torch.int64, device=self.device)
        counter = torch.arange(1, n + 1, device=self.device) * _signed(_GOLDEN)
        return _mix(counter + _mix(start))

    def uniform(self, purpose: Purpose, step: int | torch.Tensor, n: int) -> torch.Tensor:
        """`n` numbers in [0, 1), multiples of 2⁻²⁴, float32."""
        return _shifted(self.bits(purpose, step, n), 40).float() * 2.0**-24

    def normal(
        self, purpose: Purpose, step: int | torch.Tensor, shape: tuple[int, int]
    ) -> torch.Tensor:
        """Standard normal numbers of this shape, float32 (Box and Muller 1958)."""
        n = shape[0] * shape[1]
        bits = self.bits(purpose, step, n)
        # + 1: the logarithm of 0 is infinite
        radius = ((_shifted(bits, 40) + 1).float() * 2.0**-24).log().mul(-2).sqrt()
        # bits 8 to 31: the radius uses bits 40 to 63
        angle = (_shifted(bits, 8) & 0xFFFFFF).float() * (2 * math.pi * 2.0**-24)
        return (radius * angle.cos()).view(shape)

    def below(self, purpose: Purpose, step: int | torch.Tensor, limit: int, n: int) -> torch.Tensor:
        """`n` integers in [0, limit), int64; `limit` at most 2³¹."""
        # 31 random bits times at most 2³¹ fit in 63
        return (_shifted(self.bits(purpose, step, n), 33) * limit) >> 31

    def keys(self, purpose: Purpose, step: int | torch.Tensor, n: int) -> torch.Tensor:
        """`n` integers in [0, 2³²), int64: the keys of `kept`."""
        return _shifted(self.bits(purpose, step, n), 32)

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint must hold to go on: nothing, as all follows from seed and step."""
        return {}

    def put_back(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a state."""

    def permutation(self, purpose: Purpose, step: int, n: int) -> torch.Tensor:
        """0 … n − 1 in a random order, int64."""
        # stable: equal bits, if ever, give one order on all devices
        return torch.argsort(self.bits(purpose, step, n), stable=True)


def kept(keys: torch.Tensor, entries: torch.Tensor, threshold: int) -> torch.Tensor:
    """Whether entries survive the mask: a 24-bit hash of key and number of the entry in its row
    is at least `threshold`.
    """
    # lowbias32 (Wellons 2018); `core.kernels` and `model.fused` compute the same bits
    x = keys ^ entries
    x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF
    return ((x ^ (x >> 16)) >> 8) >= threshold


def threshold_of(share: float) -> int:
    """The threshold of `kept` that drops this share of the entries."""
    return round(share * (1 << 24))


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shifted(x, 30)) * _signed(_MULTIPLIERS[0])
    x = (x ^ _shifted(x, 27)) * _signed(_MULTIPLIERS[1])
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, n: int) -> torch.Tensor:
    """A logical shift to the right; torch's own keeps the sign."""
    # torch copies the sign bit when it shifts: the mask clears the copies
    return (x >> n) & ((1 << (64 - n)) - 1)


def _mixed(x: int) -> int:
    """`_mix` of a Python integer, unsigned."""
    mask = (1 << 64) - 1
    x = (x ^ (x >> 30)) * _MULTIPLIERS[0] & mask
    x = (x ^ (x >> 27)) * _MULTIPLIERS[1] & mask
    return x ^ (x >> 31)


def _wrapped(x: int) -> int:
    """The value of these bits as a signed 64-bit integer."""
    return _signed(x & ((1 << 64) - 1))


def _signed(x: int) -> int:
    return x - (1 << 64) if x >= 1 << 63 else x
