"""`opsdash request`: ask the running trainer for something, and see what came of it."""

import argparse
import time
from typing import Any

from agent.rundir.errors import RunDirError
from opsdash.commands.confirm import confirm
from opsdash.commands.console import say
from opsdash.commands.resume import NotStartedError, render_plan
from opsdash.commands.watching import Watched, attach
from opsdash.operations.record import OperationLog
from opsdash.operations.request_plans import plan_request
from opsdash.operations.requests import Asked, Step, ask
from opsdash.operations.standing import standing_of

_POLL_S = 0.2


class RequestFailedError(RunDirError):
    """The trainer refused it, could not do it, or ended before."""


def main(arguments: argparse.Namespace) -> int:
    """Plan, ask, and wait for the outcome."""
    watched = attach(arguments.run_dir)
    return make_request(watched, arguments.kind, _args(arguments), arguments)


def make_request(
    watched: Watched, kind: str, args: dict[str, Any], arguments: argparse.Namespace
) -> int:
    """Show the plan of a request, make it, and wait for what comes of it.

    Raises:
        RunDirError: nobody would take it, or it failed.
    """
    run = watched.reader.run
    now_ns = time.monotonic_ns(), time.time_ns()
    plan = plan_request(run, kind, args, standing_of(watched.run, *now_ns))
    say(*render_plan(plan))
    if plan.why_not is not None:
        raise NotStartedError(
            f"`{run.path}` cannot be asked: {plan.why_not}",
            hint=f"opsdash status {run.path}",
            exit_code=plan.exit_code,
        )
    if arguments.dry_run:
        return 0
    confirm(plan, is_agreed=arguments.yes)
    asked = ask(run, plan, args, OperationLog(run))
    say("", f"asked: request {asked.request}")
    if arguments.no_wait:
        return 0
    return _wait(watched, asked)


def _args(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the request takes, as far as it was given."""
    names = ("checkpoint", "node", "round_num", "tensors", "steps", "level", "path")
    given = {name: getattr(arguments, name) for name in names}
    found = {name: value for name, value in given.items() if value is not None}
    if arguments.ranks is not None:
        found["ranks"] = list(arguments.ranks)
    if arguments.mapping:
        found["mapping"] = dict(arguments.mapping)
    return found


def _wait(watched: Watched, asked: Asked) -> int:
    told: tuple[Step, int] | None = None
    while not asked.is_over:
        watched.read()
        step = asked.look(watched.run.requests.get(asked.request))
        now = (step, len(asked.acked))
        if now != told and not asked.is_over:
            told = now
            acked = f", begun by {', '.join(asked.acked)}" if asked.acked else ""
            say(f"{step}{acked}")
        if not asked.is_over:
            time.sleep(_POLL_S)
    if asked.step is not Step.DONE:
        raise RequestFailedError(
            f"`{asked.plan.kind}` failed: {asked.error}",
            hint=f"opsdash events {asked.run.path}",
        )
    say("done")
    return 0
