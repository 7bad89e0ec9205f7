"""A ``model.pt`` of SCALE 1.1.2: the weights of its network by name, turned into a model of ours.

The file is ``torch.save(model.state_dict())`` of the release (Xiong et al. 2019, Nat Commun
10:4576): layers of the encoder (``encoder.hidden``), the mean and log variance of z
(``encoder.sample``), the decoder's layers and its last one (``decoder.reconstruction``), and the
mixture: ``pi`` (k,), ``mu_c`` and ``var_c`` (d × k). It names no peaks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from scale_toolkit.model.network import Scale, Shape
from scale_toolkit.model.recipes import Trained
from scale_toolkit.model.snapshot import History

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENDS = ("encoder.sample.mu", "encoder.sample.log_var", "decoder.reconstruction")
_MIXTURE = ("pi", "mu_c", "var_c")
# a weight or variance the release let fall to 0 or below, where its own logarithm is not a number
_TINY = 1e-30
# The epsilon of torch.nn.BatchNorm1d.
_BATCH_NORM_EPSILON = 1e-5


class NotOfTheRelease(ValueError):
    """The state dict lacks parts of the release's network, or they do not fit; the message says
    which.
    """


def is_release(content: Any) -> bool:
    """Whether what a torch file holds looks like the release's weights."""
    return isinstance(content, dict) and any(
        str(name).startswith(("encoder.", "decoder.")) for name in content
    )


def trained_of(weights: Mapping[str, torch.Tensor]) -> tuple[Trained, int]:
    """Build a model that computes what the release's network computes when it is not training.

    Batch normalisation, where a network was built with it, is folded into the layer before it by
    its running means and variances; dropout has no weights and does nothing outside training.

    Parameters
    ----------
    weights
        Name -> tensor, as ``state_dict()`` gives them.

    Returns
    -------
    The model, its latent vector the posterior mean; and how many components had a weight or
    variance of 0 or less, for which the release's own responsibilities are not numbers (they are
    taken as 1e-30).

    Raises
    ------
    NotOfTheRelease
        A part is missing, or the parts do not fit together.
    """
    weights = {
        str(name): value for name, value in weights.items() if isinstance(value, torch.Tensor)
    }
    expected_keys = [f"{name}.{kind}" for name in _ENDS for kind in ("weight", "bias")] + list(
        _MIXTURE
    )
    missing = [name for name in expected_keys if name not in weights]
    if missing:
        raise NotOfTheRelease(f"lacks {', '.join(missing[:3])}")
    encoder, decoder = _layers(weights, "encoder.hidden"), _layers(weights, "decoder.hidden")
    if not encoder:
        raise NotOfTheRelease("lacks encoder.hidden.0.weight")
    mean, log_variance, last = (
        (weights[f"{name}.weight"], weights[f"{name}.bias"]) for name in _ENDS
    )
    shape = Shape(
        n_peaks=encoder[0][0].shape[1],
        latent=len(mean[1]),
        n_components=len(weights["pi"]),
        encode_dim=tuple(len(bias) for _, bias in encoder),
        decode_dim=tuple(len(bias) for _, bias in decoder),
        release_prior=True,
    )
    model = Scale(shape)
    state = {"encoder.first.weight": encoder[0][0].T, "encoder.first.bias": encoder[0][1]}
    # ReLU stands between the layers, so the n-th linear layer after the first is member 2 n of its
    # sequence
    chains = (("encoder.hidden", encoder[1:]), ("decoder.hidden", decoder))
    for name, layers in chains:
        for number, (weight, bias) in enumerate(layers):
            state |= {f"{name}.{2 * number}.weight": weight, f"{name}.{2 * number}.bias": bias}
    for name, (weight, bias) in {
        "encoder.mean": mean,
        "encoder.log_variance": log_variance,
    }.items():
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    state |= {"decoder.weight": last[0], "decoder.bias": last[1]}
    pi, variances = weights["pi"], weights["var_c"].T
    degenerate = (
        (pi <= 0) | (variances <= 0).any(1)
        if variances.shape[:1] == pi.shape
        else torch.zeros(1, dtype=torch.bool)
    )
    state |= {
        "prior.weights": pi.clamp_min(_TINY),
        "prior.means": weights["mu_c"].T,
        "prior.variances": variances.clamp_min(_TINY),
    }
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise NotOfTheRelease(f"has layers that do not fit together ({reason})") from error
    if not all(torch.isfinite(value).all() for value in model.state_dict().values()):
        raise NotOfTheRelease("holds values that are not numbers")
    return Trained(model, None, None, log_transform=False, sampled=False, history=History()), int(
        degenerate.sum()
    )


def _layers(
    weights: Mapping[str, torch.Tensor], name: str
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weight (out × in) and bias of the linear layers under `name`, in order, batch
    normalisation folded in.
    """
    numbers = sorted(
        {
            int(match[1])
            for key in weights
            if (match := re.match(rf"{re.escape(name)}\.(\d+)\.", key))
        }
    )
    layers: list[tuple[torch.Tensor, torch.Tensor]] = []
    for number in numbers:
        layer_tensors = {
            key.rpartition(".")[2]: value
            for key, value in weights.items()
            if key.startswith(f"{name}.{number}.")
        }
        if "weight" not in layer_tensors or "bias" not in layer_tensors:
            raise NotOfTheRelease(
                f"lacks {name}.{number}.{'bias' if 'weight' in layer_tensors else 'weight'}"
            )
        if layer_tensors["weight"].ndim == 2:
            layers.append((layer_tensors["weight"], layer_tensors["bias"]))
        elif "running_mean" in layer_tensors and "running_var" in layer_tensors and layers:
            layers[-1] = _folded(layers[-1], layer_tensors, f"{name}.{number}")
        else:
            raise NotOfTheRelease(f"has a layer of unknown kind, {name}.{number}")
    return layers


def _folded(
    layer: tuple[torch.Tensor, torch.Tensor], norm: Mapping[str, torch.Tensor], name: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The linear layer that gives batch norm(layer(x)) as it is outside training: γ (Wx + b −
    mean) / √(var + ε) + β.
    """
    weight, bias = (tensor.to(torch.float64) for tensor in layer)
    if norm["running_mean"].shape != bias.shape:
        raise NotOfTheRelease(f"has a batch normalisation that does not fit its layer, {name}")
    scale = (
        norm["weight"].to(torch.float64)
        / (norm["running_var"].to(torch.float64) + _BATCH_NORM_EPSILON).sqrt()
    )
    shifted = (bias - norm["running_mean"].to(torch.float64)) * scale + norm["bias"].to(
        torch.float64
    )
    return (weight * scale[:, None]).to(layer[0].dtype), shifted.to(layer[1].dtype)
