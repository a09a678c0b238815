"""The held-out loss of a model, over all ranks."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from agent.session import Agent
from trainer.data.loaders import PlannedBatches
from trainer.data.plan import MicroBatch
from trainer.distributed.agreement import StepPart, agree_on_step
from trainer.distributed.verdict import exchange
from trainer.distributed.world import World
from trainer.loop.stepping import LossFunction, count_tokens, to_device

EVAL_BARRIER = "eval.agree"


class Evaluation(NamedTuple):
    """Equal on all ranks but for the time."""

    loss: float
    num_tokens: int
    eval_ns: int


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: PlannedBatches,
    loss_function: LossFunction,
    world: World,
    agent: Agent,
    *,
    max_samples: int,
    limit_s: float,
) -> Evaluation:
    """Return the mean held-out loss. Every rank has to call it.

    Args:
        model: Unwrapped: a wrapped one would communicate in its forward pass.
        batches: Held-out data, not shuffled.
        loss_function: As in training.
        world: Each rank evaluates its share.
        agent: Is told about the wait at the end.
        max_samples: Over all ranks; 0: all there are.
        limit_s: How much later than the first rank the last may be done.

    Raises:
        RunDirError: a rank failed; the same on all of them.
    """
    began = time.monotonic_ns()
    part, error = StepPart(0.0, 0, 0), None
    was_training = model.training
    model.eval()
    try:
        part = _own_part(model, batches, loss_function, world, max_samples)
    except BaseException as caught:  # noqa: BLE001 - told to all, raised by all
        error = caught
    finally:
        model.train(was_training)
    with agent.barrier(EVAL_BARRIER, limit_s=limit_s):
        exchange(world, EVAL_BARRIER, error, limit_s=limit_s)
        agreed = agree_on_step(world, part)
    return Evaluation(agreed.loss, agreed.num_tokens, time.monotonic_ns() - began)


def _own_part(
    model: nn.Module,
    batches: PlannedBatches,
    loss_function: LossFunction,
    world: World,
    max_samples: int,
) -> StepPart:
    loss_sum, num_samples, num_tokens = 0.0, 0, 0
    for micro, batch in _until(batches, max_samples):
        if not micro.num_samples:
            continue
        loss = loss_function(model, to_device(batch, world.device))
        loss_sum += float(loss) * micro.num_samples
        num_samples += micro.num_samples
        num_tokens += count_tokens(batch)
    return StepPart(loss_sum, num_samples, num_tokens)


def _until(
    batches: PlannedBatches, max_samples: int
) -> Iterator[tuple[MicroBatch, Any]]:
    plans, loaded = batches.epoch(0)
    for plan in plans:
        for micro in plan.micro_batches:
            yield micro, next(loaded)
        if max_samples and plan.end >= max_samples:
            return
