"""The data-parallel training loop: steps, evaluations, checkpoints, the end.

Whatever ranks decide here, they decide on numbers that are equal on all of
them, or on what a step's agreement has brought; so all of them save, stop and
end at the same step.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from agent.rundir.errors import RunDirError
from agent.rundir.layout import rank_stem
from agent.session import Agent
from trainer.checkpoint.load import Decision
from trainer.checkpoint.saving import Saver
from trainer.checkpoint.state import TrainState
from trainer.config import TrainConfig
from trainer.console import Pace, say
from trainer.data.loaders import PlannedBatches
from trainer.data.plan import StepPlan
from trainer.distributed.agreement import StopFlag, Want
from trainer.distributed.world import World
from trainer.loop.drills import drill
from trainer.loop.held_out import HeldOut, finite
from trainer.loop.orders import obey
from trainer.loop.profiling import ProfileWindow
from trainer.loop.saves import Saves
from trainer.loop.stages import SecondStage
from trainer.loop.stepping import Stepper, StepResult


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
    saves: Saves
    train: PlannedBatches
    held_out: HeldOut
    max_epochs: int
    """In total, across starts; 0: as many as the steps need."""
    stop: StopFlag = field(default_factory=StopFlag)
    ending: str | None = None
    """Why training ends; None: it goes on."""
    is_rewound: bool = False
    """The position has changed: the epoch is begun anew from there."""
    is_paused: bool = False
    """Nothing is done but what an operator asks for."""
    is_torn: bool = False
    """The ranks may differ: an error must end the run."""
    _num_skipped_in_a_row: int = 0
    _pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        config, run = self.config, self.saver.run
        self.stages = SecondStage(
            world=self.world,
            run=run,
            agent=self.agent,
            config=config,
            state=self.state,
            epoch_samples=self.train.plan.num_samples,
        )
        self.profile = ProfileWindow(
            folder=run.path / "profiles",
            stem=f"{self.saver.attempt:04d}-{rank_stem(self.world.rank)}",
            at=(config.profile_at or None) if self.world.is_main else None,
            num_steps=config.profile_steps,
            home=self.saver.home,
        )

    @property
    def saver(self) -> Saver:
        """What writes this run's checkpoints."""
        return self.saves.saver

    def run(self) -> TrainResult:
        """Train to the end. Every rank has to call it.

        Raises:
            RunDirError: a rank failed, or the run diverged; on every rank.
        """
        self.agent.phase("training")
        while self.ending is None and not self._is_done:
            self._train_epoch()
        if self.ending != "stopped":
            self._finish()
        self.profile.close()
        return TrainResult(
            reason=self.ending or "completed",
            step=self.state.progress.step,
            loss=self.held_out.loss,
            checkpoint=self.saver.last_name,
            signum=self.stop.signum,
        )

    @property
    def _is_done(self) -> bool:
        """Whether all steps, or all epochs, are complete: what comes first."""
        progress, steps = self.state.progress, self.config.steps
        return bool(
            (steps and progress.step >= steps)
            or (self.max_epochs and progress.epoch >= self.max_epochs)
        )

    def _train_epoch(self) -> None:
        """Train from the position of now to the end of its epoch."""
        progress = self.state.progress
        if progress.offset == 0:
            self.say_on_main(self.stages.epoch_begins())
        plans, batches = self.train.epoch(progress.epoch, progress.offset)
        for plan in plans:
            drill(self.config, self.world.rank, progress.step)
            with self.profile.around(progress.step):
                result = self.stepper.step(plan, batches, self.wants())
            self._account(plan, result)
            self._require_progress(result)
            self._look_around(result)
            if self.ending or self.is_rewound or self._is_done:
                self.is_rewound = False
                return

    def wants(self) -> frozenset[Want]:
        """Return what this rank asks of all at the next step."""
        own = set()
        # Clocks differ: only rank 0's counts.
        if self.saves.is_due and self.world.is_main:
            own.add(Want.SAVE)
        if self.saver.has_outcome:
            own.add(Want.COLLECT)
        if self.agent.at_step(self.state.progress.step) is not None:
            own.add(Want.REQUEST)
        return self.stop.wants | own

    def _account(self, plan: StepPlan, result: StepResult) -> None:
        """Count a step; schedule and average move only if it was applied."""
        state, progress = self.state, self.state.progress
        rate = float(state.optimizer.param_groups[0]["lr"])
        progress.num_samples += plan.num_samples
        progress.offset = plan.end
        if plan.end >= self.train.plan.num_samples:
            # The next epoch's start, so that a save of now begins with it.
            progress.epoch, progress.offset = progress.epoch + 1, 0
        if result.is_skipped:
            progress.num_skipped += 1
            self._num_skipped_in_a_row += 1
        else:
            self._num_skipped_in_a_row = 0
            progress.step += 1
            state.rates.advance(progress.step)
            if state.average is not None:
                state.average.update(state.model)
        self._pace.add(result.num_tokens)
        self.agent.step_done(
            progress.step,
            loss=finite(result.loss),
            lr=rate,
            grad_norm=finite(result.grad_norm),
            num_tokens=result.num_tokens,
            step_ns=result.step_ns,
            data_ns=result.data_ns,
            is_skipped=result.is_skipped,
            nonfinite=result.nonfinite,
        )

    def _require_progress(self, result: StepResult) -> None:
        if self._num_skipped_in_a_row >= self.config.max_skipped:
            raise DivergedError(
                f"{self._num_skipped_in_a_row} steps in a row were skipped: "
                f"`{result.nonfinite}` is not finite",
                hint=f"opsdash attach {self.saver.run.path}",
            )

    def _look_around(self, result: StepResult) -> None:
        """Evaluate, save or end where that is due."""
        step, config = self.state.progress.step, self.config
        if Want.COLLECT in result.wants:
            self.saves.collect()
        if not result.is_skipped:
            self._log(step, result)
            if _is_due(step, config.eval_every):
                self._evaluate()
            if config.fix_iter and step == config.fix_iter - 1:
                self.saves.save_early(config.fix_iter)
        if self.state.progress.offset == 0:
            self._end_epoch()
        is_interval = _is_due(step, config.save_every) and not result.is_skipped
        if Want.STOP in result.wants:
            self.stop_here("signal")
        elif is_interval or Want.SAVE in result.wants:
            self.saves.save("interval")
        if Want.REQUEST in result.wants and self.ending is None:
            obey(self)

    def _end_epoch(self) -> None:
        """Evaluate where that is due, and undo an epoch that was not good enough."""
        if not self.stages.is_on and self.config.eval_every:
            return
        remark = self.stages.epoch_evaluated(is_best=self._evaluate())
        if remark is not None:
            self.say_on_main(remark)
            self.held_out.forget()  # it was of weights that are gone

    def stop_here(self, reason: str) -> None:
        """Save, and let this step be the last; what cannot be saved goes on.

        Raises:
            RunDirError: there was no room.
        """
        self.saves.save(reason, is_needed=True)
        self.ending = "stopped"

    def rewind(self, decision: Decision) -> None:
        """Go on from another checkpoint, which has been loaded."""
        self.saves.begun_at(decision)
        self.held_out.forget()
        self.is_rewound = True

    def _evaluate(self) -> bool:
        """Measure the held-out loss, once per step; True: it is the best so far."""
        last, best = self.held_out.last, self.state.progress.best
        is_best = self.held_out.measure()
        if self.held_out.last is last:
            return is_best
        step, loss = self.state.progress.step, self.held_out.loss
        self.say_on_main(f"step {step:>6}  held-out loss {loss:.4f}")
        if is_best and (self.config.save_best or self.stages.is_on):
            self.saves.save("best")
        if best.is_enough:
            self.ending = "completed"
        return is_best

    def _finish(self) -> None:
        """Evaluate and save what the last step left, unless that was done."""
        self.agent.phase("ending")
        self._evaluate()
        self.saves.save("final", is_needed=True)

    def _log(self, step: int, result: StepResult) -> None:
        if _is_due(step, self.config.log_every):
            rate = self._pace.take()
            self.say_on_main(
                f"step {step:>6}  loss {result.loss:.4f}  "
                f"gradient {result.grad_norm:.3f}  {rate:,.0f} tokens/s"
            )

    def say_on_main(self, text: str | None) -> None:
        """Say something, if there is anything to say and this is rank 0."""
        if text is not None and self.world.is_main:
            say(text)


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
