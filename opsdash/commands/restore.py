"""`opsdash restore`: put a round into a file, or into the running federation."""

import argparse
from pathlib import Path

from agent.rundir.errors import RunDirError
from opsdash.commands.carry_out import wait_for
from opsdash.commands.confirm import confirm
from opsdash.commands.console import say
from opsdash.commands.request import make_request
from opsdash.commands.resume import render_plan
from opsdash.commands.watching import attach, open_run
from opsdash.operations.record import OperationLog
from opsdash.operations.store_plans import plan_restore, store_path
from opsdash.operations.trainer_command import TrainerCommand


class NotRestoredError(RunDirError):
    """The trainer's command did not end well; the file is not there."""


def main(arguments: argparse.Namespace) -> int:
    """Plan, do, and tell what was written."""
    run = open_run(arguments.run_dir)
    store_path(run, arguments.node)
    mapping = dict(arguments.mapping or ())
    if arguments.live:
        args = {"node": arguments.node, "round_num": arguments.round_num}
        more = {"tensors": arguments.tensors} if arguments.tensors else {}
        more |= {"mapping": mapping} if mapping else {}
        watched = attach(arguments.run_dir)
        return make_request(watched, "restore", {**args, **more}, arguments)
    to: Path = arguments.to
    plan = plan_restore(
        run, arguments.node, arguments.round_num, to, arguments.tensors, mapping
    )
    say(*render_plan(plan))
    if arguments.dry_run:
        return 0
    confirm(plan, is_agreed=arguments.yes)
    return _run(TrainerCommand(plan, OperationLog(run)), to)


def _run(command: TrainerCommand, to: Path) -> int:
    wait_for(command)
    if command.exit_code:
        raise NotRestoredError(f"`{to}` was not written: {command.error}")
    say("", f"wrote {to}")
    return 0
