"""Measure the held-out loss once per step, and know which one was the best."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from agent.session import Agent
from trainer.checkpoint.retention import METRIC
from trainer.checkpoint.state import TrainState
from trainer.config import TrainConfig
from trainer.data.loaders import PlannedBatches
from trainer.distributed.world import World
from trainer.loop.evaluate import evaluate
from trainer.loop.stepping import LossFunction


class Measured(NamedTuple):
    """One evaluation."""

    step: int
    loss: float
    is_best: bool


@dataclass
class HeldOut:
    """Held-out data, and what was measured on it. Equal on all ranks."""

    world: World
    agent: Agent
    config: TrainConfig
    state: TrainState
    batches: PlannedBatches | None
    """None: there is no held-out data, and nothing is ever measured."""
    loss_function: LossFunction
    last: Measured | None = None

    def measure(self) -> bool:
        """Evaluate the average of the weights, or the model where there is none.

        Every rank has to call it. A second call at the same step measures
        nothing.

        Returns:
            Whether the loss is the best so far.

        Raises:
            RunDirError: a rank failed; the same on all of them.
        """
        progress = self.state.progress
        if self.batches is None:
            return False
        if self.last is not None and self.last.step == progress.step:
            return self.last.is_best
        average, limit_s = self.state.average, self.config.timeout_s
        with self.agent.in_phase("evaluating", limit_s=limit_s):
            found = evaluate(
                self.state.model if average is None else average.model,
                self.batches,
                self.loss_function,
                self.world,
                self.agent,
                max_samples=self.config.eval_samples,
                limit_s=limit_s,
            )
        is_best = progress.best.observe(found.loss, progress.step)
        self.last = Measured(progress.step, found.loss, is_best)
        self.agent.eval_done(
            loss=finite(found.loss),
            num_tokens=found.num_tokens,
            eval_ns=found.eval_ns,
            is_best=is_best,
        )
        return is_best

    def forget(self) -> None:
        """Measure again, though the step is the same: the weights are not."""
        self.last = None

    @property
    def loss(self) -> float | None:
        """The last held-out loss; None: there is none."""
        return None if self.last is None else self.last.loss

    @property
    def metrics(self) -> dict[str, float]:
        """What a checkpoint of now is worth; empty where that is not known."""
        if self.last is None or self.last.step != self.state.progress.step:
            return {}
        return {METRIC: self.last.loss} if math.isfinite(self.last.loss) else {}


def finite(value: float) -> float | None:
    """Return a number that JSON has; the event names what was not finite."""
    return value if math.isfinite(value) else None
