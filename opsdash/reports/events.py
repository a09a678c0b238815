"""The newest events, in words: `opsdash events`."""

import shlex
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo

from opsdash import units
from opsdash.projections.event_words import Severity
from opsdash.projections.events_log import EventFilter, EventRow
from opsdash.projections.run import Run
from opsdash.reports.report import Report, cut

SayAgain = Callable[[EventRow], str]
"""Says an event whose words were not kept, from its line on disk."""

_MARKS = {Severity.WARNING: "!", Severity.ERROR: "E"}


class EventReport(Report, frozen=True, kw_only=True):
    """One event; `time_ns` is its own, not the report's."""

    kind: str
    node: str
    attempt: int
    step: int | None
    severity: str
    text: str
    file: str
    """Below `telemetry/`."""
    offset: int
    """Where its line begins, bytes."""


class EventsReport(Report, frozen=True, kw_only=True):
    """The newest events, oldest first."""

    num_events: int
    """Kept in memory; `events` holds the newest of those that were asked for."""
    num_undecodable: int
    num_newer: int
    num_overlong: int
    num_left_out: int
    """Frequent ones of a long past; the files have them all."""
    events: tuple[EventReport, ...]


def make_events(
    run: Run, now_ns: int, wanted: EventFilter, say_again: SayAgain, *, last: int
) -> EventsReport:
    """Return the newest events that a filter lets through.

    Args:
        run: The folded run.
        now_ns: Wall clock, Unix ns.
        wanted: Which events.
        say_again: For events whose words were not kept.
        last: At most so many; 0: all that are kept.
    """
    numbers = run.events.by_time(run.events.select(wanted))
    return EventsReport(
        report="events",
        run=run.directory.path,
        time_ns=now_ns,
        num_events=len(run.events),
        num_undecodable=run.events.num_undecodable,
        num_newer=run.events.num_newer,
        num_overlong=run.events.num_overlong,
        num_left_out=run.num_left_out,
        events=tuple(make_event(run, n, say_again) for n in numbers[-last:]),
    )


def make_event(run: Run, number: int, say_again: SayAgain) -> EventReport:
    """Return one event by its number in the log."""
    row = run.events.row(number)
    return EventReport(
        report="event",
        run=run.directory.path,
        time_ns=row.time_ns,
        kind=row.kind,
        node=row.node,
        attempt=row.attempt,
        step=row.step,
        severity=row.severity.name.lower(),
        text=say_again(row) if row.text is None else row.text,
        file=row.file,
        offset=row.offset,
    )


def render_events(report: EventsReport, zone: tzinfo | None = None) -> list[str]:
    """Return the events as lines, and what could not be read."""
    lines = [render_event(event, zone) for event in report.events]
    if not lines:
        lines = ["no event worth a line; --all shows every one"]
    unread = [
        (report.num_undecodable, "lines could not be read"),
        (report.num_newer, "events of a newer kind"),
        (report.num_overlong, "lines too long to be lines"),
    ]
    lines += [f"{units.count(num)} {what}" for num, what in unread if num]
    return lines + _left_out(report)


def _left_out(report: EventsReport) -> list[str]:
    if not report.num_left_out:
        return []
    files = shlex.quote(f"{report.run}/telemetry")
    num = units.count(report.num_left_out)
    return [
        f"{num} older events of frequent kinds are not among these; to see all:",
        f"    find {files} -name '*.jsonl' ! -name '*.rollup.jsonl' -exec cat {{}} +",
    ]


def render_event(event: EventReport, zone: tzinfo | None = None) -> str:
    """Return one event as a line: when, who, at which step, what."""
    mark = _MARKS.get(Severity[event.severity.upper()], " ")
    when = units.clock_time(event.time_ns or None, zone or local_zone())
    step = "" if event.step is None else units.count(event.step)
    who = cut(event.node, 12)
    text = event.text or event.kind
    return f"{when:>8} {mark} {who:<12} {step:>9}  {text}"


def local_zone() -> tzinfo:
    """Return the time zone of this host, in which operators read."""
    return datetime.now(UTC).astimezone().tzinfo or UTC
