"""`opsdash chunks`: the stores of a run, and what one of them holds, round by round.

Without a node it is the headless twin of the chunk pane. With one it opens that
store read-only; only `--repair` changes anything, through the trainer's command.
"""

import argparse
import shlex
import time
from pathlib import Path

from agent.rundir.chunks.errors import EXIT_DAMAGED
from agent.rundir.chunks.reader import ChunkStoreReader
from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from agent.rundir.verify.verdict import Level
from opsdash.commands import panes
from opsdash.commands.arguments import UsageError
from opsdash.commands.carry_out import wait_for
from opsdash.commands.confirm import confirm
from opsdash.commands.console import say, write
from opsdash.commands.resume import NotStartedError, render_plan
from opsdash.commands.verify import verify_all
from opsdash.commands.watching import open_run
from opsdash.operations.diff_rounds import diff_rounds
from opsdash.operations.plan import Plan
from opsdash.operations.record import OperationLog
from opsdash.operations.store_plans import plan_repair, store_path
from opsdash.operations.targets import stores_of
from opsdash.operations.trainer_command import TrainerCommand
from opsdash.reports.report import Report, to_json
from opsdash.reports.store import (
    MAX_CHUNKS,
    RoundsDiffReport,
    StoredChunksReport,
    StoredRoundsReport,
    changed_tensors,
    render_chunks,
    render_diff,
    render_rounds,
    stored_chunks,
    stored_round,
)


class NotRepairedError(RunDirError):
    """The trainer's command did not end well."""


class StillDamagedError(RunDirError):
    """Nobody has the chunks that are damaged or missing."""

    exit_code = EXIT_DAMAGED


def main(arguments: argparse.Namespace) -> int:
    """Print, verify or repair; docs/exit-codes.md has the codes."""
    _check_words(arguments)
    if arguments.node is None:
        return _all_stores(arguments)
    run = open_run(arguments.run_dir)
    path = store_path(run, arguments.node)
    if arguments.verify:
        return _verify(run, path, is_json=arguments.json)
    if arguments.repair:
        return _repair(run, arguments)
    if arguments.diff is not None:
        return _diff(path, arguments)
    if arguments.round_num is not None:
        return _chunks(path, arguments)
    return _rounds(path, arguments)


def _check_words(arguments: argparse.Namespace) -> None:
    """Refuse what would be passed over without a word."""
    is_following = arguments.follow or arguments.idle_timeout is not None
    if is_following and (arguments.node is not None or arguments.verify):
        raise UsageError(
            "only the list of all stores can be followed: leave `--node` and "
            "`--verify` out",
            hint=f"opsdash chunks {shlex.quote(str(arguments.run_dir))} --follow",
        )
    if (arguments.dry_run or arguments.yes) and not arguments.repair:
        raise UsageError(
            "`--dry-run` and `--yes` are about `--repair`",
            hint="opsdash chunks --help",
        )


def _all_stores(arguments: argparse.Namespace) -> int:
    if arguments.verify:
        return _verify(open_run(arguments.run_dir), None, is_json=arguments.json)
    if arguments.repair or (arguments.round_num, arguments.diff) != (None, None):
        shown = shlex.quote(str(arguments.run_dir))
        raise UsageError(
            "rounds and repairs are of one store: name it with `--node`",
            hint=f"opsdash chunks {shown}   # lists the nodes",
        )
    return panes.main(arguments)


def _verify(run: RunDir, only: Path | None, *, is_json: bool) -> int:
    """Read one store of a run, or all; a run that has none says so."""
    stores = [one for one in stores_of(run) if only in (None, one.path)]
    if not stores:
        store_path(run, "server")
    return verify_all(stores, Level.CONTENT, is_json=is_json)


def _repair(run: RunDir, arguments: argparse.Namespace) -> int:
    plan = plan_repair(run, arguments.node)
    say(*render_plan(plan))
    if plan.why_not is not None:
        raise NotStartedError(
            f"`{plan.subject}` cannot be repaired now: {plan.why_not}",
            hint=f"opsdash request {shlex.quote(str(run.path))} repair "
            f"--node {arguments.node}",
            exit_code=plan.exit_code,
        )
    if arguments.dry_run:
        return 0
    confirm(plan, is_agreed=arguments.yes)
    _carry_out(plan, OperationLog(run))
    return 0


def _carry_out(plan: Plan, log: OperationLog) -> None:
    command = TrainerCommand(plan, log)
    wait_for(command)
    left: list[str] = []
    for result in command.results:
        left += result.get("left") or ()
        say("", f"repaired {len(result.get('repaired') or ())} chunks")
    if left:
        raise StillDamagedError(
            f"{len(left)} chunks of `{plan.subject}` are in no other store of the run: "
            f"first {left[0]}"
        )
    if command.exit_code:
        raise NotRepairedError(f"`{plan.subject}`: {command.error}", hint=plan.shell)


def _rounds(path: Path, arguments: argparse.Namespace) -> int:
    with ChunkStoreReader(path) as reader:
        rows = reader.rounds()
    report = StoredRoundsReport(
        report="stored_rounds",
        run=str(arguments.run_dir),
        time_ns=time.time_ns(),
        node=arguments.node,
        rounds=tuple(map(stored_round, rows)),
    )
    return _show(report, render_rounds(report), is_json=arguments.json)


def _chunks(path: Path, arguments: argparse.Namespace) -> int:
    with ChunkStoreReader(path) as reader:
        row = reader.round(arguments.round_num)
        chunks = reader.chunks(arguments.round_num, 0, MAX_CHUNKS)
    report = StoredChunksReport(
        report="stored_chunks",
        run=str(arguments.run_dir),
        time_ns=time.time_ns(),
        node=arguments.node,
        round_num=row.round_num,
        num_chunks=row.num_chunks,
        chunks=stored_chunks(chunks),
    )
    return _show(report, render_chunks(report), is_json=arguments.json)


def _diff(path: Path, arguments: argparse.Namespace) -> int:
    if arguments.round_num is None:
        raise UsageError(
            "`--diff` compares two rounds: name the older one with `--round`",
            hint=f"opsdash chunks {shlex.quote(str(arguments.run_dir))} "
            f"--node {arguments.node} --round 1 --diff {arguments.diff}",
        )
    diff = diff_rounds(path, arguments.round_num, arguments.diff)
    report = RoundsDiffReport(
        report="rounds_diff",
        run=str(arguments.run_dir),
        time_ns=time.time_ns(),
        node=arguments.node,
        old_round=diff.old_round,
        new_round=diff.new_round,
        num_chunks=diff.num_chunks,
        num_changed=diff.num_changed,
        changed_bytes=diff.changed_bytes,
        tensors=changed_tensors(diff),
    )
    return _show(report, render_diff(report), is_json=arguments.json)


def _show(report: Report, lines: list[str], *, is_json: bool) -> int:
    if is_json:
        write(to_json(report) + "\n")
    else:
        say(*lines)
    return 0
