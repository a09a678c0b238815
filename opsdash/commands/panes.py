"""The headless twins of the panes: one report each, once or as the run goes on."""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from opsdash.commands.console import say, write
from opsdash.commands.watching import Watched, attach, be_sure, follow
from opsdash.projections.run import Run
from opsdash.reports.barriers import make_barriers, render_barriers
from opsdash.reports.checkpoints import make_checkpoints, render_checkpoints
from opsdash.reports.chunks import make_chunks, render_chunks
from opsdash.reports.optimizer import make_optimizer, render_optimizer
from opsdash.reports.report import Report, news_of, to_json
from opsdash.reports.rounds import make_rounds, render_rounds
from opsdash.reports.status import make_status, render_status

_LEAST_S = 1.0
"""Between two reports while following."""


@dataclass(frozen=True)
class Pane:
    """How one report is made and set."""

    make: Callable[[Run, int, int], Report]
    render: Callable[[Any], Sequence[str]]


PANES = {
    "status": Pane(make_status, render_status),
    "barriers": Pane(make_barriers, render_barriers),
    "checkpoints": Pane(make_checkpoints, render_checkpoints),
    "optimizer": Pane(make_optimizer, render_optimizer),
    "chunks": Pane(make_chunks, render_chunks),
    "rounds": Pane(make_rounds, render_rounds),
}


def main(arguments: argparse.Namespace) -> int:
    """Print one pane's report; `status` ends with the state's exit code."""
    pane = PANES[arguments.command]
    watched = attach(arguments.run_dir)
    printer = _Printer(pane, watched, is_json=arguments.json)
    if arguments.follow:
        verdict = follow(
            watched, printer.print_if_new, idle_timeout_s=arguments.idle_timeout
        )
    elif arguments.command == "status":
        verdict = be_sure(watched)
        printer.print_if_new(is_last=True)
    else:
        verdict = watched.verdict()
        printer.print_if_new(is_last=True)
    return verdict.exit_code if arguments.command == "status" else 0


class _Printer:
    """Prints a report when something in it changed besides the time."""

    def __init__(self, pane: Pane, watched: Watched, *, is_json: bool) -> None:
        self._pane = pane
        self._watched = watched
        self._is_json = is_json
        self._printed: object = None
        self._printed_s = 0.0

    def print_if_new(self, is_last: bool) -> None:  # noqa: FBT001 - follow calls it
        """Print; not more than once a second, except for the last word."""
        is_soon = time.monotonic() - self._printed_s < _LEAST_S
        if self._printed is not None and is_soon and not is_last:
            return
        report = self._pane.make(self._watched.run, time.monotonic_ns(), time.time_ns())
        news = news_of(report)
        if news == self._printed:
            return
        self._print(report)
        self._printed, self._printed_s = news, time.monotonic()

    def _print(self, report: Report) -> None:
        if self._is_json:
            write(to_json(report) + "\n")
            return
        if self._printed is not None:
            say("")
        say(*self._pane.render(report))
