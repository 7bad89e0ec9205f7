"""Small building blocks of the encoder and the decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from scale_toolkit.model.sparse import Rows, product

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy import sparse


class SparseLinear(nn.Module):
    """A dense layer on sparse rows: ``csr @ weight + bias``, (cells × in) -> (cells × out).

    The weight is stored (in, out), one row a peak: a product with sparse rows reads only the rows
    of open peaks.
    """

    def __init__(self, n_in: int, n_out: int, *, bias: bool = True) -> None:
        super().__init__()
        # as torch.nn.Linear initialises it
        bound = n_in**-0.5
        self.weight = nn.Parameter(torch.empty(n_in, n_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_out).uniform_(-bound, bound)) if bias else None

    def forward(self, rows: Rows | sparse.csr_matrix) -> torch.Tensor:
        """Return the layer's values of these rows, (cells, out)."""
        values = product(rows, self.weight)
        return values if self.bias is None else values + self.bias


def perceptron(widths: Sequence[int], *, last_activation: bool = True) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them and, if `last_activation`, after the
    last.
    """
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers.append(nn.Linear(widths[i], widths[i + 1]))
        if last_activation or i < len(widths) - 2:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)
