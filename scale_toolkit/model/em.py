"""Fit a diagonal Gaussian mixture on a GPU by dense products, as scikit-learn does on the CPU."""

from __future__ import annotations

import math

import numpy as np
import torch

# EM follows: the clusters need not have converged.
LLOYD_STEPS = 30
# Steps at most, and between two checks of convergence: each check waits for the GPU.
EM_STEPS, CHECKED_EVERY = 100, 5
# Smallest rise of the mean log-likelihood in a step, scikit-learn's.
TOLERANCE = 1e-3
# Added to every variance, as `start.fit_mixture` does: a component cannot shrink to one cell.
LEAST_VARIANCE = 1e-3


@torch.no_grad()
def fit_mixture_on(
    device: torch.device, z: np.ndarray, n_components: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit a mixture to `z` by EM from k-means.

    Parameters
    ----------
    z
        (cells, d), at least as many cells as components.

    Returns
    -------
    Weights (k,), means (k, d) and variances (k, d), float64.
    """
    points = torch.from_numpy(np.ascontiguousarray(z, np.float32)).to(device)
    centre = points.mean(0)
    # squares of float32 lose precision far from the origin
    points = points - centre
    generator = torch.Generator().manual_seed(seed)
    means = _lloyd(points, _plus_plus(points, n_components, generator))
    share = torch.nn.functional.one_hot(_nearest(points, means), n_components).to(points)
    score = -math.inf
    for step in range(EM_STEPS):
        weights, means, variances = _maximised(points, share)
        log_joint = _log_joint(points, weights, means, variances)
        share = torch.softmax(log_joint, 1)
        if step % CHECKED_EVERY == CHECKED_EVERY - 1:
            new_score = float(torch.logsumexp(log_joint, 1).mean())
            if new_score - score < TOLERANCE * CHECKED_EVERY:
                break
            score = new_score
    weights, means, variances = _maximised(points, share)
    fitted = (values.double().cpu().numpy() for values in (weights, means + centre, variances))
    weights_out, means_out, variances_out = fitted
    return weights_out, means_out, variances_out


def _plus_plus(points: torch.Tensor, k: int, generator: torch.Generator) -> torch.Tensor:
    """`k` points far from each other, by k-means++ (Arthur & Vassilvitskii 2007)."""
    uniform = torch.rand(k, generator=generator).to(points.device)
    # a uniform number near 1 can be rounded up to the number of points
    chosen = points[(uniform[0] * len(points)).long().clamp_max(len(points) - 1)][None]
    distance = (points - chosen).square().sum(1)
    for i in range(1, k):
        cumulative = distance.double().cumsum(0)
        index = torch.searchsorted(cumulative, uniform[i].double() * cumulative[-1])
        point = points[index.clamp_max(len(points) - 1)][None]
        chosen = torch.cat([chosen, point])
        distance = torch.minimum(distance, (points - point).square().sum(1))
    return chosen


def _nearest(points: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    return (points @ means.T * -2 + means.square().sum(1)).argmin(1)


def _lloyd(points: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    for _ in range(LLOYD_STEPS):
        member = torch.nn.functional.one_hot(_nearest(points, means), len(means)).to(points)
        n_members = member.sum(0)[:, None]
        # an empty cluster keeps its centre
        means = torch.where(n_members > 0, member.T @ points / n_members.clamp_min(1), means)
    return means


def _maximised(
    points: torch.Tensor, share: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, means and variances that maximise the likelihood at these responsibilities."""
    # a component without cells gets a mean of 0 instead of NaN
    total = share.sum(0) + 1e-6
    means = share.T @ points / total[:, None]
    squares = share.T @ points.square() / total[:, None]
    return total / total.sum(), means, (squares - means.square()).clamp_min(0) + LEAST_VARIANCE


def _log_joint(
    points: torch.Tensor, weights: torch.Tensor, means: torch.Tensor, variances: torch.Tensor
) -> torch.Tensor:
    precision = 1 / variances
    distance = points.square() @ precision.T - 2 * points @ (means * precision).T
    distance = distance + (means.square() * precision).sum(1)
    n_dimensions = points.shape[1]
    return weights.log() - 0.5 * (
        distance + variances.log().sum(1) + n_dimensions * math.log(2 * math.pi)
    )
