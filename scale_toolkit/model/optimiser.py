"""Adam (Kingma and Ba 2015), as `torch.optim.Adam` computes it.

It calls the kernel behind `torch.optim` directly: the first step of any optimiser there imports
torch's compiler, which is not used here and costs seconds and hundreds of megabytes in every call
of ``scale train``. A test compares the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


class Adam:
    """First-order steps scaled by running moments of the gradient; weight decay is added to the
    gradient.

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
        self.steps = [torch.zeros((), device=parameter.device) for parameter in self.parameters]
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take one step along the gradients, in one pass over each parameter (torch's fused
        kernel, CPU and CUDA).
        """
        trained = [i for i, parameter in enumerate(self.parameters) if parameter.grad is not None]
        fused_arguments = [
            [values[i] for i in trained]
            for values in (self.parameters, self.means, self.squares, self.steps)
        ]
        parameters, means, squares, steps = fused_arguments
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            means,
            squares,
            [],
            steps,
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=self.weight_decay,
            eps=self.epsilon,
            amsgrad=False,
            maximize=False,
        )
