"""`opsdash attach`: the screen, or its text where there is no terminal."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from opsdash.commands.console import has_terminal
from opsdash.commands.find_run import find_run, has_several_runs
from opsdash.commands.hangup import leave_with_terminal
from opsdash.commands.lean import without_collecting, without_ssl
from opsdash.commands.paths import config_file
from opsdash.commands.watching import Watched, attach, open_run


def main(arguments: argparse.Namespace) -> int:
    """Open the dashboard; without a terminal print the report and, if asked, follow."""
    given = arguments.run_dir
    if has_terminal() and given is not None and has_several_runs(given):
        return open_screen(arguments, None, runs=given)
    path = find_run(given)
    if has_terminal():
        return open_screen(arguments, path)
    return tell_as_text(attach(path), follow=arguments.follow)


def open_screen(
    arguments: argparse.Namespace,
    path: Path | None,
    *,
    runs: Path | None = None,
    last: Callable[[], None] | None = None,
) -> int:
    """Run the dashboard until it is left; return its exit code.

    Args:
        arguments: Of the command line.
        path: The run to watch; None: one of `runs` is chosen on the screen.
        runs: A directory of runs.
        last: Called before the process ends because its terminal went.

    Raises:
        RunDirError: the directory is no run.
    """
    with without_ssl(), without_collecting():
        from opsdash.app import run_app  # noqa: PLC0415 - Textual is loaded for a screen only

    leave_with_terminal(sys.stdin.fileno(), last)
    return run_app(
        None if path is None else open_run(path),
        is_readonly=arguments.readonly,
        theme=arguments.theme,
        is_ascii=arguments.ascii,
        has_mouse=not arguments.no_mouse,
        runs=runs,
        config=config_file(),
    )


def tell_as_text(watched: Watched, *, follow: bool) -> int:
    """Print the report, or follow the run as text; return the state's exit code."""
    from opsdash.commands.story import report, tell  # noqa: PLC0415 - the screen needs none of it

    newest = watched.run.directory.newest_attempt
    verdict = tell(watched, attempt=newest) if follow else report(watched)
    return verdict.exit_code
