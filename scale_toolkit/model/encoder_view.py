"""What an encoder sees of the counts of cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from scale_toolkit.core.rows import binarise

if TYPE_CHECKING:
    from collections.abc import Callable

    from scipy import sparse

    from scale_toolkit.core.weighting import Weighting

    #: Counts of some cells (CSR) to what the encoder sees of them (CSR).
    EncoderInput = Callable[[sparse.csr_matrix], sparse.csr_matrix]


@dataclass(frozen=True)
class EncoderView:
    """Encoder input from counts: open peaks, or log2(count + 1), weighted or not; a function of
    CSR rows.

    Attributes
    ----------
    log_transform
        See log2(count + 1) instead of ones.
    weighting
        Weights of the peaks; None: values as they are.
    published
        The published model looks: on the host, products add in the order of torch's own kernels
        (`torch_rows`), so that its results stay those of every earlier version.
    """

    log_transform: bool
    weighting: Weighting | None = None
    published: bool = False

    def __call__(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Rows of counts as the encoder sees them, CSR float32."""
        rows = view(counts, log_transform=self.log_transform)
        return rows if self.weighting is None else self.weighting(rows)


def view(counts: sparse.csr_matrix, *, log_transform: bool) -> sparse.csr_matrix:
    """Open peaks as ones, or log2(count + 1)."""
    if not log_transform:
        return binarise(counts)
    logged = counts.astype(np.float32)
    logged.eliminate_zeros()
    logged.data = np.log2(logged.data + 1)
    return logged


def idf_on(device: torch.device, see: EncoderView) -> torch.Tensor | None:
    """The view's weights of peaks on a device."""
    return (
        None
        if see.weighting is None
        else torch.from_numpy(np.ascontiguousarray(see.weighting.idf)).to(device)
    )


def is_published(see: EncoderInput) -> bool:
    """Whether the published model looks at the cells."""
    return isinstance(see, EncoderView) and see.published
