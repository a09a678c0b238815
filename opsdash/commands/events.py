"""`opsdash events`: what happened, in words or as JSON."""

import argparse
import time
from collections.abc import Callable

from agent.rundir.events import Undecodable, decode
from agent.rundir.layout import RunDir
from opsdash.commands.console import say, write
from opsdash.commands.watching import Watched, attach, follow
from opsdash.feed.cursor import read_line
from opsdash.projections.event_words import Severity, describe
from opsdash.projections.events_log import EventFilter, EventRow
from opsdash.reports.events import (
    SayAgain,
    make_event,
    make_events,
    render_event,
    render_events,
)
from opsdash.reports.report import to_json


def main(arguments: argparse.Namespace) -> int:
    """Print the newest events, then, if asked, each that comes."""
    watched = attach(arguments.run_dir)
    wanted = EventFilter(
        min_severity=Severity.DETAIL if arguments.all else Severity.INFO
    )
    say_again = sayer(watched.reader.run)
    report = make_events(
        watched.run, time.time_ns(), wanted, say_again, last=arguments.last
    )
    stop = watched.run.events.stop
    if not arguments.follow:
        _print([to_json(report)] if arguments.json else None, render_events(report))
        return 0
    for event in report.events:
        _print([to_json(event)] if arguments.json else None, [render_event(event)])
    stream = EventStream(watched, wanted, since=stop, is_json=arguments.json)
    follow(watched, stream.print_new, idle_timeout_s=arguments.idle_timeout)
    return 0


class EventStream:
    """Prints the events that came since the last call."""

    def __init__(
        self,
        watched: Watched,
        wanted: EventFilter,
        *,
        since: int,
        is_json: bool,
        is_wanted: Callable[[EventRow], bool] = lambda _: True,
    ) -> None:
        self._watched = watched
        self._wanted = wanted
        self._next = since
        self._is_json = is_json
        self._is_wanted = is_wanted
        self._say_again = sayer(watched.reader.run)

    def print_new(self, _is_last: bool) -> None:  # noqa: FBT001 - follow calls it
        """Print them, oldest first."""
        run = self._watched.run
        numbers = run.events.by_time(run.events.select(self._wanted, self._next))
        self._next = run.events.stop
        for number in numbers:
            if not self._is_wanted(run.events.row(number)):
                continue
            event = make_event(run, number, self._say_again)
            _print([to_json(event)] if self._is_json else None, [render_event(event)])


def sayer(run: RunDir) -> SayAgain:
    """Return what says an event again from its line on disk."""

    def say_again(row: EventRow) -> str:
        event = decode(read_line(run, row.file, row.offset))
        return "" if isinstance(event, Undecodable) else describe(event)

    return say_again


def _print(json_lines: list[str] | None, lines: list[str]) -> None:
    if json_lines is None:
        say(*lines)
    else:
        write("".join(f"{line}\n" for line in json_lines))
