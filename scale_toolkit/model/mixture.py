"""The Gaussian-mixture prior and its terms of the evidence lower bound (Xiong et al. 2019, Nat
Commun 10:4576, Methods).

With responsibilities γ_c = p(c|z) ∝ π_c N(z; μ_c, diag σ²_c), posterior q(z|x) = N(m, diag v), d
latent dimensions::

    E[log p(z|c)] = −½ Σ_c γ_c Σ_d [log 2π + log σ²_cd + (v_d + (m_d − μ_cd)²) / σ²_cd]
    E[log p(c)]   = Σ_c γ_c log π_c
    H[q(z|x)]     = ½ Σ_d [1 + log 2π + log v_d]
    H[q(c|x)]     = −Σ_c γ_c log γ_c
"""

from __future__ import annotations

import math

import torch
from torch import nn

LOG_2PI = math.log(2 * math.pi)


class MixturePrior(nn.Module):
    """π, μ and σ² of the prior, kept valid by construction: π by softmax, σ² by exp with a floor.

    Parameters
    ----------
    n_components
        k, at least 1.
    latent
        d, dimensions of z.
    variance_floor
        Smallest variance a component may shrink to.
    """

    def __init__(self, n_components: int, latent: int, variance_floor: float = 1e-4) -> None:
        super().__init__()
        self.weight_logits = nn.Parameter(torch.zeros(n_components))
        self.means = nn.Parameter(torch.zeros(n_components, latent))
        self.log_variances = nn.Parameter(torch.zeros(n_components, latent))
        self.variance_floor = variance_floor

    @property
    def log_weights(self) -> torch.Tensor:
        """log π, (k,)."""
        return torch.log_softmax(self.weight_logits, 0)

    @property
    def variances(self) -> torch.Tensor:
        """σ², (k, d)."""
        return self.log_variances.exp() + self.variance_floor

    @torch.no_grad()
    def set(self, weights: torch.Tensor, means: torch.Tensor, variances: torch.Tensor) -> None:
        """Put a fitted mixture in place: (k,), (k, d), (k, d)."""
        # an empty component must keep a finite logit, or no gradient brings it back
        self.weight_logits.copy_(weights.clamp_min(1e-6).log())
        self.means.copy_(means)
        # the parameter holds what lies above the floor
        self.log_variances.copy_((variances - self.variance_floor).clamp_min(1e-6).log())

    def parameters_of(self) -> dict[str, torch.Tensor]:
        """The mixture itself: ``weights`` (k,), ``means`` and ``variances`` (k, d)."""
        return {"weights": self.log_weights.exp(), "means": self.means, "variances": self.variances}

    def log_joint(self, z: torch.Tensor) -> torch.Tensor:
        """log π_c + log N(z; μ_c, diag σ²_c), (cells, k)."""
        return log_joint(z, self.log_weights, self.means, self.variances)

    def responsibilities(self, z: torch.Tensor) -> torch.Tensor:
        """γ_c = p(c|z), (cells, k); rows sum to 1."""
        return torch.softmax(self.log_joint(z), 1)

    def divergence(
        self, z: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor
    ) -> torch.Tensor:
        """KL(q(z,c|x) ‖ p(z,c)) of each cell, (cells,); γ is taken at the sample `z`."""
        log_gamma = torch.log_softmax(self.log_joint(z), 1)
        return divergence(
            log_gamma, mean, log_variance, self.log_weights, self.means, self.variances
        )


class ReleasePrior(nn.Module):
    """The prior as release 1.1.2 computes it: π and σ² unconstrained, and γ with a floor of 1e-10
    before it is normalised.

    The floor makes the responsibilities of a distant cell uniform; it is kept so that results equal
    the release's.
    """

    def __init__(self, n_components: int, latent: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.full((n_components,), 1 / n_components))
        self.means = nn.Parameter(torch.zeros(n_components, latent))
        self.variances = nn.Parameter(torch.ones(n_components, latent))

    @torch.no_grad()
    def set(self, weights: torch.Tensor, means: torch.Tensor, variances: torch.Tensor) -> None:
        """Put the means and variances of a fitted mixture in place; the release leaves its
        weights uniform.
        """
        self.means.copy_(means)
        self.variances.copy_(variances)

    def parameters_of(self) -> dict[str, torch.Tensor]:
        """The mixture itself: ``weights`` (k,), ``means`` and ``variances`` (k, d)."""
        return {"weights": self.weights, "means": self.means, "variances": self.variances}

    def responsibilities(self, z: torch.Tensor) -> torch.Tensor:
        """γ_c with the release's floor, (cells, k)."""
        joint = log_joint(z, self.weights.log(), self.means, self.variances + 1e-8).exp() + 1e-10
        return joint / joint.sum(1, keepdim=True)

    def divergence(
        self, z: torch.Tensor, mean: torch.Tensor, log_variance: torch.Tensor
    ) -> torch.Tensor:
        """KL(q(z,c|x) ‖ p(z,c)) of each cell with the release's γ, (cells,)."""
        log_gamma = self.responsibilities(z).log()
        return divergence(
            log_gamma, mean, log_variance, self.weights.log(), self.means, self.variances + 2e-8
        )


def log_joint(
    z: torch.Tensor, log_weights: torch.Tensor, means: torch.Tensor, variances: torch.Tensor
) -> torch.Tensor:
    """log π_c + log N(z; μ_c, diag σ²_c) of each cell and component, (cells, d) -> (cells, k)."""
    precision = 1 / variances  # (k, d)
    # Σ_d (z − μ)²/σ² as three products, without an array (cells, k, d)
    distance = (
        z.square() @ precision.T
        - 2 * z @ (means * precision).T
        + (means.square() * precision).sum(1)
    )
    return log_weights - 0.5 * (distance + variances.log().sum(1) + LOG_2PI * z.shape[1])


def divergence(
    log_gamma: torch.Tensor,
    mean: torch.Tensor,
    log_variance: torch.Tensor,
    log_weights: torch.Tensor,
    means: torch.Tensor,
    variances: torch.Tensor,
) -> torch.Tensor:
    """KL(q(z,c|x) ‖ p(z,c)) of each cell from the four terms at the head of this module,
    (cells,).
    """
    gamma = log_gamma.exp()  # (cells, k)
    precision = 1 / variances
    spread = (log_variance.exp() + mean.square()) @ precision.T - 2 * mean @ (means * precision).T
    spread = (
        spread
        + (means.square() * precision).sum(1)
        + variances.log().sum(1)
        + LOG_2PI * mean.shape[1]
    )
    log_p_z = -0.5 * (gamma * spread).sum(1)
    log_p_c = gamma @ log_weights
    entropy_z = 0.5 * (1 + LOG_2PI + log_variance).sum(1)
    entropy_c = -(gamma * log_gamma).sum(1)
    return -(log_p_z + log_p_c + entropy_z + entropy_c)


def standard_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """KL(N(m, v) ‖ N(0, I)) of each cell, (cells,)."""
    return 0.5 * (log_variance.exp() + mean.square() - 1 - log_variance).sum(1)
