"""UMAP's layout in two dimensions on all cores, the same for any number of them.

UMAP (McInnes, Healy & Melville 2018, arXiv:1802.03426, section 3.2 and appendix C) moves cells y
along the gradient of a fuzzy cross entropy, with φ(d²) = 1 / (1 + a d²ᵇ) at distance d:

    attraction along an edge      −2ab d²⁽ᵇ⁻¹⁾ φ(d²) (yᵢ − yⱼ)
    repulsion from a random cell   2b φ(d²) / (0.001 + d²) (yᵢ − yₖ)

An edge attracts in a share of the epochs that is its weight over the largest weight; each time five
random cells repel, every coordinate of a step is within ±4, and steps shrink to 0.

umap-learn moves both cells of one edge after the other, which only one thread can repeat. Here an
epoch moves every cell along all of its own edges, while the others stay as they were before the
epoch (as ``batch = TRUE`` of the R package uwot does): an edge is in the graph from both of its
cells, so each cell takes twice the step. Random cells come from the seed, the epoch and the cell.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numba import types
from scipy import sparse

from scale_toolkit.core.compiled import compiled, readonly
from scale_toolkit.core.kernels import POOL
from scale_toolkit.threads import available_cores

#: As umap-learn has it for more than 10,000 cells.
N_EPOCHS = 200
#: Random cells that repel a cell each time that an edge attracts it.
N_REPELLING = 5
#: Width and height of the start.
EXTENT = 10.0

_ROWS = 1024
# Gradients are tabulated at 64 squared distances an octave from 2⁻³⁰ to 2¹⁴, whose float32 bit
# patterns are evenly spaced, and linear in between: within 2e-4, at half of the time of powers.
_BITS = 17
_NEAREST, _FARTHEST = np.float32(2.0**-30), np.float32(2.0**14)
_FIRST = int(_NEAREST.view(np.int32)) >> _BITS
_LAST = (int(_FARTHEST.view(np.int32)) >> _BITS) + 1

_MATRIX = readonly(types.float32, 2)
_FLOAT, _INT32, _INT64 = (readonly(t) for t in (types.float32, types.int32, types.int64))


def principal_start(points: np.ndarray, seed: int) -> np.ndarray:
    """Return the first two principal coordinates of points, from 0 to `EXTENT` each.

    They keep distances between types as well as the spectral start does (Kobak & Linderman 2021,
    Nature Biotechnology), in a hundredth of the time. Without two dimensions that differ, the
    points are random.

    Parameters
    ----------
    points
        Points × dimensions.
    seed
        Of the noise, a hundred-thousandth of the extent, that sets equal points apart.

    Returns
    -------
    Points × 2, float32.
    """
    random = np.random.default_rng(seed)
    centred = points - points.mean(axis=0)
    # not BLAS, whose sums may depend on the number of threads
    variances, axes = np.linalg.eigh(np.einsum("ij,ik->jk", centred, centred))
    if len(variances) < 2 or variances[-2] <= 1e-12 * variances[-1]:
        return random.uniform(0, EXTENT, (len(points), 2)).astype(np.float32)
    start = np.einsum("ij,jk->ik", centred, axes[:, [-1, -2]])
    start -= start.min(axis=0)
    start *= EXTENT / start.max(axis=0)
    return (start + random.normal(scale=1e-5 * EXTENT, size=start.shape)).astype(np.float32)


def lay_out(
    weights: sparse.csr_matrix,
    start: np.ndarray,
    a: float,
    b: float,
    *,
    seed: int,
    n_threads: int = 0,
) -> np.ndarray:
    """Return UMAP's layout of a graph.

    Parameters
    ----------
    weights
        Cells × cells, symmetric, in (0, 1].
    start
        Cells × 2.
    a, b
        Of φ (``umap.umap_.find_ab_params``).
    seed
        Of the repelling cells.
    n_threads
        0 for all cores; the result does not depend on it.

    Returns
    -------
    Cells × 2, float32.
    """
    weights = weights.tocsr()
    rates = (weights.data / weights.data.max()).astype(np.float32)
    pointers, neighbors = weights.indptr.astype(np.int64), weights.indices.astype(np.int32)
    attraction, repulsion = gradients(a, b)
    # where the cells are after even and after odd epochs
    layouts = (start.astype(np.float32), np.empty(start.shape, np.float32))
    n_cells = len(start)

    def move(epoch: int, first: int) -> None:
        _move(
            layouts[(epoch - 1) % 2],
            pointers,
            neighbors,
            rates,
            attraction,
            repulsion,
            first,
            min(first + _ROWS, n_cells),
            epoch,
            np.float32(1 - (epoch - 1) / N_EPOCHS),
            np.uint64(seed),
            layouts[epoch % 2],
        )

    for epoch in range(1, N_EPOCHS + 1):
        POOL.map(partial(move, epoch), range(0, n_cells, _ROWS), n_threads or available_cores())
    return layouts[N_EPOCHS % 2]


def gradients(a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of attraction and repulsion at the tabulated squared distances."""
    squares = (np.arange(_FIRST, _LAST + 1, dtype=np.int32) << _BITS).view(np.float32).astype(float)
    phi = 1 / (1 + a * squares**b)
    attraction = -2 * a * b * squares ** (b - 1) * phi
    repulsion = 2 * b * phi / (0.001 + squares)
    return attraction.astype(np.float32), repulsion.astype(np.float32)


@compiled("float32(float32, float32)")
def _clipped(factor: np.float32, difference: np.float32) -> np.float32:
    return min(max(factor * difference, np.float32(-4)), np.float32(4))


@compiled(types.float32(_FLOAT, types.float32))
def interpolate(table: np.ndarray, square: np.float32) -> np.float32:
    """Return a factor of `gradients` at a squared distance."""
    bits = np.float32(min(max(square, _NEAREST), _FARTHEST)).view(np.int32)
    entry = (bits >> _BITS) - _FIRST
    share = np.float32(bits & ((1 << _BITS) - 1)) / np.float32(1 << _BITS)
    return table[entry] + share * (table[entry + 1] - table[entry])


@compiled(
    types.void(
        _MATRIX,
        _INT64,
        _INT32,
        _FLOAT,
        _FLOAT,
        _FLOAT,
        types.int64,
        types.int64,
        types.int64,
        types.float32,
        types.uint64,
        types.float32[:, ::1],
    )
)
def _move(
    old: np.ndarray,
    pointers: np.ndarray,
    neighbors: np.ndarray,
    rates: np.ndarray,
    attraction: np.ndarray,
    repulsion: np.ndarray,
    first: int,
    stop: int,
    epoch: int,
    step: np.float32,
    seed: np.uint64,
    new: np.ndarray,
) -> None:
    """Write where the cells from `first` to `stop` are after an epoch (1 is the first one)."""
    n_cells = np.uint64(old.shape[0])
    double_step = np.float32(2) * step
    for cell in range(first, stop):
        # splitmix64 of the seed, the epoch and the cell (Steele et al. 2014) starts xorshift64
        count = np.uint64(epoch) * n_cells + np.uint64(cell)
        state = seed + np.uint64(0x9E3779B97F4A7C15) * count
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = (state ^ (state >> np.uint64(31))) | np.uint64(1)
        x, y = old[cell, 0], old[cell, 1]
        for edge in range(pointers[cell], pointers[cell + 1]):
            if np.floor(epoch * rates[edge]) == np.floor((epoch - 1) * rates[edge]):
                continue
            neighbor = np.int64(neighbors[edge])
            dx, dy = x - old[neighbor, 0], y - old[neighbor, 1]
            factor = interpolate(attraction, dx * dx + dy * dy)
            x += double_step * _clipped(factor, dx)
            y += double_step * _clipped(factor, dy)
            for _ in range(N_REPELLING):
                state ^= state << np.uint64(13)
                state ^= state >> np.uint64(7)
                state ^= state << np.uint64(17)
                repelling = np.int64(((state >> np.uint64(32)) * n_cells) >> np.uint64(32))
                if repelling == cell:
                    continue
                dx, dy = x - old[repelling, 0], y - old[repelling, 1]
                factor = interpolate(repulsion, dx * dx + dy * dy)
                x += step * _clipped(factor, dx)
                y += step * _clipped(factor, dy)
        new[cell, 0], new[cell, 1] = x, y
