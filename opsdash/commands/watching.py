"""Read a run from a command: once to its end, or on and on as it grows.

The same reader and the same folds as under a screen, paced by a plain loop:
a command needs no thread. Following ends when the run does, when nothing came
for the time that was asked for, or by a signal.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.rundir.attempts import read_identity
from agent.rundir.layout import RunDir
from opsdash.feed.reader import RunReader
from opsdash.projections.run import Run
from opsdash.projections.run_state import State, Verdict

TICK_S = 0.25
_SURE_S = 3.5
"""A remote run is watched for three of its heartbeats before it is judged."""
_OVER = (State.FINISHED, State.DEAD)


@dataclass
class Watched:
    """A run that a command looks at."""

    reader: RunReader
    run: Run = field(default_factory=Run)
    news_s: float = field(default_factory=time.monotonic)
    """When the last line came, on the monotonic clock."""

    def read(self) -> bool:
        """Take in what is new, all of it; whether there was any."""
        is_news = False
        while True:
            batch = self.reader.read()
            self.run.fold(batch)
            is_news = is_news or bool(batch.lines)
            if not batch.backlog_bytes:
                break
        if is_news:
            self.news_s = time.monotonic()
        return is_news

    def verdict(self) -> Verdict:
        """Return the state of the run now."""
        return self.run.verdict(time.monotonic_ns(), time.time_ns())

    def idle_s(self) -> float:
        """Return for how long nothing came, seconds."""
        return time.monotonic() - self.news_s


def open_run(path: Path) -> RunDir:
    """Return a run directory that can be read.

    Raises:
        RunDirError: it is none.
    """
    run = RunDir(path)
    read_identity(run)
    return run


def attach(path: Path) -> Watched:
    """Read a run to its end.

    Raises:
        RunDirError: it is none.
    """
    watched = Watched(RunReader(open_run(path)))
    watched.read()
    return watched


def be_sure(watched: Watched) -> Verdict:
    """Return a verdict that is not provisional: it may take three heartbeats."""
    began_s = time.monotonic()
    verdict = watched.verdict()
    while verdict.is_provisional and time.monotonic() - began_s < _SURE_S:
        time.sleep(TICK_S)
        watched.read()
        verdict = watched.verdict()
    return verdict


def follow(
    watched: Watched,
    tick: Callable[[bool], None],
    *,
    idle_timeout_s: float | None = None,
) -> Verdict:
    """Call `tick` after every look until the run is over; return the last verdict.

    Args:
        watched: The run, already read once.
        tick: Called at once, and then four times a second; with whether it is
            the last time.
        idle_timeout_s: End when nothing came for so long; None: never.
    """
    while True:
        verdict = watched.verdict()
        is_over = verdict.state in _OVER and not verdict.is_provisional
        is_idle = idle_timeout_s is not None and watched.idle_s() > idle_timeout_s
        tick(is_over or is_idle)
        if is_over or is_idle:
            return verdict
        time.sleep(TICK_S)
        watched.read()
