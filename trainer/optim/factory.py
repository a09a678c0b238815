"""Optimizers by name, over parameter groups that decay what should decay.

Biases and the parameters of normalisation layers are never decayed: shrinking
them towards zero regularises nothing and costs accuracy.
"""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._NormBase,  # noqa: SLF001 - the one parent of batch and instance norm
    nn.LocalResponseNorm,
    nn.RMSNorm,
)
_KINDS: dict[str, type[Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
_WITH_MOMENTUM = ("sgd", "rmsprop")


def configure_optimizer(
    model: nn.Module,
    optimizer_type: str = "adamw",
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    **options: Any,  # noqa: ANN401 - the optimizer's own
) -> Optimizer:
    """Return an optimizer for a model, with decay where it belongs.

    Args:
        model: Its parameters that need a gradient are optimized.
        optimizer_type: `adamw`, `adam`, `sgd`, `rmsprop` or `adagrad`.
        lr: Learning rate.
        weight_decay: Of weights; biases and normalisation layers have none.
        options: Further arguments of the optimizer, e.g. `momentum`.

    Raises:
        ValueError: there is no optimizer of that name.
    """
    groups = get_parameter_groups(model, weight_decay)
    return create_optimizer(groups, optimizer_type, lr, **options)


def create_optimizer(
    groups: list[dict[str, Any]],
    optimizer_type: str = "adamw",
    lr: float = 1e-3,
    **options: Any,  # noqa: ANN401 - the optimizer's own
) -> Optimizer:
    """Return the optimizer of that name over these parameter groups.

    `momentum` is dropped for the optimizers that have none.

    Raises:
        ValueError: there is no optimizer of that name.
    """
    kind = _KINDS.get(optimizer_type.lower())
    if kind is None:
        known = ", ".join(_KINDS)
        raise ValueError(f"unknown optimizer {optimizer_type!r}, known are {known}")
    if optimizer_type.lower() not in _WITH_MOMENTUM:
        options.pop("momentum", None)
    make: Any = kind
    optimizer: Optimizer = make(groups, lr=lr, **options)
    return optimizer


def get_parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split a model's trainable parameters into those that decay and the others.

    A parameter that several modules share is in one group, once. A group
    without parameters is left out.
    """
    exempt = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if isinstance(module, _NORMS) or name.endswith("bias")
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if id(p) not in exempt],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in trained if id(p) in exempt], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
