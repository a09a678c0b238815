"""Which steps of a run are saved: each once, with what is known of it, and said.

All ranks call all of this at the same steps; rank 0 writes and says.
"""

import time
from dataclasses import dataclass
from typing import Self

from agent.rundir.errors import RunDirError
from trainer.checkpoint.load import Decision
from trainer.checkpoint.publish import Outcome
from trainer.checkpoint.saving import Saver
from trainer.checkpoint.state import TrainState
from trainer.config import TrainConfig
from trainer.console import say
from trainer.loop.held_out import HeldOut


@dataclass
class Saves:
    """Saves the state of a run. Equal on all ranks."""

    saver: Saver
    state: TrainState
    held_out: HeldOut
    config: TrainConfig
    step: int | None = None
    """The step that this start began at or saved last, if it is on the disk."""
    early_step: int | None = None
    """The step whose checkpoint was saved one step ahead, if one was."""

    def begun_at(self, decision: Decision) -> Self:
        """Know what is on the disk where training begins, or goes on after all."""
        self.step = self.early_step = None
        if decision.name is None:
            return self
        if decision.number != decision.step:
            self.early_step = decision.number
        else:
            self.step = decision.step
        return self

    @property
    def is_due(self) -> bool:
        """Whether the last save is older than may be; clocks of ranks differ."""
        limit_s = self.config.save_minutes * 60
        age_s = time.monotonic() - self.saver.last_mono_s
        return bool(limit_s) and age_s > limit_s

    def save(self, reason: str, *, is_needed: bool = False) -> None:
        """Save this step, once.

        Raises:
            RunDirError: `is_needed`, and there was no room.
        """
        self.collect()
        step = self.state.progress.step
        is_early = step == self.early_step and not is_needed
        if step == self.step or is_early:
            return
        metrics = self.held_out.metrics
        self.step = step
        if self.config.async_save and not is_needed:
            self.saver.begin_save(self.state, reason, metrics=metrics)
            return
        outcome = self.saver.save(self.state, reason, metrics=metrics)
        self._tell(outcome)
        if is_needed and outcome.refusal is not None:
            raise RunDirError(
                f"`{outcome.name}` could not be saved: {outcome.refusal}",
                hint=f"df -h {self.saver.run.path}",
            )

    def save_early(self, label_step: int) -> None:
        """Save under the number of the next step, one step ahead of it.

        With a static graph all ranks move step and learning rate on, rank 0
        saves under that number while the others wait, and all put them back.
        The manifest tells the label from the steps that are complete.
        """
        self.collect()
        progress, rates = self.state.progress, self.state.rates
        completed = progress.step
        progress.step = label_step
        rates.settle(label_step)
        try:
            outcome = self.saver.save(
                self.state, "fix_iter", label_step=label_step, completed=completed
            )
        finally:
            progress.step = completed
            rates.settle(completed)
        self._tell(outcome)
        if outcome.refusal is None:
            self.early_step = label_step

    def collect(self) -> None:
        """Learn how the save in the background ended, if there was one."""
        outcome = self.saver.finish_save()
        if outcome is not None:
            self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        """Say how a save ended; one that was refused may be tried again."""
        if outcome.remark is not None:
            self._say(outcome.remark)
        if outcome.refusal is None:
            self._say(f"saved `{outcome.name}`, verified")
            return
        self.step = None
        self._say(f"NOT saved `{outcome.name}`: {outcome.refusal}")

    def _say(self, text: str) -> None:
        if self.saver.world.is_main:
            say(text)
