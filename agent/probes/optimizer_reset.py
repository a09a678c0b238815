"""Tell what happened to an optimizer's state from outside: resets and reloads.

Stale momentum was seen to take a loss from 0.52 to 2.34 after a reconnect, so
norms before and after are an event. The change itself always happens; that it
could not be measured or told does not stop it.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from torch.optim import Adagrad, Optimizer

from agent.emitter import Emitter
from agent.probes.optimizer import measure
from agent.probes.optimizer_watch import in_brief
from agent.rundir.events import OptimizerReset

_ALL = 1 << 30


@dataclass(frozen=True)
class ResetCause:
    """What was known when the state was changed; None: not known."""

    reason: str
    rounds_missed: int | None = None
    model_digest: str | None = None
    """Of the model that training goes on with."""
    data_position: int | None = None
    """Samples consumed."""
    seed: int | None = None


@dataclass(frozen=True)
class Detail:
    """How much is told of an optimizer's state."""

    names: Mapping[int, str]
    """Of parameters, by `id`."""
    top: int = 0
    """How many tensors are named, those with the largest norms before the change."""


def clear_state(
    emitter: Emitter, optimizer: Optimizer | None, cause: ResetCause, detail: Detail
) -> None:
    """Forget moments and step counters; learning rates and the like stay."""
    if optimizer is None:
        return
    with changed_state(emitter, optimizer, cause, detail):
        optimizer.state.clear()
        if isinstance(optimizer, Adagrad):
            _begin_anew(optimizer)


@contextmanager
def changed_state(
    emitter: Emitter, optimizer: Optimizer, cause: ResetCause, detail: Detail
) -> Iterator[None]:
    """Surround what changes the state, e.g. `load_state_dict`."""
    before, largest = _norms(emitter, optimizer, detail)
    yield
    every = dataclasses.replace(detail, top=_ALL if detail.top else 0)
    after, now = _norms(emitter, optimizer, every)
    emitter.emit(
        OptimizerReset,
        optimizer=type(optimizer).__name__,
        reason=cause.reason,
        before=before | largest,
        # What is gone has no norm any more.
        after=after | {label: now.get(label, 0.0) for label in largest},
        rounds_missed=cause.rounds_missed,
        model_digest=cause.model_digest,
        data_position=cause.data_position,
        seed=cause.seed,
    )


def _begin_anew(optimizer: Adagrad) -> None:
    """Give it the state that it has before its first step.

    Alone in torch it fills its state when it is constructed, and cannot step
    without.
    """
    new = Adagrad(
        [dict(group) for group in optimizer.param_groups],
        initial_accumulator_value=optimizer.defaults["initial_accumulator_value"],
    )
    optimizer.state.update(new.state)


def _norms(
    emitter: Emitter, optimizer: Optimizer, detail: Detail
) -> tuple[dict[str, float | None], dict[str, float]]:
    """Return the norms of the state by the optimizer's own names, and the largest."""
    try:
        norms = measure(optimizer, detail.names, top=detail.top)
    except Exception as error:  # noqa: BLE001 - the change must happen all the same
        emitter.drop(f"optimizer probe: {in_brief(error)}")
        return {}, {}
    return norms.state, norms.largest
