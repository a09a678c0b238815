"""A client's model and optimizer, and what of them is its own.

Averaged tensors (parameters; buffers only on demand) come from the server at
every round. What stays here between rounds is the optimizer's state, the other
buffers and how far the data was read: that is what can be taken back to an
acknowledged round. Works for any trainer that has a model.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from trainer.chunks.snapshot import ModelTensors, model_tensors
from trainer.federated.optimizer_state import FreshState, StateChange


@dataclass(frozen=True, kw_only=True)
class LocalState:
    """What a client keeps between rounds. Copies: nothing trains on them."""

    optimizer: dict[str, Any] | None
    """Its `state_dict`; None: as constructed, or there is no optimizer."""
    buffers: dict[str, Tensor] | None
    """Those that are not averaged; None: as constructed."""
    round_num: int = 0
    """After which round it was taken; 0: before the first."""
    num_steps: int = 0
    """Local optimizer steps so far."""
    num_examples: int = 0
    """Examples read so far, with repetition: the data position."""
    is_as_stored: bool = True
    """Whether the client's store holds this optimizer state under the round."""
    is_cleared: bool = False
    """Whether it is that of a reset: none but hyperparameters."""
    construction: "Construction | None" = None
    """Of the optimizer that this was taken of; None: nobody knows."""


class Construction(msgspec.Struct, frozen=True):
    """How an optimizer was made: what its state may be given back to."""

    kind: str
    """Class name."""
    groups: tuple[dict[str, str], ...]
    """Hyperparameters of each group, as Python writes them."""


class LocalModel:
    """Moves state into and out of a trainer's model and optimizer."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        *,
        average_buffers: bool = False,
    ) -> None:
        """Wrap them as constructed: before any step."""
        self.model = model
        self.optimizer = optimizer
        self._fresh = (
            None
            if optimizer is None
            else FreshState(optimizer, model.named_parameters())
        )
        self._groups = [] if optimizer is None else _hyperparameters(optimizer)
        self.construction = Construction(
            type(optimizer).__name__,
            tuple({k: repr(v) for k, v in group.items()} for group in self._groups),
        )
        """Of the optimizer, before it did anything."""
        kinds = model_tensors(model)
        self.averaged = averaged_names(kinds, average_buffers=average_buffers)
        self._initial = self._own_buffers()
        self.num_steps = 0
        self.num_examples = 0

    def tensors(self) -> ModelTensors:
        """Return all tensors, not copied."""
        return model_tensors(self.model)

    def averaged_tensors(self) -> dict[str, Tensor]:
        """Return what is sent to the server, not copied."""
        tensors = self.tensors().tensors
        return {name: tensors[name] for name in self.averaged}

    def load_global(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over the global model; buffers that stay local are not touched."""
        with torch.no_grad():
            for name, mine in self.averaged_tensors().items():
                mine.copy_(tensors[name])

    def snapshot(self, round_num: int) -> LocalState:
        """Return a copy of what this client keeps after a round."""
        optimizer = None
        if self.optimizer is not None:
            optimizer = copy.deepcopy(self.optimizer.state_dict())
        return LocalState(
            optimizer=optimizer,
            buffers=self._own_buffers(),
            round_num=round_num,
            num_steps=self.num_steps,
            num_examples=self.num_examples,
            construction=self.construction,
        )

    def restore(self, state: LocalState | None) -> None:
        """Go back to a state; None: as constructed."""
        state = state or LocalState(optimizer=None, buffers=None)
        if self.optimizer is not None:
            if state.optimizer is None:
                self._reset(0)
            else:
                self.optimizer.load_state_dict(copy.deepcopy(state.optimizer))
        buffers = self._initial if state.buffers is None else state.buffers
        mine = self.tensors().tensors
        with torch.no_grad():
            for name, buffer in buffers.items():
                mine[name].copy_(buffer)
        self.num_steps, self.num_examples = state.num_steps, state.num_examples

    def fit(
        self, optimizer: dict[str, Any], before: Construction | None
    ) -> dict[str, Any] | None:
        """Return a state that another process kept, as this optimizer may take it.

        Hyperparameters that were configured otherwise then get the values of
        now; what a schedule made of the others since comes back.

        Args:
            optimizer: Its `state_dict`.
            before: How the one that it is from was made; None: nobody knows.

        Returns:
            None: that was an optimizer of another kind, or of other groups.
        """
        if before is None or before == self.construction:
            return optimizer
        groups = optimizer["param_groups"]
        mine = self.construction
        if (before.kind, len(before.groups)) != (mine.kind, len(groups)):
            return None
        for group, told, now, values in zip(
            groups, before.groups, mine.groups, self._groups, strict=True
        ):
            group.update({k: values[k] for k in now if told.get(k) != now[k]})
        return optimizer

    def reset(self, top: int) -> StateChange | None:
        """Clear the optimizer's state, not its hyperparameters; None: there is none."""
        return self._reset(top)

    def decay(self, factor: float, top: int) -> StateChange | None:
        """Shrink the optimizer's state; None: there is no optimizer."""
        return None if self._fresh is None else self._fresh.decay(factor, top=top)

    def _reset(self, top: int) -> StateChange | None:
        return None if self._fresh is None else self._fresh.reset(top=top)

    def _own_buffers(self) -> dict[str, Tensor]:
        kinds = self.tensors()
        own = kinds.buffers - set(self.averaged)
        return {name: kinds.tensors[name].detach().clone() for name in sorted(own)}


def _hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [
        {name: copy.deepcopy(group[name]) for name in group if name != "params"}
        for group in optimizer.param_groups
    ]


def averaged_names(kinds: ModelTensors, *, average_buffers: bool) -> tuple[str, ...]:
    """Return which tensors the server averages, in the model's order.

    Parameters that need no gradient are sent too: clients may differ in them.
    Transient buffers never are: a model makes them itself.
    """
    return tuple(
        name
        for name in kinds.tensors
        if name not in kinds.buffers
        or (average_buffers and name not in kinds.transient)
    )


def model_of(trainer: object) -> nn.Module:
    """Return a trainer's model: at `trainer.ctx.model` or `trainer.model`, unwrapped.

    Raises:
        TypeError: it has none there.
    """
    for owner in (getattr(trainer, "ctx", None), trainer):
        model = getattr(owner, "model", None)
        if isinstance(model, nn.Module):
            inner = getattr(model, "module", model)
            return inner if isinstance(inner, nn.Module) else model
    raise TypeError(
        f"a {type(trainer).__name__} has a model neither at `ctx.model` nor at `model`"
    )


def optimizer_of(trainer: object) -> Optimizer | None:
    """Return a trainer's optimizer, found beside its model; None: it has none."""
    for owner in (getattr(trainer, "ctx", None), trainer):
        optimizer = getattr(owner, "optimizer", None)
        if isinstance(optimizer, Optimizer):
            return optimizer
    return None
