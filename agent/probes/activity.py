"""What the main thread does now, for the agent's thread to read.

Only the main thread writes here. Each field is replaced whole, so that a
reader in another thread sees the old or the new value and needs no lock.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

_STARTING = "starting"
_MAX_INTERVALS = 256
_MIN_INTERVALS = 16
_RECENT = 8
_CHANGED_FRAC = 0.05
_LONGEST_LIMIT_S = 1e9
"""Thirty years; what is longer, or no number, is no limit at all."""
_CHANGED_DEVIATIONS = 2.7
"""Four standard errors of a median of eight, where the noise is normal."""


class Phase(NamedTuple):
    """What the trainer does, since when and for how long at most."""

    name: str
    since_ns: int
    """Monotonic clock."""
    limit_ns: int | None


def limit_in_ns(limit_s: float | None) -> int | None:
    """Return a limit as events tell it, whatever a trainer gave; None: it gave none."""
    if limit_s is None:
        return None
    try:
        given = float(limit_s)
    except (TypeError, ValueError, OverflowError):  # no number is no limit at all
        given = _LONGEST_LIMIT_S
    seconds = max(0.0, given) if given < _LONGEST_LIMIT_S else _LONGEST_LIMIT_S
    return int(seconds * 1e9)


@dataclass
class Activity:
    """One process's main thread, as it last said."""

    phase: Phase = field(
        default_factory=lambda: Phase(_STARTING, time.monotonic_ns(), None)
    )
    progress: int = 0
    """Counts everything that the main thread told."""
    num_steps: int = 0
    """Optimizer steps since this process began."""
    _stepped_ns: int = 0
    _intervals: deque[int] = field(default_factory=lambda: deque(maxlen=_MAX_INTERVALS))

    def enter(self, name: str, limit_ns: int | None) -> Phase:
        """Begin another phase; return the one before."""
        previous = self.phase
        self.phase = Phase(name, time.monotonic_ns(), limit_ns)
        self._stepped_ns = 0  # what comes between two steps is no step
        return previous

    def stepped(self) -> int | None:
        """Note that an optimizer step is complete; return the time since the last.

        None: it is the first one, or the phase changed in between. Who takes steps
        without having told a phase trains.
        """
        now, before = time.monotonic_ns(), self._stepped_ns
        self._stepped_ns = now
        self.num_steps += 1
        if not before:
            if self.phase.name == _STARTING:
                self.phase = Phase("training", now, None)
            return None
        self._intervals.append(now - before)
        return now - before

    def step_ns(self) -> int | None:
        """Return the median time from step to step; None: too few steps."""
        intervals = self._snapshot()
        return int(median(intervals)) if len(intervals) >= _MIN_INTERVALS else None

    def has_changed_pace(self) -> bool:
        """Whether the last steps were slower or faster than many, beyond their noise.

        The noise is the median deviation, so that a busy machine, whose steps
        vary by themselves, raises no suspicion all the time.
        """
        intervals = self._snapshot()
        if len(intervals) < _MIN_INTERVALS:
            return False
        usual = median(intervals)
        change = abs(median(intervals[-_RECENT:]) - usual)
        if change <= _CHANGED_FRAC * usual:
            return False  # as nearly always: asked four times a second
        noise = median(abs(interval - usual) for interval in intervals)
        return change > _CHANGED_DEVIATIONS * noise

    def _snapshot(self) -> list[int]:
        """Copy what the other thread may be appending to."""
        try:
            return list(self._intervals)
        except RuntimeError:  # it grew meanwhile
            return []
