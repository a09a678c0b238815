"""Learning rates as pure functions of the number of completed steps.

A schedule has no state but that number, so it cannot drift from the optimizer:
a step that was skipped moves neither.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

Curve = Callable[[float], float]
"""Maps the share of the run that is over, in [0, 1], to a factor in [0, 1]."""

_ONE_CYCLE_RISE_FRAC = 0.3
"""Source: Smith and Topin 2018, as torch's OneCycleLR has it (pct_start)."""


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run, as a share of each group's highest."""

    kind: str
    """`cosine`, `linear`, `constant`, `one_cycle` or `wsd`."""
    num_steps: int
    """Length of the run, warm-up included."""
    warmup_steps: int = 0
    min_frac: float = 0.0
    """Where decay ends, over the highest."""
    decay_frac: float = 0.2
    """Share of the run in which `wsd` decays."""

    def factor(self, step: int) -> float:
        """Return the factor for the step that follows `step` completed ones.

        Raises:
            ValueError: there is no schedule of that name.
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        length = max(1, self.num_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / length)
        return self.min_frac + (1.0 - self.min_frac) * self._shape(done)

    def _shape(self, done: float) -> float:
        match self.kind:
            case "constant":
                return 1.0
            case "linear":
                return 1.0 - done
            case "cosine":
                return _cosine(done)
            case "one_cycle":
                return _one_cycle(done)
            case "wsd":
                return min(1.0, (1.0 - done) / self.decay_frac)
            case _:
                raise ValueError(f"unknown schedule {self.kind!r}")


class ScheduledRates:
    """Puts a schedule's learning rate into an optimizer, step by step."""

    def __init__(self, schedule: Schedule, optimizer: Optimizer) -> None:
        """Take each group's learning rate of now as its highest."""
        self.schedule = schedule
        self.optimizer = optimizer
        self.base_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.advance(0)

    def advance(self, step: int) -> None:
        """Set the learning rates for the step that follows `step` completed ones."""
        self.step = step
        factor = self.schedule.factor(step)
        for group, rate in zip(
            self.optimizer.param_groups, self.base_rates, strict=True
        ):
            group["lr"] = rate * factor

    def settle(self, step: int) -> None:
        """Set the rates anew, after loading changed the optimizer's groups."""
        self.advance(step)

    def skip_to(self, step: int) -> None:
        """Set the rates of a step; there is no state but the step."""
        self.advance(step)

    def state_dict(self) -> dict[str, Any]:
        """Return the step and the highest rates, in plain types."""
        return {"step": self.step, "base_rates": list(self.base_rates)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the saved schedule was.

        Raises:
            ValueError: it was saved for another number of parameter groups.
        """
        if len(state["base_rates"]) != len(self.base_rates):
            raise ValueError(
                f"the saved schedule has {len(state['base_rates'])} groups, "
                f"the optimizer has {len(self.base_rates)}"
            )
        self.base_rates = [float(rate) for rate in state["base_rates"]]
        self.advance(int(state["step"]))


class TorchRates:
    """A scheduler of torch's, stepped once per completed optimizer step."""

    def __init__(self, scheduler: LRScheduler) -> None:
        """Wrap a scheduler that belongs to the trainer's optimizer."""
        self.scheduler = scheduler

    def advance(self, step: int) -> None:
        """Step the scheduler."""
        del step
        self.scheduler.step()

    def settle(self, step: int) -> None:
        """Leave the rates as they are: only the scheduler knows them."""
        del step

    def skip_to(self, step: int) -> None:
        """Step the scheduler that often: it has no other way to get there."""
        with warnings.catch_warnings():
            # It would say that no optimizer step came before these.
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(step):
                self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the scheduler's state."""
        state: dict[str, Any] = self.scheduler.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the saved scheduler was."""
        self.scheduler.load_state_dict(state)


def _cosine(done: float) -> float:
    """Source: Loshchilov and Hutter 2017 (SGDR), equation 5, without restarts."""
    return 0.5 * (1.0 + math.cos(math.pi * done))


def _one_cycle(done: float) -> float:
    """Rise from 1/25 to 1 in cosine shape, then fall to 0."""
    if done < _ONE_CYCLE_RISE_FRAC:
        rise = 1.0 - _cosine(done / _ONE_CYCLE_RISE_FRAC)
        return 1 / 25 + (1.0 - 1 / 25) * rise
    return _cosine((done - _ONE_CYCLE_RISE_FRAC) / (1.0 - _ONE_CYCLE_RISE_FRAC))
