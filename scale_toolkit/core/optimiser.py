"""Adam (Kingma and Ba 2015), as `torch.optim.Adam` computes it.

Written out because the first step of any optimiser in `torch.optim` imports torch's compiler, which nothing here uses:
seconds and hundreds of megabytes in every call of ``scale train``. A test holds it to torch's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


def adam(parameters: Iterable[torch.nn.Parameter], lr: float, weight_decay: float) -> Adam | torch.optim.Optimizer:
    """Adam for these parameters: torch's fused one where they are on a GPU, which is worth its import there."""
    parameters = list(parameters)
    if parameters[0].device.type == "cuda":
        return torch.optim.Adam(parameters, lr, weight_decay=weight_decay, fused=True)
    return Adam(parameters, lr, weight_decay)


class Adam:
    """First-order steps scaled by running moments of the gradient; weight decay is added to the gradient.

    Parameters
    ----------
    parameters
        What is trained; a parameter without a gradient is left alone in that step.
    lr, weight_decay, betas, epsilon
        As in `torch.optim.Adam`.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.weight_decay, self.betas, self.epsilon = lr, weight_decay, betas, epsilon
        self.steps = [0] * len(self.parameters)
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients."""
        first, second = self.betas
        for i, parameter in enumerate(self.parameters):
            gradient = parameter.grad
            if gradient is None:
                continue
            self.steps[i] += 1
            if self.weight_decay:
                gradient = gradient.add(parameter, alpha=self.weight_decay)
            self.means[i].lerp_(gradient, 1 - first)
            self.squares[i].mul_(second).addcmul_(gradient, gradient, value=1 - second)
            unbiased = (1 - second ** self.steps[i]) ** 0.5
            scale = (self.squares[i].sqrt() / unbiased).add_(self.epsilon)
            parameter.addcdiv_(self.means[i], scale, value=-self.lr / (1 - first ** self.steps[i]))
