"""The reconstruction term: Bernoulli log-likelihood of peaks, split so that its cost follows the
open peaks.

log p(x_i|z_i) = Σ_{j open} a_ij − Σ_j softplus(a_ij), with logits a_ij = w_j · h_i + b_j + s_i.

The first sum needs only the products of open peaks: Σ_{j open} w_j · h_i = (X W)_i · h_i. The
second runs over all peaks; a random subset of them, weighted by the inverse of its probability,
estimates it without bias.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

    `subset` holds the numbers of the peaks drawn, all different, `scale` the inverse of the
    probability of each, `shift` is added to the logits, (cells, peaks or subset).
    """
    if subset is not None and scale is not None and hidden.device.type == "cpu":
        total: torch.Tensor = _SampledSoftplus.apply(
            hidden, weight, bias, offset, subset, scale, shift
        )
        return total
    if subset is not None:
        # the gradient of index_select is added without sorting the peaks first
        weight, bias = weight.index_select(0, subset), bias.index_select(0, subset)
    # (cells, subset)
    logits = torch.addmm(bias, hidden, weight.T) + offset[:, None]
    terms = functional.softplus(logits if shift is None else logits + shift)
    return terms.sum(1) if scale is None else terms @ scale


class _SampledSoftplus(torch.autograd.Function):
    """Σ_j scale_j · softplus(a_ij) over a subset of peaks on the CPU, with the gradient by hand.

    The derivative of each term, scale_j · sigmoid(a_ij), is computed once: all gradients are
    products of it with narrow matrices. Through torch's own operations backward took twice as long
    as forward, most of it in tables of cells × subset and in adding rows of gradients one by one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        offset: torch.Tensor,
        subset: torch.Tensor,
        scale: torch.Tensor,
        shift: torch.Tensor | None,
    ) -> torch.Tensor:
        chosen = weight.index_select(0, subset)
        # (cells, subset)
        logits = torch.addmm(bias.index_select(0, subset), hidden, chosen.T).add_(offset[:, None])
        if shift is not None:
            logits += shift
        total = functional.softplus(logits) @ scale
        ctx.save_for_backward(hidden, chosen, logits.sigmoid_().mul_(scale), subset)
        ctx.n_peaks = len(weight)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, chosen, slopes, subset = ctx.saved_tensors
        weight_gradient = hidden.new_zeros((ctx.n_peaks, hidden.shape[1]))
        bias_gradient = hidden.new_zeros(ctx.n_peaks)
        # narrow matrices from the left: BLAS takes five times as long the other way round
        weight_gradient[subset] = ((upstream[:, None] * hidden).T @ slopes).T
        bias_gradient[subset] = upstream @ slopes
        hidden_gradient = upstream[:, None] * (chosen.T @ slopes.T).T
        return hidden_gradient, weight_gradient, bias_gradient, None, None, None, None


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
