"""The reconstruction term: Bernoulli log-likelihood of peaks, split so that its cost follows the
open peaks.

log p(x_i|z_i) = Σ_{j open} a_ij − Σ_j softplus(a_ij), with logits a_ij = w_j · h_i + b_j + s_i.

The first sum needs only the products of open peaks: Σ_{j open} w_j · h_i = (X W)_i · h_i. The
second runs over all peaks; a random subset of them, weighted by the inverse of its probability,
estimates it without bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from scale_toolkit.model.draws import Draws, Purpose
from scale_toolkit.model.sparse import Rows, as_rows, product

if TYPE_CHECKING:
    from scipy import sparse


def open_logits(
    opened: Rows | sparse.csr_matrix,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    offset: torch.Tensor,
) -> torch.Tensor:
    """Σ of a cell's logits over its open peaks, (cells,).

    Parameters
    ----------
    opened
        Open peaks as ones, (cells, peaks).
    hidden
        (cells, d); with `weight` (peaks, d), `bias` (peaks,) and `offset` (cells,) gives the
        logits.
    """
    opened = as_rows(opened, hidden.device)
    loadings = product(opened, torch.cat([weight, bias[:, None]], 1))  # (cells, d + 1)
    return (loadings[:, :-1] * hidden).sum(1) + loadings[:, -1] + opened.n_stored * offset


def softplus_sum(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    offset: torch.Tensor,
    subset: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> torch.Tensor:
    """Σ_j softplus(a_ij) of each cell, (cells,): over all peaks, or estimated from a subset of
    them.

    `subset` holds the numbers of the peaks drawn, `scale` the inverse of the probability of each,
    `shift` is added to the logits, (cells, peaks or subset).
    """
    if subset is not None:
        # the gradient of index_select is added without sorting the peaks first
        weight, bias = weight.index_select(0, subset), bias.index_select(0, subset)
    # (cells, subset)
    logits = torch.addmm(bias, hidden, weight.T) + offset[:, None]
    total = functional.softplus(logits if shift is None else logits + shift)
    return total.sum(1) if scale is None else total @ scale


class PeakSampler:
    """Draws subsets of peaks for `softplus_sum`: strata of peaks ordered by rate, one peak of each.

    Frequent peaks contribute most of the sum, so strata have equal shares of √rate. A peak of a
    stratum of n is drawn with probability 1/n and has the weight n, so the estimate is unbiased for
    any strata.
    """

    def __init__(self, rates: np.ndarray, size: int) -> None:
        order = np.argsort(-rates, kind="stable")
        share = np.cumsum(np.sqrt(rates[order] + 1 / len(rates)))
        edges = np.unique(
            np.searchsorted(share, np.linspace(0, share[-1], size + 1)[1:-1], side="left")
        )
        starts = np.concatenate([[0], edges[(edges > 0)]]).astype(np.int64)
        self._order, self._starts = (
            torch.from_numpy(order.astype(np.int64)),
            torch.from_numpy(starts),
        )
        self._sizes = torch.from_numpy(np.diff(np.append(starts, len(rates))))

    def to(self, device: torch.device) -> PeakSampler:
        """The same sampler with its strata on `device`."""
        moved = object.__new__(PeakSampler)
        moved._order, moved._starts, moved._sizes = (
            strata.to(device) for strata in (self._order, self._starts, self._sizes)
        )
        return moved

    def draw(self, draws: Draws, step: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Peak numbers of a subset, int64, and their inverse probabilities, float32."""
        uniform = draws.uniform(Purpose.PEAKS, step, len(self._starts)).double()
        position = self._starts + (uniform * self._sizes).long()
        return self._order[position], self._sizes.float()
