"""Matrices larger than memory, handed from a stage to `io` as blocks of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from scipy import sparse


class RowBlocks(Protocol):
    """A cells × peaks matrix made block by block, in row order; `io` writes each block and forgets it."""

    shape: tuple[int, int]
    dtype: np.dtype
    format: Literal["dense", "csr"]

    def blocks(self) -> Iterator[np.ndarray | sparse.csr_matrix]:
        """Yield consecutive blocks of rows that together have `shape`; may be called again for a second pass."""
        ...
