"""An exponential average of a model's weights, to evaluate and to keep.

It is always made from the unwrapped model and under `no_grad`: taking the
state of a DDP wrapper while ranks are apart can start a collective that nobody
answers. Its keys therefore have no `module.` prefix.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

_PREFIX = "module."


class WeightAverage:
    """The averaged model. Moves only when an optimizer step was applied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from the weights that `model`, unwrapped, has now."""
        self.model = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards `model`; buffers and integers are copied, not averaged."""
        self.num_updates += 1
        weight = 1.0 - self._decay_now()
        current = model.state_dict()
        for name, mean in self.model.state_dict().items():
            if mean.is_floating_point() and name in self._averaged:
                mean.lerp_(current[name].to(mean), weight)
            else:
                mean.copy_(current[name])

    def restart(self, decay: float) -> None:
        """Go on with another decay; weights and count stay."""
        self.decay = decay

    def state_dict(self) -> dict[str, Any]:
        """Return weights, decay and count; keys without `module.`."""
        return {
            "model": self.model.state_dict(),
            "decay": self.decay,
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what was saved, also where it was saved from a wrapper.

        Raises:
            RuntimeError: names or shapes differ from the model's.
        """
        self.model.load_state_dict(without_prefix(state["model"], self.model))
        self.decay = float(state["decay"])
        self.num_updates = int(state["num_updates"])

    @torch.no_grad()
    def start_from(self, model: nn.Module) -> None:
        """Begin again from a model, for a checkpoint that has no average."""
        self.model.load_state_dict(model.state_dict())
        self.num_updates = 0

    @property
    def _averaged(self) -> set[str]:
        return {name for name, _ in self.model.named_parameters(remove_duplicate=False)}

    def _decay_now(self) -> float:
        """Return a smaller decay while there is little to average.

        Source: TensorFlow, `ExponentialMovingAverage(num_updates=)`.
        """
        return min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))


def without_prefix(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return a state as if it had never been saved from a wrapper such as DDP.

    A model that has a part of its own named `module` keeps those names.
    """
    if any(name.startswith(_PREFIX) for name in model.state_dict()):
        return state
    return {name.removeprefix(_PREFIX): value for name, value in state.items()}
