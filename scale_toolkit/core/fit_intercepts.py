"""Intercepts and slopes of logistic models on the CPU, on all threads.

Both iterate over terms expit(a + b), with a fixed and b searched. expit needs the exponential of
each; the odds exp(a) · exp(b) need that of every a once, and of the few b in every step.
"""

from __future__ import annotations

import numpy as np
from numba import types

from scale_toolkit.core.compiled import compiled, readonly
from scale_toolkit.core.kernels import POOL

#: Equations at a time, which end together: 512 groups × 2,048 float32 are 4 MB.
EQUATIONS = 2048
#: Entries whose terms are summed at a time: the same for any number of threads.
ENTRIES = 1 << 14
#: Logits beyond this are 0 or 1 in any sum; larger odds are infinite in float32 in some product.
_LARGEST_LOGIT, _LARGEST_ODDS = np.float32(40), np.float32(1e30)

_FLOAT, _DOUBLE = readonly(types.float32), readonly(types.float64)
_MATRIX = readonly(types.float32, 2)


@compiled(types.void(_MATRIX, _FLOAT, _FLOAT, types.float32[::1], types.float32[::1]))
def _open_cells(
    odds: np.ndarray,
    size: np.ndarray,
    factors: np.ndarray,
    open_cells: np.ndarray,
    information: np.ndarray,
) -> None:
    """Σ_g size_g p_gj and Σ_g size_g p_gj (1 − p_gj) with odds odds_gj · factor_j."""
    open_cells[:] = 0
    information[:] = 0
    for group in range(len(size)):
        weight = size[group]
        for column in range(len(factors)):
            value = min(odds[group, column] * factors[column], _LARGEST_ODDS)
            closed = np.float32(1) / (np.float32(1) + value)
            expected = weight * value * closed
            open_cells[column] += expected
            information[column] += expected * closed


@compiled(types.void(_MATRIX, _FLOAT, _MATRIX, types.float32[:, ::1]))
def _add_to_logits(h: np.ndarray, depth: np.ndarray, loadings: np.ndarray, out: np.ndarray) -> None:
    """out[g, j] += depth_g + Σ_d h_gd · loading_dj, within `_LARGEST_LOGIT`."""
    for group in range(out.shape[0]):
        for column in range(out.shape[1]):
            out[group, column] += depth[group]
        for d in range(h.shape[1]):
            coordinate = h[group, d]
            for column in range(out.shape[1]):
                out[group, column] += coordinate * loadings[d, column]
        for column in range(out.shape[1]):
            value = out[group, column]
            out[group, column] = min(max(value, -_LARGEST_LOGIT), _LARGEST_LOGIT)


def fit_intercepts(
    h: np.ndarray,
    weight: np.ndarray,
    depth: np.ndarray,
    size: np.ndarray,
    goal: np.ndarray,
    start: np.ndarray,
    shift: tuple[np.ndarray, np.ndarray] | None,
    *,
    tolerance: float,
    n_threads: int,
) -> np.ndarray:
    """Solve Σ_g size_g · expit(h_g · w_j + depth_g + b_j) = goal_j for b, (peaks,) float32.

    Newton's method with bounded steps, for `EQUATIONS` peaks at a time until their largest step is
    below `tolerance`. Parameters as in `model.calibrate.margins`, all float32.
    """
    intercepts = np.array(start, np.float32)

    def solve(part: int) -> None:
        columns = slice(part * EQUATIONS, (part + 1) * EQUATIONS)
        loadings = np.ascontiguousarray(weight[columns].T)
        if shift is None:
            odds = np.zeros((len(h), loadings.shape[1]), np.float32)
        else:
            odds = np.ascontiguousarray(shift[0][shift[1], columns], np.float32)
        _add_to_logits(h, depth, loadings, odds)
        np.exp(odds, out=odds)
        b = intercepts[columns]
        open_cells, information = np.empty_like(b), np.empty_like(b)
        for _ in range(50):
            factors = np.exp(np.minimum(b, 2 * _LARGEST_LOGIT))
            _open_cells(odds, size, factors, open_cells, information)
            # the information vanishes where nearly all or none of the cells are open
            step = (goal[columns] - open_cells) / np.maximum(information, np.float32(1e-9))
            b += np.clip(step, -2, 2, out=step)
            if np.abs(step).max() < tolerance:
                break

    POOL.map(solve, range(-(-len(intercepts) // EQUATIONS)), n_threads)
    return intercepts


@compiled(
    types.void(
        _DOUBLE,
        _DOUBLE,
        readonly(types.boolean),
        _DOUBLE,
        types.float64,
        types.float64,
        types.int64,
        types.float64[:, ::1],
    )
)
def _logistic_terms(
    base: np.ndarray,
    lift: np.ndarray,
    hidden: np.ndarray,
    weight: np.ndarray,
    slope: float,
    rise: float,
    part: int,
    out: np.ndarray,
) -> None:
    """Write gradient and curvature of the likelihood of some entries into a row of `out`."""
    gradient = rise_gradient = curvature = cross = rise_curvature = 0.0
    for entry in range(part * ENTRIES, min((part + 1) * ENTRIES, len(base))):
        x = lift[entry]
        logit = base[entry] + slope * x + rise
        # exp(−|logit|) cannot overflow
        small = np.exp(-abs(logit))
        p = 1 / (1 + small) if logit > 0 else small / (1 + small)
        residual = weight[entry] * (hidden[entry] - p)
        information = weight[entry] * p * (1 - p)
        gradient += residual * x
        rise_gradient += residual
        curvature += information * x * x
        cross += information * x
        rise_curvature += information
    out[part] = (gradient, rise_gradient, curvature, cross, rise_curvature)


def logistic_gradient(
    base: np.ndarray,
    lift: np.ndarray,
    hidden: np.ndarray,
    weight: np.ndarray,
    beta: np.ndarray,
    n_threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the gradient (2,) of the weighted log-likelihood of `hidden` under
    logit P = base + β₀ · lift + β₁, and its Fisher information (2, 2).

    Parameters
    ----------
    base, lift, hidden, weight
        Of the entries, (entries,): float64, float64, bool, float64.
    beta
        Slope and rise.
    """
    out = np.zeros((-(-len(base) // ENTRIES), 5))
    POOL.map(
        lambda part: _logistic_terms(base, lift, hidden, weight, beta[0], beta[1], part, out),
        range(len(out)),
        n_threads,
    )
    slope_gradient, rise_gradient, curvature, cross, rise_curvature = out.sum(0)
    gradient = np.array([slope_gradient, rise_gradient])
    return gradient, np.array([[curvature, cross], [cross, rise_curvature]])
