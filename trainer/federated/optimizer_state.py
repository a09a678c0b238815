"""Clear or shrink an optimizer's state and keep its hyperparameters.

State is read by the optimizer's own key names, so that any optimizer is
covered. Adagrad fills its state when it is constructed and fails without it:
what an optimizer held then is what a reset puts back.
"""

import copy
import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from agent.probes.optimizer import measure

_COUNTER = "step"


@dataclass(frozen=True)
class StateChange:
    """What a reset or decay did, as norms by the optimizer's own key names."""

    optimizer: str
    """Class name."""
    before: dict[str, float | None]
    """Total per key; `key/parameter` for the largest few. None: not finite."""
    after: dict[str, float | None]


class FreshState:
    """Knows what an optimizer's state was before its first step."""

    def __init__(
        self, optimizer: Optimizer, named_parameters: Iterable[tuple[str, Tensor]]
    ) -> None:
        """Remember the state; call it before any step or load."""
        self._optimizer = optimizer
        self._names = {id(param): name for name, param in named_parameters}
        self._initial = {
            param: copy.deepcopy(values) for param, values in optimizer.state.items()
        }

    def reset(self, *, top: int = 0) -> StateChange:
        """Put the state back to how it was constructed.

        Args:
            top: How many parameters to name, those with the largest norms.
        """
        before = self.norms(top=top)
        self._optimizer.state.clear()
        for param, values in self._initial.items():
            self._optimizer.state[param] = copy.deepcopy(values)
        return self._change(before)

    def decay(self, factor: float, *, top: int = 0) -> StateChange:
        """Multiply all of the state but its step counters."""
        before = self.norms(top=top)
        with torch.no_grad():
            for values in self._optimizer.state.values():
                for tensor in _floats(values).values():
                    tensor.mul_(factor)
        return self._change(before)

    def norms(self, *, top: int = 0) -> dict[str, float | None]:
        """Return the norm of each kind of state, and of the largest tensors."""
        totals = dict(measure(self._optimizer, self._names).state)
        if top:
            largest = heapq.nlargest(top, self._by_parameter())
            totals |= {label: norm for norm, label in largest}
        return totals

    def _by_parameter(self) -> Iterable[tuple[float, str]]:
        for param, values in self._optimizer.state.items():
            name = self._names.get(id(param), "unnamed")
            for key, tensor in _floats(values).items():
                norm = float(tensor.norm(dtype=torch.float32))
                if norm - norm == 0:
                    yield norm, f"{key}/{name}"

    def _change(self, before: dict[str, float | None]) -> StateChange:
        """Compare; what is gone has no norm any more, which is 0."""
        now = self.norms(top=len(self._names) * len(before))
        after = {label: now.get(label, 0.0) for label in before}
        return StateChange(type(self._optimizer).__name__, before, after)


def _floats(values: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, Tensor)
        and key != _COUNTER
        and value.is_floating_point()
        and value.numel() > 0
    }
