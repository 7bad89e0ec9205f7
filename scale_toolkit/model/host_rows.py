"""Rows of cells packed on the host for the products of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scale_toolkit.core.sparse_products import share_rows
from scale_toolkit.model.encoder_view import EncoderView
from scale_toolkit.model.packed import Mask
from scale_toolkit.model.sparse import Rows, SparseRows
from scale_toolkit.model.torch_rows import TorchRows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scipy import sparse

_NO_KEYS, _NO_DATA = np.empty(0, np.uint32), np.empty(0, np.float32)


def packed_on_host(
    rows: sparse.csr_matrix,
    see: EncoderView | None,
    mask: Mask | None,
    device: torch.device | None = None,
) -> SparseRows:
    """Pack rows of counts without what `mask` hides, seen through `see`; None: as they are."""
    from scale_toolkit.core.kernels import count_kept, pack_rows

    if not rows.has_sorted_indices:
        rows = rows.sorted_indices()
    n_rows, weighting = rows.shape[0], None if see is None else see.weighting
    data = rows.data.astype(np.float32, copy=False)
    if see is not None:
        data = np.log2(data + 1) if see.log_transform else _NO_DATA
    starts = rows.indptr.astype(np.int64, copy=False)
    lengths = np.diff(starts)
    keys, threshold, kept_lengths = _NO_KEYS, 0, lengths
    if mask is not None:
        keys, threshold, kept_lengths = (
            np.asarray(mask.keys).astype(np.uint32),
            mask.threshold,
            np.empty_like(lengths),
        )
        share_rows(
            n_rows,
            torch.get_num_threads(),
            lambda first, stop: count_kept(lengths, keys, threshold, first, stop, kept_lengths),
        )
    pointers = np.zeros(n_rows + 1, np.int64)
    np.cumsum(kept_lengths, out=pointers[1:])
    peaks = np.empty(pointers[-1], np.int32)
    has_weights = len(data) > 0 or weighting is not None
    weights = np.empty(pointers[-1] if has_weights else 0, np.float32)
    peak_weight = _NO_DATA if weighting is None else weighting.idf
    indices = rows.indices.astype(np.int32, copy=False)
    share_rows(
        n_rows,
        torch.get_num_threads(),
        lambda first, stop: pack_rows(
            indices,
            data,
            starts,
            lengths,
            keys,
            threshold,
            peak_weight,
            pointers,
            first,
            stop,
            peaks,
            weights,
        ),
    )
    if weighting is not None:
        torch.from_numpy(weights).log1p_()
    return SparseRows.of_parts(peaks, weights, pointers, rows.shape[1], device)


def concatenated(parts: Iterable[Rows], shape: tuple[int, int], device: torch.device) -> SparseRows:
    """Rows of several blocks as one operand."""
    matrices = [rows.csr() for rows in parts if isinstance(rows, (SparseRows, TorchRows))]
    n_entries = sum(matrix.nnz for matrix in matrices)
    peaks, weights = np.empty(n_entries, np.int32), np.empty(n_entries, np.float32)
    pointers, row = np.zeros(shape[0] + 1, np.int64), 0
    while matrices:
        # freed as soon as it is copied
        matrix = matrices.pop(0)
        first, stop = pointers[row], pointers[row] + matrix.nnz
        peaks[first:stop], weights[first:stop] = matrix.indices, matrix.data
        pointers[row + 1 : row + 1 + matrix.shape[0]] = first + matrix.indptr[1:]
        row += matrix.shape[0]
    return SparseRows.of_parts(peaks, weights, pointers, shape[1], device)
