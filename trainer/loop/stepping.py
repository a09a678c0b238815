"""One optimizer step on one rank: forward, agree, backward, clip, step.

No rank raises between two collectives while the others go on. What goes wrong
in loading data or in the forward pass is told in the step's agreement, and then
all ranks raise the same error. A gradient that is not finite makes all ranks
skip the step: it is the same gradient on all of them.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from agent.session import Agent
from trainer.checkpoint.rng import capture_rng, restore_rng
from trainer.checkpoint.state import TrainState
from trainer.data.plan import StepPlan
from trainer.distributed.agreement import StepPart, Want, agree_on_step
from trainer.distributed.verdict import exchange
from trainer.distributed.world import World

Batch = Any
"""What a user's collation makes: a tensor, a tuple, a list or a dict of them."""

LossFunction = Callable[[nn.Module, Batch], Tensor]
"""Runs the model on a batch, on the right device, and returns the mean loss."""

STEP_BARRIER = "step.agree"
_FAILED_LIMIT_S = 60.0


class StepResult(NamedTuple):
    """What a step has brought, equal on all ranks but for the times."""

    loss: float
    num_tokens: int
    grad_norm: float
    is_skipped: bool
    nonfinite: str | None
    wants: frozenset[Want]
    step_ns: int
    data_ns: int


@dataclass
class Forward:
    """What a rank has after its forward passes."""

    loss_sum: float = 0.0
    num_samples: int = 0
    num_tokens: int = 0
    data_ns: int = 0
    last_loss: Tensor | None = None
    """Weighted and with its graph: the backward pass that synchronises."""
    error: BaseException | None = None


@dataclass
class Stepper:
    """Takes steps with one model and one optimizer."""

    world: World
    agent: Agent
    state: TrainState
    wrapped: nn.Module
    """The model as it is called: in DDP where there is a group."""
    loss_function: LossFunction
    clip: float = 0.0
    """Largest gradient norm; 0: no clipping."""
    amp_dtype: torch.dtype | None = None
    """None: full precision."""

    def step(
        self, plan: StepPlan, batches: Iterator[Batch], wants: frozenset[Want]
    ) -> StepResult:
        """Take one step. Every rank has to call it, with its part of the plan.

        Args:
            plan: This rank's part.
            batches: Yields one batch per forward pass of the plan.
            wants: What this rank asks of all.

        Raises:
            RunDirError: a rank failed; the same on all of them.
        """
        began = time.perf_counter_ns()
        forward = self._forward(plan, batches)
        part = StepPart(
            forward.loss_sum,
            forward.num_samples,
            forward.num_tokens,
            wants,
            has_failed=forward.error is not None,
        )
        with self.agent.wait(STEP_BARRIER):
            agreed = agree_on_step(self.world, part)
        if agreed.num_failed:
            exchange(self.world, STEP_BARRIER, forward.error, limit_s=_FAILED_LIMIT_S)
        assert forward.last_loss is not None
        self._backward(forward.last_loss)
        norm = self._unscaled_norm()
        nonfinite = self._apply(norm, agreed.loss)
        return StepResult(
            loss=agreed.loss,
            num_tokens=agreed.num_tokens,
            grad_norm=float(norm),
            is_skipped=nonfinite is not None,
            nonfinite=nonfinite,
            wants=agreed.wants,
            step_ns=time.perf_counter_ns() - began,
            data_ns=forward.data_ns,
        )

    def rehearse(self, batch: Batch) -> None:
        """Run two forward and backward passes, and leave no trace of them.

        DDP orders its buckets anew after the first one, and gloo's sums follow
        that order; without this the first step of every start would add up in
        another order than the same step of an uninterrupted run. Measured on
        three ranks: 4 of 12 losses equal after a resume without, 12 of 12 with.
        """
        if not isinstance(self.wrapped, DistributedDataParallel):
            return
        rng = capture_rng(self.world.device)
        buffers = [buffer.clone() for buffer in self.state.model.buffers()]
        for _ in range(2):
            torch.autograd.backward(self._loss(batch))
        self.state.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in zip(self.state.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        restore_rng(rng, self.world.device)

    def _forward(self, plan: StepPlan, batches: Iterator[Batch]) -> Forward:
        """Run every forward pass, and every backward pass but the last."""
        found = Forward()
        try:
            self.wrapped.train()
            for index, micro in enumerate(plan.micro_batches):
                is_last = index == len(plan.micro_batches) - 1
                began = time.perf_counter_ns()
                batch = next(batches)
                found.data_ns += time.perf_counter_ns() - began
                weight = micro.num_samples * self.world.world_size / plan.num_samples
                with contextlib.nullcontext() if is_last else self._no_sync():
                    loss = self._loss(batch)
                    if not is_last:
                        self._backward(loss * weight)
                found.last_loss = loss * weight
                if micro.num_samples:
                    found.loss_sum += float(loss.detach()) * micro.num_samples
                    found.num_samples += micro.num_samples
                    found.num_tokens += count_tokens(batch)
        except BaseException as error:
            if self._forward_synchronises:
                raise  # the peers are in a collective of their forward pass
            found.error = error
        return found

    def _backward(self, loss: Tensor) -> None:
        torch.autograd.backward(self.state.scaler.scale(loss))

    def _loss(self, batch: Batch) -> Tensor:
        batch = to_device(batch, self.world.device)
        with torch.autocast(
            self.world.device.type,
            dtype=self.amp_dtype or torch.bfloat16,
            enabled=self.amp_dtype is not None,
        ):
            return self.loss_function(self.wrapped, batch)

    def _no_sync(self) -> AbstractContextManager[None]:
        if isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return contextlib.nullcontext()

    @property
    def _forward_synchronises(self) -> bool:
        """Whether DDP broadcasts rank 0's buffers at each forward pass."""
        return isinstance(self.wrapped, DistributedDataParallel) and any(
            True for _ in self.state.model.buffers()
        )

    def _unscaled_norm(self) -> Tensor:
        """Return the norm of the whole gradient, before any clipping."""
        self.state.scaler.unscale_(self.state.optimizer)
        found = [p.grad for p in self.state.model.parameters() if p.grad is not None]
        return nn.utils.get_total_norm(found)

    def _apply(self, norm: Tensor, loss: float) -> str | None:
        """Clip and step unless the gradient is not finite; return what was not.

        A gradient that is not finite is not clipped: that would spread to every
        tensor, and the one to blame could not be named.
        """
        optimizer, scaler = self.state.optimizer, self.state.scaler
        nonfinite = None
        if norm.isfinite():
            if self.clip:
                parameters = self.state.model.parameters()
                nn.utils.clip_grads_with_norm_(parameters, self.clip, norm)
            scaler.step(optimizer)
        else:
            nonfinite = "loss" if not isfinite(loss) else self._nonfinite_gradient()
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return nonfinite

    def _nonfinite_gradient(self) -> str:
        for name, parameter in self.state.model.named_parameters():
            if parameter.grad is not None and not parameter.grad.isfinite().all():
                return name
        return "gradient norm"


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch with every tensor in it on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        moved = [to_device(value, device) for value in batch]
        return moved if isinstance(batch, list) else tuple(moved)
    return batch


def count_tokens(batch: Batch) -> int:
    """Return a batch's tokens: elements of its first tensor if those are integers.

    Anything else has no tokens; its samples are counted.
    """
    tensor = _first_tensor(batch)
    if tensor is None or tensor.dim() == 0:
        return 0
    is_text = tensor.dim() > 1 and not tensor.is_floating_point()
    return tensor.numel() if is_text else len(tensor)


def default_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Call a model with a batch and find the loss in what it returns.

    A dict is passed by keyword, a tuple or list by position. The model returns
    the loss, a tuple or dict with it, or an object that has a `loss`.

    Raises:
        TypeError: no scalar loss was found.
    """
    if isinstance(batch, dict):
        result = model(**batch)
    elif isinstance(batch, list | tuple):
        result = model(*batch)
    else:
        result = model(batch)
    if isinstance(result, tuple):
        result = result[0]
    elif isinstance(result, dict):
        result = result["loss"]
    loss = getattr(result, "loss", result)
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        raise TypeError("the model returned no scalar loss: give a loss function")
    return loss


def _first_tensor(batch: Batch) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    if isinstance(batch, dict):
        batch = list(batch.values())
    if isinstance(batch, list | tuple):
        return next(
            (t for item in batch if (t := _first_tensor(item)) is not None), None
        )
    return None
