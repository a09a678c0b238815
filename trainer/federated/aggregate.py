"""Turn the members' updates of a round into the next global model.

Pure functions of tensors. Members are folded in the order of their keys,
whatever order they arrived in, and sums are carried in float64: the same
members give the same bits on every machine. What is not averaged (buffers, by
default) keeps the global model's value.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]

_ROUNDING = 1e-12
"""Of float64 sums of squares, relative."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What one client gives to a round."""

    client: str
    tensors: Tensors
    """The client's model after local training, by name."""
    num_examples: int
    """Its weight in the mean."""


@dataclass(frozen=True, kw_only=True)
class ServerMomentum:
    """FedAvgM: the mean change of a round is smoothed by those before.

    Source: Hsu, Qi, Brown 2019, "Measuring the effects of non-identical data
    distribution", section 4.3.
    """

    momentum: float
    """In [0, 1); 0 with `lr` 1 is plain FedAvg."""
    lr: float = 1.0


@dataclass(frozen=True)
class Aggregate:
    """A round's outcome."""

    tensors: dict[str, Tensor]
    velocity: dict[str, Tensor]
    """The server's momentum, by parameter; empty without."""


class Pull(NamedTuple):
    """How a member changed the model."""

    norm: float | None
    """L2, over everything averaged; None: not finite."""
    cosine: float | None
    """Of its change to the weighted mean change of the others; None: it is
    alone, or one of the two is zero or not finite."""


def fedavg(
    current: Tensors,
    updates: Iterable[Update],
    names: Sequence[str],
    *,
    momentum: ServerMomentum | None = None,
    velocity: Tensors | None = None,
) -> Aggregate:
    """Return the mean of the updates, weighted by examples.

    Args:
        current: The model that the updates started from.
        updates: At least one; the shapes are those of `current`.
        names: What is averaged. Everything else is taken from `current`.
        momentum: None: the mean is the new model.
        velocity: What the round before returned; None or empty: zero.

    Raises:
        ValueError: there is no update, or no example among them.

    Source: McMahan et al. 2017, Algorithm 1.
    """
    members = sorted(updates, key=lambda update: update.client)
    weights = [update.num_examples for update in members]
    if sum(weights) <= 0:
        raise ValueError("no update holds an example")
    tensors = {name: tensor.detach().clone() for name, tensor in current.items()}
    kept: dict[str, Tensor] = {}
    for name in names:
        mean = weighted_mean([update.tensors[name] for update in members], weights)
        if momentum is not None and mean.is_floating_point():
            before = (velocity or {}).get(name)
            mean, kept[name] = _smoothed(current[name], mean, before, momentum)
        tensors[name] = mean
    return Aggregate(tensors, kept)


def weighted_mean(tensors: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
    """Return the mean in the tensors' own dtype.

    Counters (whole numbers) have no mean that means anything: the greatest is
    taken.
    """
    first = tensors[0]
    if not first.is_floating_point():
        return torch.stack(list(tensors)).amax(0)
    total = torch.zeros(first.shape, dtype=torch.float64)
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor.detach().to(torch.float64), alpha=float(weight))
    return total.div_(float(sum(weights))).to(first.dtype)


def add_proximal_gradient(
    parameters: Iterable[tuple[Tensor, Tensor]], strength: float
) -> None:
    """Add FedProx's pull towards the global model to the gradients, in place.

    Args:
        parameters: Pairs of a parameter with a gradient and its global value.
        strength: μ; the loss gets μ/2 · ‖w - w_global‖².

    Source: Li et al. 2020, "Federated optimization in heterogeneous networks",
    equation 2.
    """
    with torch.no_grad():
        for parameter, reference in parameters:
            if parameter.grad is not None:
                parameter.grad.add_(parameter - reference, alpha=strength)


def pulls(
    current: Tensors, updates: Iterable[Update], names: Sequence[str]
) -> dict[str, Pull]:
    """Return, by client, how far and in which direction it changed the model."""
    members = sorted(updates, key=lambda update: update.client)
    own = dict.fromkeys((member.client for member in members), 0.0)
    joint = dict.fromkeys(own, 0.0)
    total = 0.0
    for name in names:
        base = current[name].to(torch.float64)
        changes = [member.tensors[name].to(torch.float64) - base for member in members]
        weighted = torch.zeros_like(base)
        for member, change in zip(members, changes, strict=True):
            weighted.add_(change, alpha=float(member.num_examples))
        total += _dot(weighted, weighted)
        for member, change in zip(members, changes, strict=True):
            own[member.client] += _dot(change, change)
            joint[member.client] += _dot(change, weighted)
    return {
        member.client: _pull(
            own[member.client], joint[member.client], total, member.num_examples
        )
        for member in members
    }


def first_nonfinite(tensors: Tensors) -> str | None:
    """Return the name of a tensor with a NaN or an infinity; None: all are sound."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        # A sum costs a tenth of `isfinite`; only an overflow deceives it.
        if not math.isfinite(tensor.sum()) and not bool(tensor.isfinite().all()):
            return name
    return None


def _pull(own: float, joint: float, total: float, weight: float) -> Pull:
    """Take a client's own part out of the weighted sum of all changes.

    Args:
        own: ‖d‖² of its change d.
        joint: d · s, where s is the weighted sum of all members' changes.
        total: ‖s‖².
        weight: Of d in s.
    """
    if not math.isfinite(own):
        return Pull(None, None)
    to_others = joint - weight * own
    others = total - 2 * weight * joint + weight * weight * own
    # What is left of s when the only member is taken out is rounding error.
    is_alone = not others > _ROUNDING * total
    if is_alone or own <= 0 or not math.isfinite(total):
        return Pull(math.sqrt(own), None)
    cosine = to_others / math.sqrt(own * others)
    return Pull(math.sqrt(own), max(-1.0, min(1.0, cosine)))


def _smoothed(
    current: Tensor, mean: Tensor, before: Tensor | None, rule: ServerMomentum
) -> tuple[Tensor, Tensor]:
    change = current.to(torch.float64) - mean.to(torch.float64)
    if before is not None:
        change = change + rule.momentum * before.to(torch.float64)
    # Both are rounded once, from what the next round will start with.
    kept = change.to(torch.promote_types(current.dtype, torch.float32))
    moved = current.to(torch.float64) - rule.lr * kept.to(torch.float64)
    return moved.to(current.dtype), kept


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.flatten(), b.flatten()))
