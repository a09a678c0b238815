"""What every optimizer needs before it optimizes: groups, gradients, saved state.

A group is a dictionary with a list of parameters and the hyperparameters that
apply to them, as in `torch.optim`, so that a learning rate can be changed from
outside and mixed precision can find the gradients. State is kept by parameter
and saved by position, because a parameter's identity does not survive a file.
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

State = dict[str, Any]


class ParameterGroups:
    """The part of an optimizer that does not depend on its formula."""

    def __init__(
        self, parameters: Iterable[Tensor] | Iterable[dict[str, Any]], **defaults: float
    ) -> None:
        """Keep groups of parameters.

        Args:
            parameters: Parameters, or groups of them with their own settings:
                `[{"params": weights, "weight_decay": 0.1}, {"params": biases}]`.
            defaults: What a group has that says nothing else.

        Raises:
            ValueError: there is no parameter, or one is in two groups.
        """
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[Tensor, State] = {}
        for given in parameters:
            if isinstance(given, dict):
                group = {**defaults, **given, "params": list(given["params"])}
                self.param_groups.append(group)
            elif not self.param_groups:
                self.param_groups.append({**defaults, "params": [given]})
            else:
                self.param_groups[0]["params"].append(given)
        parameters_found = self.parameters()
        if not parameters_found:
            raise ValueError("there is no parameter to optimize")
        if len({id(parameter) for parameter in parameters_found}) < len(
            parameters_found
        ):
            raise ValueError("a parameter is in two groups")

    def parameters(self) -> list[Tensor]:
        """Return all parameters, in the order in which state is saved."""
        return [p for group in self.param_groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Forget the gradients; None costs no memory and is not a gradient of 0."""
        for parameter in self.parameters():
            parameter.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return hyperparameters and state, in types that are safe to load."""
        return {
            "groups": [
                {name: value for name, value in group.items() if name != "params"}
                for group in self.param_groups
            ],
            "state": [
                {
                    name: value.clone() if isinstance(value, Tensor) else value
                    for name, value in self.state.get(parameter, {}).items()
                }
                for parameter in self.parameters()
            ],
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what `state_dict` returned, for the same parameters.

        Raises:
            ValueError: it is of other parameters; nothing was taken over.
        """
        parameters = self.parameters()
        if len(saved["state"]) != len(parameters):
            raise ValueError(
                f"state of {len(saved['state'])} parameters for {len(parameters)}"
            )
        for parameter, values in zip(parameters, saved["state"], strict=True):
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape != parameter.shape:
                    raise ValueError(f"`{name}` has another shape than its parameter")
        for group, values in zip(self.param_groups, saved["groups"], strict=True):
            group.update(values)
        self.state = {
            parameter: {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in values.items()
            }
            for parameter, values in zip(parameters, saved["state"], strict=True)
            if values
        }
