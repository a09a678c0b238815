"""Norms of gradients, parameters and optimizer state, and what broke their flow.

In a DDP run one rank speaks, because all hold the same state; in a federated
run every client has its own optimizer and its own curves.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from agent.rundir.events import (
    CheckpointLoaded,
    NonfiniteFound,
    OptimizerNorms,
    OptimizerReset,
    RunStarted,
)
from opsdash.projections.batch import Origin
from opsdash.projections.plausible import MAX_NODES, clip, finite, whole
from opsdash.projections.series import Curve, Curves

_MAX_GROUPS = 32
_MAX_STATE_KEYS = 32
_MAX_MARKS = 1_000


class Mark(NamedTuple):
    """A step at which a curve may jump, and why."""

    attempt: int
    step: int
    kind: str
    """`start`, `resume`, `reload` or `reset`."""
    node: str
    text: str


class Reset(NamedTuple):
    """The optimizer's state was cleared."""

    attempt: int
    node: str
    step: int | None
    round_num: int | None
    time_ns: int
    optimizer: str
    reason: str
    rounds_missed: int | None
    before: dict[str, float | None]
    after: dict[str, float | None]


class OptimizerNow(NamedTuple):
    """The newest sample of one optimizer."""

    node: str
    optimizer: str
    attempt: int
    step: int | None
    grad: float | None
    param: float | None
    update_ratio: float | None
    state: dict[str, float | None]
    state_steps: tuple[int, int] | None
    nonfinite: tuple[str, ...]
    probe_ns: int | None


class Optimizer:
    """Folds `optimizer_norms`, `optimizer_reset` and what marks a break."""

    def __init__(self) -> None:
        self.curves = Curves()
        self.marks: deque[Mark] = deque(maxlen=_MAX_MARKS)
        self.resets: deque[Reset] = deque(maxlen=_MAX_MARKS)
        self.nonfinite: deque[tuple[int, int | None, str]] = deque(maxlen=100)
        """(attempt, step, tensor) of what was not finite."""
        self._speakers: dict[int, int] = {}
        self._now: dict[str, OptimizerNow] = {}
        self._loaded: set[int] = set()

    def on_norms(self, origin: Origin, event: OptimizerNorms) -> None:
        """Take in a sample."""
        if not self._speaks(origin):
            return
        prefix = "" if origin.rank is not None else f"{origin.stem}/"
        step = whole(event.step)
        for name, value in _numbers(event):
            self.curves.append(origin.attempt, prefix + name, step, finite(value))
        for tensor in event.nonfinite[:8]:
            self.nonfinite.append((origin.attempt, step, clip(tensor, 120)))
        if origin.stem in self._now or len(self._now) < MAX_NODES:
            self._now[origin.stem] = _sample(origin, event)

    def on_reset(self, origin: Origin, event: OptimizerReset) -> None:
        """Take in a cleared state."""
        reset = Reset(
            attempt=origin.attempt,
            node=origin.stem,
            step=whole(event.step),
            round_num=whole(event.round_num),
            time_ns=event.time_ns,
            optimizer=clip(event.optimizer, 40),
            reason=clip(event.reason),
            rounds_missed=whole(event.rounds_missed),
            before=_few(event.before),
            after=_few(event.after),
        )
        self.resets.append(reset)
        self._mark(origin, reset.step, "reset", reset.reason)

    def on_started(self, origin: Origin, event: RunStarted) -> None:
        """Take in the start of a process: it begins at the step it names."""
        is_start = event.segment == 1 and origin.attempt == 1
        if is_start and origin.rank in (0, None):
            self._mark(origin, whole(event.step) or 0, "start", "attempt 1")

    def on_loaded(self, origin: Origin, event: CheckpointLoaded) -> None:
        """Take in a load: at the start of an attempt a resume, later a reload."""
        if not self._speaks(origin):
            return
        step = whole(event.step if event.resumed_step is None else event.resumed_step)
        is_first = origin.attempt not in self._loaded
        if is_first or event.resumed_step is not None:
            self._loaded.add(origin.attempt)
            self.curves.begin(origin.attempt, step)
        kind = "resume" if is_first else "reload"
        self._mark(origin, step, kind, f"from {clip(event.checkpoint, 60)}")

    def on_nonfinite(self, origin: Origin, event: NonfiniteFound) -> None:
        """Take in a tensor that was not finite."""
        found = (origin.attempt, whole(event.step), clip(event.tensor, 120))
        self.nonfinite.append(found)

    def now(self) -> list[OptimizerNow]:
        """Return the newest sample of each optimizer that speaks."""
        return [self._now[stem] for stem in sorted(self._now)]

    def curve(self, name: str) -> Curve:
        """Return one norm over the life of the run."""
        return self.curves.curve(name)

    def _speaks(self, origin: Origin) -> bool:
        """Whether this is a client, or the lowest rank seen in its attempt."""
        if origin.rank is None:
            return True
        lowest = self._speakers.setdefault(origin.attempt, origin.rank)
        if origin.rank < lowest:
            self._speakers[origin.attempt] = lowest = origin.rank
        return origin.rank == lowest

    def _mark(self, origin: Origin, step: int | None, kind: str, text: str) -> None:
        if step is not None:
            self.marks.append(Mark(origin.attempt, step, kind, origin.stem, text))


def _numbers(event: OptimizerNorms) -> Iterator[tuple[str, float | None]]:
    yield "grad", event.grad
    yield "param", event.param
    yield "update_ratio", event.update_ratio
    for key, value in _few(event.state).items():
        yield f"state.{key}", value
    if len(event.groups) < 2:
        return
    for index, group in enumerate(event.groups[:_MAX_GROUPS]):
        yield f"group{index}.lr", group.lr
        yield f"group{index}.grad", group.grad
        yield f"group{index}.param", group.param
        yield f"group{index}.update_ratio", group.update_ratio
        for key, value in _few(group.state).items():
            yield f"group{index}.state.{key}", value


def _sample(origin: Origin, event: OptimizerNorms) -> OptimizerNow:
    return OptimizerNow(
        node=origin.stem,
        optimizer=clip(event.optimizer, 40),
        attempt=origin.attempt,
        step=whole(event.step),
        grad=finite(event.grad),
        param=finite(event.param),
        update_ratio=finite(event.update_ratio),
        state=_few(event.state),
        state_steps=event.state_steps,
        nonfinite=tuple(clip(name, 120) for name in event.nonfinite[:8]),
        probe_ns=event.probe_ns,
    )


def _few(state: dict[str, float | None]) -> dict[str, float | None]:
    """Return the first keys of a state, each of bounded length."""
    names = list(state)[:_MAX_STATE_KEYS]
    return {clip(name, 60): finite(state[name]) for name in names}
