"""SCALE's model: a variational autoencoder of binary peaks with a Gaussian-mixture prior (Xiong et
al. 2019).

x ∈ {0,1}^m, a cell's peaks; z ∈ R^d; c ∈ {1..k}::

    p(c) = π_c,  p(z|c) = N(μ_c, diag σ²_c),  p(x_j = 1|z) = sigmoid(w_j · h(z) + b_j + s)
    q(z|x) = N(m(x), diag v(x))

h is the identity, or the decoder's hidden layers if there are any; s is a cell's depth offset, 0 in
the published model. There are two encoders: the published perceptron, and one that starts as a
spectral projection and learns a correction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from scale_toolkit.model.layers import SparseLinear, perceptron
from scale_toolkit.model.mixture import MixturePrior, ReleasePrior

if TYPE_CHECKING:
    from scipy import sparse

    from scale_toolkit.model.sparse import Rows

# Keeps exp() finite for any output of the encoder.
LOG_VARIANCE_RANGE = (-12.0, 6.0)


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; with the weights, all that is needed to rebuild it."""

    n_peaks: int
    latent: int
    n_components: int
    encode_dim: tuple[int, ...]
    decode_dim: tuple[int, ...] = ()
    # 0: the published encoder
    spectral_dim: int = 0
    release_prior: bool = False
    # means of z have the length √latent; False in models of earlier versions
    on_sphere: bool = False


class PerceptronEncoder(nn.Module):
    """The published encoder: peaks → hidden layers (ReLU) → mean and log variance of z."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        widths = (*shape.encode_dim, shape.latent)
        self.first = SparseLinear(shape.n_peaks, widths[0])
        self.hidden = perceptron(shape.encode_dim)
        last = shape.encode_dim[-1]
        self.mean = nn.Linear(last, shape.latent)
        self.log_variance = nn.Linear(last, shape.latent)

    def forward(self, rows: Rows | sparse.csr_matrix) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of q(z|x), both (cells, latent)."""
        hidden = self.hidden(torch.relu(self.first(rows)))
        return self.mean(hidden), self.log_variance(hidden).clamp(*LOG_VARIANCE_RANGE)


class SpectralEncoder(nn.Module):
    """Spectral coordinates (a linear layer on sparse rows) of unit length; before training, the
    first `latent` of them are z.

    The length of a cell's projection depends on depth and noise, its direction on the cell type, so
    only the direction is used. A perceptron of the coordinates gives the variance, and a residual
    of the mean, which training leaves at zero (`recipes.train_fast`).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.latent, self.on_sphere = shape.latent, shape.on_sphere
        self.first = SparseLinear(shape.n_peaks, shape.spectral_dim)
        self.skip = nn.Linear(shape.spectral_dim, shape.latent)
        self.hidden = perceptron((shape.spectral_dim, *shape.encode_dim))
        last = (shape.spectral_dim, *shape.encode_dim)[-1]
        self.mean = nn.Linear(last, shape.latent)
        self.log_variance = nn.Linear(last, shape.latent)
        with torch.no_grad():
            self.skip.weight.copy_(torch.eye(shape.latent, shape.spectral_dim))
            self.skip.bias.zero_()
            for layer in (self.mean, self.log_variance):
                layer.weight.zero_()
                layer.bias.zero_()
            # a standard deviation of exp(-1) = 0.37, small against the unit variance of the
            # coordinates
            self.log_variance.bias.fill_(-2.0)

    @torch.no_grad()
    def start(self, projection: torch.Tensor) -> None:
        """Take the spectral projection (peaks × spectral_dim) as the first layer."""
        self.first.weight.copy_(projection)
        if self.first.bias is not None:
            self.first.bias.zero_()

    def forward(self, rows: Rows | sparse.csr_matrix) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of q(z|x) of these rows, both (cells, latent)."""
        coordinates = directions(self.first(rows), self.latent)
        hidden = self.hidden(coordinates)
        mean = self.skip(coordinates) + self.mean(hidden)
        if self.on_sphere:
            mean = directions(mean, self.latent)
        return mean, self.log_variance(hidden).clamp(*LOG_VARIANCE_RANGE)


def directions(coordinates: torch.Tensor, n: int) -> torch.Tensor:
    """Divide each row by the root mean square of its first `n` values; rows of zeros stay zero."""
    return coordinates * (coordinates[:, :n].square().mean(1, keepdim=True) + 1e-8).rsqrt()


class Decoder(nn.Module):
    """h(z) and the last, linear layer: loadings w (peaks × hidden) and intercepts b (peaks)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.hidden = perceptron((shape.latent, *shape.decode_dim))
        n_hidden = (shape.latent, *shape.decode_dim)[-1]
        # as torch starts a linear layer: uniform within 1 / sqrt(inputs)
        bound = n_hidden**-0.5
        self.weight = nn.Parameter(torch.empty(shape.n_peaks, n_hidden).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(shape.n_peaks).uniform_(-bound, bound))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """h(z), (cells, hidden): what decoding is linear in."""
        return self.hidden(z)


class Scale(nn.Module):
    """Encoder, mixture prior and decoder."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = SpectralEncoder(shape) if shape.spectral_dim else PerceptronEncoder(shape)
        self.prior = (ReleasePrior if shape.release_prior else MixturePrior)(
            shape.n_components, shape.latent
        )
        self.decoder = Decoder(shape)

    def forward(self, rows: Rows | sparse.csr_matrix) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log variance of q(z|x) of these rows, both (cells, latent)."""
        return self.encoder(rows)

    @torch.no_grad()
    def reset_as_published(self) -> None:
        """Weights by Glorot and Bengio's normal rule, intercepts 0, as SCALE starts them."""
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, SparseLinear, Decoder)):
                nn.init.xavier_normal_(layer.weight)
                if layer.bias is not None:
                    layer.bias.zero_()


def sample(mean: torch.Tensor, log_variance: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Z = m + σ · noise (the reparameterisation of Kingma and Welling 2014), noise standard
    normal of the same shape.
    """
    return mean + (0.5 * log_variance).exp() * noise
