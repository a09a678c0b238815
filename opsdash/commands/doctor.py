"""`opsdash doctor`: what this terminal, host, disk and run offer, and what to mend."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from opsdash.commands.checks import Check, Mark
from opsdash.commands.checks_disk import check_disk
from opsdash.commands.checks_host import check_host
from opsdash.commands.checks_run import check_run
from opsdash.commands.checks_terminal import check_terminal
from opsdash.commands.console import say
from opsdash.commands.watching import open_run
from opsdash.reports.report import fields

_WORDS = {Mark.OK: "ok", Mark.NOTE: "note", Mark.WARN: "WARN"}


def main(arguments: argparse.Namespace) -> int:
    """Print every check; a warning is advice, so the exit code stays 0."""
    run = open_run(arguments.run_dir) if arguments.run_dir else None
    place = run.path if run else Path()
    groups: list[tuple[str, Iterator[Check]]] = [
        ("terminal", check_terminal()),
        ("host", check_host()),
        ("disk", check_disk(place)),
    ]
    if run is not None:
        groups.append(("run", check_run(run)))
    for title, checks in groups:
        say(title)
        for check in checks:
            say(*_render(check))
    return 0


def _render(check: Check) -> list[str]:
    lines = fields([(f"  {_WORDS[check.mark]}", f"{check.what}: {check.found}")])
    return lines + (fields([("", check.advice)]) if check.advice else [])
