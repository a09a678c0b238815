"""Tell a run as text while it goes on, and how it ended: for pipes and logs."""

import time

from agent.rundir.layout import rank_stem
from opsdash import units
from opsdash.commands.console import say
from opsdash.commands.events import EventStream
from opsdash.commands.watching import Watched, be_sure, follow
from opsdash.projections.event_words import Severity
from opsdash.projections.events_log import EventFilter, EventRow
from opsdash.projections.run_state import State, Verdict
from opsdash.reports.events import local_zone
from opsdash.reports.status import make_status, render_status, verdict_line

_EVERY_S = 5.0


def tell(watched: Watched, *, attempt: int | None = None) -> Verdict:
    """Print what happens until the run is over, then the final report.

    Args:
        watched: The run, already read once.
        attempt: Tell of this one only; None: of all that there are.
    """
    stream = EventStream(
        watched,
        EventFilter(min_severity=Severity.INFO, attempt=attempt),
        since=watched.run.events.first,
        is_json=False,
        is_wanted=_is_for_all,
    )
    progress = _Progress(watched)

    def tick(is_last: bool) -> None:  # noqa: FBT001 - follow calls it
        stream.print_new(is_last)
        progress.print_if_due()

    verdict = follow(watched, tick)
    say("")
    report(watched)
    return verdict


def report(watched: Watched) -> Verdict:
    """Print the report of this moment."""
    verdict = be_sure(watched)
    now = make_status(watched.run, time.monotonic_ns(), time.time_ns())
    say(*render_status(now))
    return verdict


def _is_for_all(row: EventRow) -> bool:
    """Leave out what every rank says alike: the lowest one has said it."""
    is_echo = row.node.startswith("rank-") and row.node != rank_stem(0)
    return row.severity > Severity.INFO or not is_echo


class _Progress:
    """A line now and then about the step, and one for every change of state."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._state: State | None = None
        self._step: int | None = None
        self._said_s = 0.0

    def print_if_due(self) -> None:
        verdict = self._watched.verdict()
        if verdict.state is not self._state:
            if self._state is not None or verdict.state is not State.HEALTHY:
                say(f"{_now()}   {verdict_line(verdict)}")
            self._state = verdict.state
        is_due = time.monotonic() - self._said_s >= _EVERY_S
        if is_due and verdict.step is not None and verdict.step != self._step:
            self._step, self._said_s = verdict.step, time.monotonic()
            say(f"{_now()}   {self._where()}")

    def _where(self) -> str:
        run = self._watched.run
        now = run.steps.now()
        parts = [f"step {units.count(now.step)}", f"loss {units.number(now.loss)}"]
        if now.tokens_per_s is not None:
            parts.append(units.rate(now.tokens_per_s, "tokens"))
        if run.kind == "federated":
            parts = [f"round {units.count(run.rounds.last_committed)}"]
        return ", ".join(parts)


def _now() -> str:
    return units.clock_time(time.time_ns(), local_zone())
