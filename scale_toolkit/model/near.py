"""The nearest cells of each cell, whose peaks a training step may reconstruct."""

from __future__ import annotations

import numpy as np
import torch

from scale_toolkit.model.batches import Neighbours

NEAR_AMONG_ON_GPU = 200_000
NEAR_VALUES_AT_A_TIME = 1 << 28  # similarities on a GPU: 1 GB
# The nearest cells are searched among this many random ones: exact for fewer cells, linear in cells
# for more.
NEAR_AMONG = 10_000


def near_cells(
    coordinates: np.ndarray,
    n_neighbors: int,
    share: float,
    rng: np.random.Generator,
    device: torch.device | None = None,
    n_cells_in_all: int | None = None,
) -> Neighbours | None:
    """Return the nearest cells of each cell by cosine, itself left out; None for a single cell or
    no share.

    Of more than `NEAR_AMONG` cells (on a GPU `NEAR_AMONG_ON_GPU`), random groups of about that size
    are searched one by one. If these are a part of more cells, fewer neighbours are taken: those
    as near as `n_neighbors` among all would be.
    """
    n_cells = len(coordinates)
    gpu = device if device is not None and device.type == "cuda" else None
    among = NEAR_AMONG if gpu is None else NEAR_AMONG_ON_GPU
    if n_cells_in_all is not None and n_neighbors:
        searched = min(n_cells, among) / min(n_cells_in_all, among)
        n_neighbors = max(round(n_neighbors * searched), 1)
    n = min(n_neighbors, n_cells - 1)
    if n < 1 or share == 0:
        return None
    unit = coordinates / np.maximum(np.linalg.norm(coordinates, axis=1, keepdims=True), 1e-12)
    index = np.empty((n_cells, n), np.int64)
    for group in np.array_split(rng.permutation(n_cells), -(-n_cells // among)):
        near = nearest(unit[group], n) if gpu is None else nearest_on(gpu, unit[group], n)
        index[group] = group[near]
    return Neighbours(index, share)


def nearest(unit: np.ndarray, n: int) -> np.ndarray:
    """Return the `n` nearest other rows of each row, (rows, n) int64."""
    from sklearn.neighbors import NearestNeighbors

    return (
        NearestNeighbors(n_neighbors=n, algorithm="brute")
        .fit(unit)
        .kneighbors(return_distance=False)
    )


def nearest_on(device: torch.device, unit: np.ndarray, n: int) -> np.ndarray:
    """As `nearest`, of rows of unit length, on a device: products of blocks of rows with all,
    and their largest values.
    """
    rows = torch.from_numpy(unit).to(device)
    size = max(NEAR_VALUES_AT_A_TIME // len(rows), 1)
    parts = []
    for first in range(0, len(rows), size):
        similarity = rows[first : first + size] @ rows.T
        numbers = torch.arange(len(similarity), device=device)
        similarity[numbers, first + numbers] = -torch.inf
        parts.append(similarity.topk(n, 1).indices)
    return torch.cat(parts).cpu().numpy()
