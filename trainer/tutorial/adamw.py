"""AdamW from its formulas, one line of code for each.

With gradient g of parameter w at step t, learning rate lr, decay rates b1, b2:

    w = w - lr · decay · w                decoupled weight decay
    m = b1 · m + (1 - b1) · g             first moment: where to
    v = b2 · v + (1 - b2) · g²            second moment: how much it varies
    m̂ = m / (1 - b1ᵗ)                     both begin at 0 and are too small
    v̂ = v / (1 - b2ᵗ)                     at first: bias correction
    w = w - lr · m̂ / (√v̂ + eps)

Decay acts on the weight and not on the gradient: otherwise √v̂ would divide it
away where gradients are large, which is where it is needed.

Source: Kingma and Ba 2015, Algorithm 1; Loshchilov and Hutter 2019, Algorithm 2.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from trainer.tutorial.parameters import ParameterGroups


class AdamWFromScratch(ParameterGroups):
    """AdamW, to read. Equals `torch.optim.AdamW` to 1e-6 over 1,000 steps."""

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        """Optimize these parameters.

        Args:
            parameters: Parameters, or groups of them with their own settings.
            lr: How far a step goes at most, about.
            betas: How slowly the moments forget, each in [0, 1).
            eps: Keeps the division finite where nothing varies.
            weight_decay: Share of `lr` by which weights shrink each step.

        Raises:
            ValueError: a rate is outside its range.
        """
        beta1, beta2 = betas
        if lr < 0 or not 0 <= beta1 < 1 or not 0 <= beta2 < 1:
            raise ValueError(f"lr {lr} or betas {betas} are outside their ranges")
        super().__init__(
            parameters,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
        )

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        lr, beta1, beta2 = group["lr"], group["beta1"], group["beta2"]
        state = self.state.setdefault(w, {})
        if not state:
            state.update(step=0, m=torch.zeros_like(w), v=torch.zeros_like(w))
        m, v = state["m"], state["v"]
        state["step"] += 1

        w.mul_(1 - lr * group["weight_decay"])
        m.mul_(beta1).add_(g, alpha=1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        m_hat = m / (1 - beta1 ** state["step"])
        v_hat = v / (1 - beta2 ** state["step"])
        w.sub_(lr * m_hat / (v_hat.sqrt() + group["eps"]))
