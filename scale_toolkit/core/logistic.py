"""Logistic models of open peaks on depth, cells counted in bins of depth: kernels of the tests
between groups and between samples.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scale_toolkit.core.compiled import compiled

Array = np.ndarray[Any, Any]


@compiled("float64(float64)")
def softplus(t: float) -> float:
    """log(1 + exp(t)), without overflow."""
    return t + math.log1p(math.exp(-t)) if t > 0 else math.log1p(math.exp(t))


@compiled("float64(float64)")
def expit(t: float) -> float:
    """1 / (1 + exp(−t)), without overflow."""
    # exp overflows above 709
    return 1 / (1 + math.exp(-t)) if t > -700 else 0.0


@compiled("UniTuple(float64, 2)(float64, float64, float64[::1], float64[::1])")
def fit_null(total: float, weighted: float, cells: Array, x: Array) -> tuple[float, float]:
    """Intercept and slope of the model without groups, by Newton's method with bounded steps."""
    n = cells.sum()
    # half a cell on either side keeps the logit of none and of all finite
    a, b = math.log((total + 0.5) / (n - total + 0.5)), 0.0
    for _ in range(60):
        g0, g1, h00, h01, h11 = total, weighted, 0.0, 0.0, 0.0
        for i in range(len(x)):
            m = expit(a + b * x[i])
            v = cells[i] * m * (1 - m)
            g0 -= cells[i] * m
            g1 -= cells[i] * m * x[i]
            h00 += v
            h01 += v * x[i]
            h11 += v * x[i] * x[i]
        det = h00 * h11 - h01 * h01
        # below, what depth adds is rounding
        if det > 1e-12 * h00 * h11:
            da, db = (g0 * h11 - g1 * h01) / det, (g1 * h00 - g0 * h01) / det
        else:  # one depth for all cells
            da, db = (g0 / h00 if h00 > 0 else 0.0), 0.0
        # the curvature vanishes far from the solution, and steps would be too long
        da, db = min(max(da, -3.0), 3.0), min(max(db, -3.0), 3.0)
        a += da
        b += db
        if abs(da) + abs(db) < 1e-10:
            break
    return a, b


@compiled(
    "float64(float64, float64, float64, float64, float64, float64, float64[::1], "
    "float64[::1], float64[::1])"
)
def fit_log_odds_ratio(
    a: float,
    b: float,
    total: float,
    total_in: float,
    weighted: float,
    n_in: float,
    cells: Array,
    inside: Array,
    x: Array,
) -> float:
    """c of the model with the group, half an open and half a closed cell added to either side at
    its mean depth.
    """
    n = cells.sum()
    mean_in, mean_out, flat = 0.0, 0.0, 0.0
    for i in range(len(x)):
        mean_in += inside[i] * x[i] / n_in
        mean_out += (cells[i] - inside[i]) * x[i] / (n - n_in)
        flat = max(flat, abs(x[i]))
    # the start: the log odds ratio at unequal depth
    c = math.log((total_in + 0.5) / (n_in - total_in + 0.5))
    c -= math.log((total - total_in + 0.5) / (n - n_in - total + total_in + 0.5))
    for _ in range(60):
        # + 1 and + 0.5: the half open cell added to either side
        g0, g1, g2 = total + 1.0, weighted + 0.5 * (mean_in + mean_out), total_in + 0.5
        h00, h01, h02, h11, h12 = 0.0, 0.0, 0.0, 0.0, 0.0
        for i in range(-1, len(x)):  # -1: the added ones
            for is_in in range(2):
                if i < 0:
                    number, covariate = 1.0, (mean_in if is_in else mean_out)
                else:
                    number, covariate = (inside[i] if is_in else cells[i] - inside[i]), x[i]
                if number == 0:
                    continue
                m = expit(a + b * covariate + c * is_in)
                v = number * m * (1 - m)
                g0 -= number * m
                g1 -= number * m * covariate
                h00 += v
                h01 += v * covariate
                h11 += v * covariate * covariate
                if is_in:
                    g2 -= number * m
                    h02 += v
                    h12 += v * covariate
        # depth does not vary: its equation becomes slope = 0
        if flat == 0:
            h11, h01, h12, g1 = 1.0, 0.0, 0.0, 0.0
        # h22 = h02; the slope is solved for first, then intercept and group
        s00, s02, s22 = h00 - h01 * h01 / h11, h02 - h01 * h12 / h11, h02 - h12 * h12 / h11
        r0, r2 = g0 - h01 * g1 / h11, g2 - h12 * g1 / h11
        det = s00 * s22 - s02 * s02
        if not det > 0:
            break
        da, dc = (r0 * s22 - r2 * s02) / det, (r2 * s00 - r0 * s02) / det
        db = (g1 - h01 * da - h12 * dc) / h11
        largest = max(abs(da), abs(db), abs(dc))
        # all three shrink alike, so that the direction stays that of Newton's step
        shrink = min(1.0, 3.0 / largest) if largest > 0 else 1.0
        a += shrink * da
        b += shrink * db
        c += shrink * dc
        if largest < 1e-8:
            break
    return c
