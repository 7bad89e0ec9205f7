"""How reliable an imputed probability is, measured on hidden entries.

Let X be open (1) or closed (0), and X' what remains when each open entry is hidden with
probability q. A model of X' gives p' = P(X' = 1) = (1 − q) P, P = P(X = 1). What can be observed at
an entry with X' = 0 is whether it was hidden:

    P(hidden | X' = 0) = P(X = 1, X' = 0) / P(X' = 0) = q P / (1 − (1 − q) P) = q/(1 − q) · p' / (1
    − p')

so the chance to be a hidden one is the odds of p' times q/(1 − q), which is neither p' nor P. Its
logit is close to that of p' if peaks are rarely open, and a model whose loadings are too large or
too small shows as a slope other than 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

if TYPE_CHECKING:
    import numpy.typing as npt

# Tenths of the predicted hidden peaks, as is usual in reliability diagrams
BINS = 10


def hidden_log_odds(
    logits: npt.NDArray[np.float64], share: npt.NDArray[np.float64] | float
) -> npt.NDArray[np.float64]:
    """Return the log of the chance that an entry that looks closed is a hidden one, at most 0.

    It is log(q/(1 − q)) + logit(p'), with q the `share` and p' the model's probability.
    """
    # a chance of exactly 1 would have an infinite logit
    return np.asarray(np.minimum(np.log(share) - np.log1p(-np.asarray(share)) + logits, -1e-6))


def calibration(
    chance: npt.NDArray[np.float64],
    hidden: npt.NDArray[np.bool_],
    weight: npt.NDArray[np.float64],
    n_bins: int = BINS,
) -> dict[str, Any]:
    """Return how reliable predicted chances are: bins, calibration error, slope and intercept.

    Parameters
    ----------
    chance
        Predicted chance of each entry to be hidden, in (0, 1).
    hidden, weight
        Whether it was, and how many entries it stands for.
    n_bins
        Bins in the order of chance, each holding an equal part of the *predicted hidden peaks*
        Σ weight · chance: bins of equally many entries would be all but empty of hidden ones below
        the median.

    Returns
    -------
    ``predicted`` and ``observed``: mean chance and share of hidden entries in each bin; ``ratio``,
    the second over the first; ``error``, the standard error of that ratio by the number of hidden
    entries; ``ece``, Σ |observed − predicted| over bins, weighted by entries; ``relative_ece``, the
    same by predicted hidden peaks, relative to the prediction; ``slope`` and ``intercept`` of the
    logistic regression of what was observed on the logit of the chance (Cox 1958): 1 and 0 if
    calibrated.
    """
    order = np.argsort(chance, kind="stable")
    chance, weight = chance[order], weight[order]
    is_hidden = hidden[order].astype(np.float64)
    mass = np.cumsum(weight * chance)
    middle = (mass - weight * chance / 2) / mass[-1]
    # rounding could put the last entry into a bin of its own
    bins = np.minimum(middle * n_bins, n_bins - 1e-9).astype(int)
    columns = (weight, weight * chance, weight * is_hidden, (weight * is_hidden) ** 2)
    sums = [np.bincount(bins, column, n_bins) for column in columns]
    entries, expected, observed, squares = (values[sums[0] > 0] for values in sums)
    slope, intercept = cox(np.log(chance) - np.log1p(-chance), is_hidden, weight)
    return {
        "predicted": (expected / entries).tolist(),
        "observed": (observed / entries).tolist(),
        "ratio": (observed / expected).tolist(),
        "error": (np.sqrt(squares) / expected).tolist(),
        "ece": float(np.abs(observed - expected).sum() / entries.sum()),
        "relative_ece": float(np.abs(observed - expected).sum() / expected.sum()),
        "slope": slope,
        "intercept": intercept,
    }


def cox(
    logits: npt.NDArray[np.float64],
    hidden: npt.NDArray[np.float64],
    weight: npt.NDArray[np.float64],
) -> tuple[float, float]:
    """Return slope and intercept of the weighted logistic regression of `hidden` on `logits`."""
    if not 0 < (weight * hidden).sum() < weight.sum() or np.ptp(logits) == 0:
        return float("nan"), float("nan")
    # centred, slope and intercept are nearly independent, and the steps well scaled
    centre = np.average(logits, weights=weight)
    x = np.stack([logits - centre, np.ones(len(logits))])
    beta = np.array([1.0, centre])
    for _ in range(50):
        p = expit(beta @ x)
        gradient = x @ (weight * (hidden - p))
        step = np.linalg.solve((x * (weight * p * (1 - p))) @ x.T, gradient)
        # far from the solution a full step overshoots
        beta += np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-9:
            break
    return float(beta[0]), float(beta[1] - beta[0] * centre)
