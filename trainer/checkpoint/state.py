"""What a checkpoint holds, and how it goes back into a trainer.

Plain types and tensors only, so that `torch.load(weights_only=True)` reads
them. Models are always the unwrapped ones: keys never begin with `module.`.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from agent.rundir.errors import RunDirError
from trainer.checkpoint.rng import restore_rng, seed_everything
from trainer.distributed.world import World
from trainer.optim.early_stopping import BestLoss
from trainer.optim.ema import WeightAverage, without_prefix

STATE_SCHEMA = 1

PARTS = ("model", "optimizer", "scheduler", "scaler", "average", "progress", "rng")
"""Keys of the saved state, in the order in which they are loaded."""


class Rates(Protocol):
    """A learning rate schedule, ours or one of torch's."""

    def advance(self, step: int) -> None:
        """Set the rates for the step that follows `step` completed ones."""
        ...

    def settle(self, step: int) -> None:
        """Set the rates of now again, where they are a function of the step."""
        ...

    def skip_to(self, step: int) -> None:
        """Set the rates as if it had been advanced `step` times from its start."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return its state in plain types."""
        ...

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Take over a saved state."""
        ...


class ModelMismatchError(RunDirError):
    """A saved model has other names or shapes than the one that is to take it."""


@dataclass
class Progress:
    """How far the run is. All of it is equal on all ranks."""

    step: int = 0
    """Optimizer steps completed."""
    epoch: int = 0
    offset: int = 0
    """Samples of this epoch, over all ranks, that completed steps consumed."""
    num_samples: int = 0
    """As `offset`, over the whole run."""
    num_skipped: int = 0
    """Steps that were not applied for a gradient that was not finite."""
    best: BestLoss = field(default_factory=BestLoss)

    def state_dict(self) -> dict[str, Any]:
        """Return plain types."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "offset": self.offset,
            "num_samples": self.num_samples,
            "num_skipped": self.num_skipped,
            "best": self.best.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the saved run was."""
        for name in ("step", "epoch", "offset", "num_samples", "num_skipped"):
            setattr(self, name, int(state[name]))
        self.best.load_state_dict(state["best"])


@dataclass
class TrainState:
    """Everything that training changes, on one rank."""

    model: nn.Module
    """Unwrapped."""
    optimizer: Optimizer
    rates: Rates
    scaler: torch.amp.GradScaler
    """Disabled unless the precision is fp16."""
    average: WeightAverage | None
    progress: Progress


@torch.no_grad()
def capture(state: TrainState, rng: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Return the state to be saved; tensors are shared, not copied.

    Args:
        state: The writing rank's.
        rng: Of every rank, in order.
    """
    average = state.average
    return {
        "schema": STATE_SCHEMA,
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.rates.state_dict(),
        "scaler": state.scaler.state_dict(),
        "average": None if average is None else average.state_dict(),
        "progress": state.progress.state_dict(),
        "rng": rng,
    }


@torch.no_grad()
def restore(
    saved: dict[str, Any],
    state: TrainState,
    world: World,
    *,
    seed: int,
    with_optimizer: bool = True,
) -> list[str]:
    """Put a saved state back; random numbers last, as loading may draw some.

    Args:
        saved: From `capture`.
        state: Whose contents are replaced.
        world: Chooses which rank's generators are restored.
        seed: For a rank that the saved run did not have.
        with_optimizer: False: the optimizer and its schedule's rates stay new.

    Returns:
        What could not be restored, in words; empty: everything was.
    """
    remarks = []
    _load_model(saved["model"], state.model)
    if with_optimizer:
        state.optimizer.load_state_dict(saved["optimizer"])
        state.rates.load_state_dict(saved["scheduler"])
    else:
        # Its own highest rates, at the step that the run goes on from.
        state.rates.skip_to(int(saved["progress"]["step"]))
        remarks.append("the optimizer starts afresh")
    if saved["scaler"] and state.scaler.is_enabled():
        state.scaler.load_state_dict(saved["scaler"])
    remarks += _restore_average(saved.get("average"), state)
    state.progress.load_state_dict(saved["progress"])
    remarks += _restore_own_rng(saved["rng"], state, world, seed)
    return remarks


@torch.no_grad()
def restore_weights(saved: dict[str, Any], state: TrainState) -> None:
    """Put weights, moments and average back, and go on from where the run is.

    Step, data position, learning rates and random numbers stay.
    """
    _load_model(saved["model"], state.model)
    rates = [group["lr"] for group in state.optimizer.param_groups]
    state.optimizer.load_state_dict(saved["optimizer"])
    for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    if saved["scaler"] and state.scaler.is_enabled():
        state.scaler.load_state_dict(saved["scaler"])
    _restore_average(saved.get("average"), state)


def snapshot(saved: Any, copies: dict[int, torch.UntypedStorage] | None = None) -> Any:  # noqa: ANN401 - any saved type
    """Return a copy of a state in the CPU's memory, which training cannot change.

    Args:
        saved: From `capture`.
        copies: Storages that are copied already, so that tensors that share one
            share its copy; None: none are.
    """
    copies = {} if copies is None else copies
    if isinstance(saved, Tensor):
        return _copy(saved.detach(), copies)
    if isinstance(saved, dict):
        items = ((key, snapshot(value, copies)) for key, value in saved.items())
        return type(saved)(items)
    if isinstance(saved, list | tuple):
        return type(saved)(snapshot(value, copies) for value in saved)
    return saved


def _copy(tensor: Tensor, copies: dict[int, torch.UntypedStorage]) -> Tensor:
    storage = tensor.untyped_storage()
    key = storage._cdata  # noqa: SLF001 - torch.save's own key
    if key not in copies:
        as_bytes = torch.empty(0, dtype=torch.uint8, device=tensor.device)
        whole = as_bytes.set_(storage)
        copies[key] = whole.to("cpu", copy=True).untyped_storage()
    empty = torch.empty(0, dtype=tensor.dtype)
    return empty.set_(
        copies[key], tensor.storage_offset(), tensor.size(), tensor.stride()
    )


def _load_model(saved: dict[str, Tensor], model: nn.Module) -> None:
    try:
        model.load_state_dict(without_prefix(saved, model))
    except RuntimeError as error:
        # torch tells what differs below a first line that does not.
        told = [line.strip() for line in str(error).splitlines()]
        raise ModelMismatchError(
            f"the saved model does not fit this one: {(told[1:] or told)[0]}"
        ) from error


def _restore_average(saved: dict[str, Any] | None, state: TrainState) -> list[str]:
    if state.average is None:
        return []
    if saved is None:
        state.average.start_from(state.model)
        return ["the checkpoint has no average of the weights: it starts from them"]
    state.average.load_state_dict(saved)
    return []


def _restore_own_rng(
    saved: list[dict[str, Tensor]], state: TrainState, world: World, seed: int
) -> list[str]:
    if world.rank < len(saved):
        restore_rng(saved[world.rank], world.device)
    else:
        seed_everything(seed + state.progress.step, world.rank)
    if len(saved) == world.world_size:
        return []
    return [
        f"saved by {len(saved)} ranks, resumed by {world.world_size}: the losses "
        "will be close to the uninterrupted run's, not equal"
    ]
