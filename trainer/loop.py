"""The data-parallel training loop: steps, evaluations, checkpoints, the end.

Whatever ranks decide here, they decide on numbers that are equal on all of
them, or on what a step's agreement has brought; so all of them save, stop and
end at the same step.
"""

import math
import time
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.rundir.errors import RunDirError
from agent.session import Agent
from trainer.checkpoint.saving import Saver
from trainer.checkpoint.state import TrainState
from trainer.config import TrainConfig
from trainer.console import Pace, say
from trainer.data.loaders import PlannedBatches
from trainer.data.plan import StepPlan
from trainer.distributed.agreement import StopFlag, Want
from trainer.distributed.world import World
from trainer.evaluate import Evaluation, evaluate
from trainer.stepping import Stepper, StepResult

METRIC = "val_loss"


class DivergedError(RunDirError):
    """Too many steps in a row had a gradient that is not finite."""


class TrainResult(NamedTuple):
    """How training ended, equal on all ranks."""

    reason: str
    """`completed` or `stopped`."""
    step: int
    loss: float | None
    """The last held-out loss; None: none was measured."""
    checkpoint: str | None
    """The last one that this start saved."""
    signum: int | None = None
    """The signal that this process received, if any."""


@dataclass
class Loop:
    """Trains until the steps are done, the loss stops falling, or somebody asks."""

    world: World
    agent: Agent
    config: TrainConfig
    state: TrainState
    stepper: Stepper
    saver: Saver
    train: PlannedBatches
    val: PlannedBatches | None
    num_steps: int
    """In total, across starts."""
    stop: StopFlag
    saved_step: int | None = None
    """The step that this start began at or saved last, if it is on the disk."""
    _evaluated: tuple[int, Evaluation] | None = None
    """The last evaluation and the step it was made at."""
    _num_skipped_in_a_row: int = 0
    _ending: str | None = None
    """Why training ends; None: it goes on."""
    _pace: Pace = field(default_factory=Pace)

    def run(self) -> TrainResult:
        """Train to the end. Every rank has to call it.

        Raises:
            RunDirError: a rank failed, or the run diverged; on every rank.
        """
        self.agent.phase("training")
        while self._ending is None and self.state.progress.step < self.num_steps:
            self._train_epoch()
        if self._ending != "stopped":
            self._finish()
        loss = None if self._evaluated is None else self._evaluated[1].loss
        return TrainResult(
            reason=self._ending or "completed",
            step=self.state.progress.step,
            loss=loss,
            checkpoint=self.saver.last_name,
            signum=self.stop.signum,
        )

    def _train_epoch(self) -> None:
        """Train from the position of now to the end of its epoch."""
        progress = self.state.progress
        plans, batches = self.train.epoch(progress.epoch, progress.offset)
        for plan in plans:
            result = self.stepper.step(plan, batches, self._wants())
            self._account(plan, result)
            self._look_around(result)
            if self._ending or progress.step >= self.num_steps:
                return
        progress.epoch += 1
        progress.offset = 0

    def _wants(self) -> frozenset[Want]:
        """Return what this rank asks of all at the next step."""
        limit_s = self.config.save_minutes * 60
        is_due = limit_s and time.monotonic() - self.saver.last_mono_s > limit_s
        # Clocks differ: only rank 0's counts.
        own = {Want.SAVE} if is_due and self.world.is_main else set()
        return self.stop.wants | own

    def _account(self, plan: StepPlan, result: StepResult) -> None:
        """Count a step; schedule and average move only if it was applied."""
        state, progress = self.state, self.state.progress
        rate = float(state.optimizer.param_groups[0]["lr"])
        progress.offset = plan.end
        progress.num_samples += plan.num_samples
        if result.is_skipped:
            self._count_skipped(result)
        else:
            self._num_skipped_in_a_row = 0
            progress.step += 1
            state.rates.advance(progress.step)
            if state.average is not None:
                state.average.update(state.model)
        self._pace.add(result.num_tokens)
        self.agent.step_done(
            progress.step,
            loss=_finite(result.loss),
            lr=rate,
            grad_norm=_finite(result.grad_norm),
            num_tokens=result.num_tokens,
            step_ns=result.step_ns,
            data_ns=result.data_ns,
            is_skipped=result.is_skipped,
            nonfinite=result.nonfinite,
        )

    def _count_skipped(self, result: StepResult) -> None:
        self.state.progress.num_skipped += 1
        self._num_skipped_in_a_row += 1
        if self._num_skipped_in_a_row >= self.config.max_skipped:
            raise DivergedError(
                f"{self._num_skipped_in_a_row} steps in a row were skipped: "
                f"`{result.nonfinite}` is not finite",
                hint=f"opsdash attach {self.saver.run.path}",
            )

    def _look_around(self, result: StepResult) -> None:
        """Evaluate, save or end where that is due."""
        step = self.state.progress.step
        if not result.is_skipped:
            self._log(step, result)
            if _is_due(step, self.config.eval_every):
                self._evaluate()
        is_interval = _is_due(step, self.config.save_every) and not result.is_skipped
        if Want.STOP in result.wants:
            self._ending = "stopped"
            self._save("signal", is_needed=True)
        elif is_interval or Want.SAVE in result.wants:
            self._save("interval")

    def _evaluate(self) -> None:
        if self.val is None:
            return
        progress = self.state.progress
        model = self.state.model
        if self.state.average is not None:
            model = self.state.average.model
        limit_s = self.config.timeout_s
        with self.agent.in_phase("evaluating", limit_s=limit_s):
            found = evaluate(
                model,
                self.val,
                self.stepper.loss_function,
                self.world,
                self.agent,
                max_samples=self.config.eval_samples,
                limit_s=limit_s,
            )
        is_best = progress.best.observe(found.loss, progress.step)
        self._evaluated = (progress.step, found)
        self.agent.eval_done(
            loss=_finite(found.loss),
            num_tokens=found.num_tokens,
            eval_ns=found.eval_ns,
            is_best=is_best,
        )
        self._say(f"step {progress.step:>6}  held-out loss {found.loss:.4f}")
        if is_best and self.config.save_best:
            self._save("best")
        if progress.best.is_enough:
            self._ending = "completed"

    def _save(self, reason: str, *, is_needed: bool = False) -> None:
        """Save this step once.

        Raises:
            RunDirError: `is_needed`, and there was no room.
        """
        step = self.state.progress.step
        if self.saved_step == step:
            return
        outcome = self.saver.save(self.state, reason, metrics=self._metrics(step))
        if outcome.refusal is None:
            self.saved_step = step
            self._say(f"step {step:>6}  saved `{outcome.name}`, verified")
            return
        self._say(f"step {step:>6}  NOT saved `{outcome.name}`: {outcome.refusal}")
        if is_needed:
            raise RunDirError(
                f"`{outcome.name}` could not be saved: {outcome.refusal}",
                hint=f"df -h {self.saver.run.path}",
            )

    def _finish(self) -> None:
        """Evaluate and save what the last step left, unless that was done."""
        step = self.state.progress.step
        self.agent.phase("ending")
        if self._evaluated is None or self._evaluated[0] != step:
            self._evaluate()
        self._save("final", is_needed=True)

    def _metrics(self, step: int) -> dict[str, float]:
        if self._evaluated is None or self._evaluated[0] != step:
            return {}
        loss = self._evaluated[1].loss
        return {METRIC: loss} if math.isfinite(loss) else {}

    def _log(self, step: int, result: StepResult) -> None:
        if _is_due(step, self.config.log_every):
            rate = self._pace.take()
            self._say(
                f"step {step:>6}  loss {result.loss:.4f}  "
                f"gradient {result.grad_norm:.3f}  {rate:,.0f} tokens/s"
            )

    def _say(self, text: str) -> None:
        if self.world.is_main:
            say(text)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _finite(value: float) -> float | None:
    """Return a number that JSON has; the event names what was not finite."""
    return value if math.isfinite(value) else None
