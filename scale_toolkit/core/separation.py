"""How well values of marker peaks separate each kind of cells from the rest.

Recovery (`core.recovery`) compares the peaks of one cell. An imputed value is also compared between
cells: on an embedding, in a heat map, in the mean of a group. This is that reading. For each group,
marker peaks are picked on one half of the cells (score test of `core.differential`); on the other
half, the area under the ROC curve (AUC) of a value says how often it is larger in a cell of the
group than in another cell, 0.5 by chance. The same cells and peaks are read in several ways, so the
figures of the ways can be compared.

The groups should be known labels. Clusters of the latent space are separated by everything that
comes from it, imputed values and neighbour averages alike; raw counts are then at a disadvantage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.stats import rankdata

from scale_toolkit.core.differential import compare, count, depth_bins

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    Values = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[Any]]

# Of each group.
N_MARKERS = 20
# Of the average over near cells: the number that `cluster` and `embed` take.
N_NEIGHBORS = 30
# Of a group in each half; below that an AUC says little.
FEWEST_CELLS = 5


def split_cells(groups: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return a random half of each group as a mask, (cells,): those on which markers are picked."""
    order = np.lexsort((rng.random(len(groups)), groups))
    in_first = np.zeros(len(groups), bool)
    in_first[order[::2]] = True
    return in_first


def pick_markers(
    opened: sparse.csr_matrix,
    groups: npt.NDArray[np.int64],
    n_groups: int,
    n_markers: int = N_MARKERS,
    n_threads: int = 0,
) -> npt.NDArray[np.int64]:
    """Return the peaks that are open more often in each group at equal depth, best first.

    Parameters
    ----------
    opened
        Open peaks, cells × peaks.
    groups
        Group of each cell; every group has a cell.

    Returns
    -------
    (groups, markers) positions of peaks.
    """
    depth = np.diff(opened.indptr)
    open_cells, open_groups = opened[depth > 0], groups[depth > 0]
    bins = depth_bins(depth[depth > 0])
    counts = count(open_cells, open_groups, n_groups, bins)
    score = compare(counts, open_groups, bins, n_threads=n_threads).score
    return np.argsort(-np.nan_to_num(score, nan=-np.inf), axis=0, kind="stable")[:n_markers].T


def area_under_curve(
    values: npt.NDArray[Any], is_in_group: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the AUC of each column of `values`, (cells, columns); ties count half."""
    n_in = np.count_nonzero(is_in_group)
    n_rest = len(values) - n_in
    rank_sum = rankdata(values, axis=0)[is_in_group].sum(axis=0)
    return np.asarray((rank_sum - n_in * (n_in + 1) / 2) / (n_in * n_rest))


def nearest_average(
    latent: npt.NDArray[Any], cells: npt.NDArray[np.int64], n_neighbors: int = N_NEIGHBORS
) -> sparse.csr_matrix:
    """Return the matrix (cells asked for × all cells) that averages over nearest cells.

    The cell itself is left out. Its product with a cells × peaks matrix is the average.
    """
    from sklearn.neighbors import NearestNeighbors

    n = min(n_neighbors, len(latent) - 1)
    search = NearestNeighbors(n_neighbors=n + 1).fit(latent)
    nearest = search.kneighbors(latent[cells], return_distance=False)
    is_other = nearest != cells[:, None]
    # a cell that is not its own nearest, because of ties, drops the farthest
    is_other &= np.cumsum(is_other, axis=1) <= n
    lengths = is_other.sum(axis=1)
    weights = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_matrix((weights, nearest[is_other], pointers), (len(cells), len(latent)))


def separation(
    opened: sparse.csr_matrix,
    groups: npt.NDArray[np.int64],
    names: list[str],
    readings: Mapping[str, Values],
    rng: np.random.Generator,
    *,
    max_cells: int,
    n_threads: int = 0,
) -> dict[str, Any]:
    """Compare ways to read marker peaks between cells.

    Parameters
    ----------
    opened
        Open peaks, cells × peaks CSR.
    groups
        Group of each cell as a code; negative: no group, the cell is left out.
    names
        Name of each group.
    readings
        By name, ``values(cells, peaks)``: an array of those cells × those peaks.
    rng
        Splits the cells, and draws those that are scored.
    max_cells
        Cells of the second half that are scored at most.

    Returns
    -------
    ``markers`` and ``cells`` (how many were used); by reading the mean AUC over the groups in
    ``auc``; and ``groups``: for each group its cells and the mean AUC over its markers by reading.
    A group with too few cells has None.
    """
    in_first = split_cells(groups, rng)
    sizes = [
        np.bincount(groups[(groups >= 0) & half], minlength=len(names))
        for half in (in_first, ~in_first)
    ]
    usable = np.flatnonzero(np.minimum(*sizes) >= FEWEST_CELLS)
    result: dict[str, Any] = {
        "markers": N_MARKERS,
        "neighbours": N_NEIGHBORS,
        "groups": dict.fromkeys(names),
        "cells": 0,
        "auc": None,
    }
    if len(usable) < 2:
        return result
    # the last one is that of cells without a group
    code_of_group = np.full(len(names) + 1, -1)
    code_of_group[usable] = np.arange(len(usable))
    codes = code_of_group[groups]
    first = np.flatnonzero(in_first & (codes >= 0))
    markers = pick_markers(opened[first], codes[first], len(usable), n_threads=n_threads)
    second = np.flatnonzero(~in_first & (codes >= 0))
    if len(second) > max_cells:
        second = np.sort(rng.choice(second, max_cells, replace=False))
    scored = codes[second]
    union, columns = np.unique(markers, return_inverse=True)
    columns = columns.reshape(markers.shape)
    values = {reading: decode(second, union) for reading, decode in readings.items()}
    for code, group in enumerate(usable):
        is_in_group = scored == code
        if not 0 < np.count_nonzero(is_in_group) < len(second):
            # by chance none of a rare group was drawn
            continue
        figures: dict[str, Any] = {
            reading: float(area_under_curve(array[:, columns[code]], is_in_group).mean())
            for reading, array in values.items()
        }
        result["groups"][names[group]] = figures | {"cells": int(is_in_group.sum())}
    known = [figures for figures in result["groups"].values() if figures is not None]
    result["cells"] = len(second)
    result["auc"] = {
        reading: float(np.mean([figures[reading] for figures in known])) for reading in readings
    }
    return result
