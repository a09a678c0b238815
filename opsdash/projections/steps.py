"""Loss, learning rate, gradient norm and throughput by step, over all attempts.

One rank speaks for the run: the lowest that reports in an attempt. Where the
trainer reduces the loss all ranks say the same; where it does not, a curve that
jumps between ranks would be worse than one rank's.
"""

from collections import deque
from statistics import median
from typing import NamedTuple

from agent.rundir.events import (
    CheckpointLoaded,
    EvalDone,
    OptimizerNorms,
    StepDone,
)
from opsdash.projections.batch import Origin
from opsdash.projections.plausible import clip, finite, nanoseconds, whole
from opsdash.projections.series import Curve, Curves

LOSS, LR, GRAD_NORM = "loss", "lr", "grad_norm"
TOKENS_PER_S, STEP_MS, EVAL_LOSS = "tokens_per_s", "step_ms", "eval_loss"
NAMES = (LOSS, EVAL_LOSS, GRAD_NORM, LR, TOKENS_PER_S, STEP_MS)
"""In the order in which they are shown."""

_RECENT = 32
_NONFINITE_STEPS = 100
"""A step that was not finite counts as news for so many steps."""


class Nonfinite(NamedTuple):
    """Something was not finite."""

    attempt: int
    step: int
    what: str


class StepsNow(NamedTuple):
    """Where the run stands."""

    attempt: int | None
    step: int | None
    """Optimizer steps completed."""
    loss: float | None
    lr: float | None
    grad_norm: float | None
    tokens_per_s: float | None
    """All ranks together, median of the last steps."""
    step_ns: int | None
    """Median of the last steps."""
    agent_ns: int | None
    """What the agent itself costs in a step, median of the last ones."""
    eval_loss: float | None
    eval_step: int | None
    num_skipped: int
    """Steps whose gradient was not finite, in this attempt."""


class Steps:
    """Folds `step_done` and `eval_done`, and what norms say that was not finite."""

    def __init__(self) -> None:
        self.curves = Curves()
        self.nonfinite: deque[Nonfinite] = deque(maxlen=100)
        self._speakers: dict[int, tuple[int, str]] = {}
        self._attempt: int | None = None
        self._step: int | None = None
        self._num_skipped = 0
        self._step_ns: deque[int] = deque(maxlen=_RECENT)
        self._agent_ns: deque[int] = deque(maxlen=_RECENT)
        self._tokens_per_s: deque[float] = deque(maxlen=_RECENT)

    def on_step(self, origin: Origin, event: StepDone) -> None:
        """Take in a completed or skipped step."""
        step = whole(event.step)
        if step is None or not self._speaks(origin):
            return
        self._enter(origin.attempt, step)
        curves, attempt = self.curves, origin.attempt
        is_new = curves.append(attempt, LOSS, step, finite(event.loss))
        if not is_new:
            return
        if event.lr is not None:
            curves.append(attempt, LR, step, finite(event.lr))
        if event.grad_norm is not None or event.nonfinite:
            curves.append(attempt, GRAD_NORM, step, finite(event.grad_norm))
        self._measure(attempt, step, event)
        if event.is_skipped or event.nonfinite:
            self._note_nonfinite(attempt, step, event)

    def on_norms(self, origin: Origin, event: OptimizerNorms) -> None:
        """Take in whose norm was not finite, in a sample of any rank."""
        step = whole(event.step)
        if event.nonfinite and step is not None:
            what = clip(event.nonfinite[0], 80)
            self.nonfinite.append(Nonfinite(origin.attempt, step, what))

    def on_eval(self, origin: Origin, event: EvalDone) -> None:
        """Take in a held-out loss."""
        if self._speaks(origin):
            step = self._step if event.step is None else event.step
            self.curves.append(origin.attempt, EVAL_LOSS, step, finite(event.loss))

    def on_loaded(self, origin: Origin, event: CheckpointLoaded) -> None:
        """Take in from where an attempt goes on."""
        step = whole(event.resumed_step)
        if step is not None and self._speaks(origin):
            self.curves.begin(origin.attempt, step)
            self._enter(origin.attempt, step)
            if origin.attempt == self._attempt:
                self._step = step

    @property
    def attempt(self) -> int | None:
        """The highest attempt that completed a step."""
        return self._attempt

    @property
    def step(self) -> int | None:
        """The newest step of that attempt."""
        return self._step

    @property
    def typical_step_ns(self) -> int | None:
        """Median of the last steps; None before the first."""
        return int(median(self._step_ns)) if self._step_ns else None

    def curve(self, name: str) -> Curve:
        """Return one number over the life of the run."""
        return self.curves.curve(name)

    def recent_nonfinite(self) -> Nonfinite | None:
        """Return the newest one, if it is at most 100 steps old."""
        if not self.nonfinite or self._step is None:
            return None
        last = self.nonfinite[-1]
        is_recent = self._step - last.step <= _NONFINITE_STEPS
        return last if last.attempt == self._attempt and is_recent else None

    def now(self) -> StepsNow:
        """Return where the run stands."""
        evaluated = self.curve(EVAL_LOSS).last()
        return StepsNow(
            attempt=self._attempt,
            step=self._step,
            loss=self._last(LOSS),
            lr=self._last(LR),
            grad_norm=self._last(GRAD_NORM),
            tokens_per_s=median(self._tokens_per_s) if self._tokens_per_s else None,
            step_ns=self.typical_step_ns,
            agent_ns=int(median(self._agent_ns)) if self._agent_ns else None,
            eval_loss=finite(evaluated[1]) if evaluated else None,
            eval_step=evaluated[0] if evaluated else None,
            num_skipped=self._num_skipped,
        )

    def _last(self, name: str) -> float | None:
        last = self.curve(name).last()
        return finite(last[1]) if last else None

    def _speaks(self, origin: Origin) -> bool:
        """Whether this process is the lowest rank that reported in its attempt."""
        rank = -1 if origin.rank is None else origin.rank
        mine = (rank, origin.stem)
        speaker = self._speakers.get(origin.attempt)
        if speaker is None or mine < speaker:
            self._speakers[origin.attempt] = speaker = mine
        return mine == speaker

    def _enter(self, attempt: int, step: int) -> None:
        if self._attempt is None or attempt > self._attempt:
            self._attempt, self._step, self._num_skipped = attempt, None, 0
            self._step_ns.clear()
            self._agent_ns.clear()
            self._tokens_per_s.clear()
        if attempt == self._attempt and (self._step is None or step > self._step):
            self._step = step

    def _measure(self, attempt: int, step: int, event: StepDone) -> None:
        step_ns = nanoseconds(event.step_ns)
        if not step_ns:
            return
        self.curves.append(attempt, STEP_MS, step, step_ns / 1e6)
        num_tokens = whole(event.num_tokens)
        if attempt == self._attempt:
            self._step_ns.append(step_ns)
            agent_ns = nanoseconds(event.agent_ns)
            if agent_ns is not None:
                self._agent_ns.append(agent_ns)
        if num_tokens is not None:
            per_s = num_tokens / step_ns * 1e9
            self.curves.append(attempt, TOKENS_PER_S, step, per_s)
            if attempt == self._attempt:
                self._tokens_per_s.append(per_s)

    def _note_nonfinite(self, attempt: int, step: int, event: StepDone) -> None:
        what = clip(event.nonfinite or "a gradient", 80)
        self.nonfinite.append(Nonfinite(attempt, step, what))
        self._num_skipped += event.is_skipped and attempt == self._attempt
