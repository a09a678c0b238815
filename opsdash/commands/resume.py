"""`opsdash resume`: show the plan, start it where that is allowed, see it alive."""

import argparse
import time

from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from opsdash.commands.console import say
from opsdash.commands.story import tell
from opsdash.commands.watching import attach
from opsdash.operations.plan import Plan
from opsdash.operations.record import OperationLog
from opsdash.operations.resume import Loss, plan_resume
from opsdash.operations.start import Stage, Started, start_resume
from opsdash.reports.report import fields

_POLL_S = 0.1


class NotStartedError(RunDirError):
    """The plan was shown and must not, or could not, be carried out from here."""

    def __init__(self, message: str, *, hint: str | None, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


def main(arguments: argparse.Namespace) -> int:
    """Plan, start, and wait for the first heartbeat of the new attempt."""
    watched = attach(arguments.run_dir)
    run = watched.reader.run
    steps = watched.run.steps
    loss = Loss(steps.step, steps.typical_step_ns)
    plan = plan_resume(run, name=arguments.checkpoint, loss=loss)
    say(*render_plan(plan))
    if plan.why_not is not None:
        raise NotStartedError(
            f"`{run.path}` is not resumed from here: {plan.why_not}",
            hint=_hint(run, plan),
            exit_code=plan.exit_code,
        )
    if arguments.dry_run:
        return 0
    started = start_resume(run, plan, OperationLog(run))
    say("", f"started process {started.process.pid}; its output: {started.log_path}")
    _wait_until_alive(started)
    if arguments.follow:
        return tell(attach(run.path), attempt=started.attempt).exit_code
    say(f"watch it: opsdash attach {run.path}")
    return 0


def render_plan(plan: Plan) -> list[str]:
    """Return a plan as lines; the command is never broken."""
    lines = fields([("plan", plan.title)])
    for label, texts in (
        ("reads", plan.reads),
        ("writes", plan.writes),
        ("loses", plan.loses or ("nothing",)),
        ("agrees", plan.agrees),
        ("note", plan.notes),
    ):
        if not texts:
            continue
        labels = [label] + [""] * len(texts)
        lines += fields(zip(labels, texts, strict=False))
    return [*lines, f"{'runs':<10}{plan.shell or 'nothing: no command is known'}"]


def _hint(run: RunDir, plan: Plan) -> str:
    if plan.exit_code == NotStartedError.exit_code and plan.shell:
        return plan.shell
    return f"opsdash attach {run.path}"


def _wait_until_alive(started: Started) -> None:
    told: Stage | None = None
    while True:
        stage = started.poll()
        if stage is not told:
            told = stage
            _tell_stage(started, stage)
        if stage is Stage.ALIVE:
            return
        if stage is Stage.ENDED:
            code = started.process.returncode
            raise NotStartedError(
                f"the trainer ended with exit code {code} before its first heartbeat: "
                + (" / ".join(started.last_output(2)) or "it wrote nothing"),
                hint=f"less {started.log_path}",
                exit_code=RunDirError.exit_code,
            )
        time.sleep(_POLL_S)


def _tell_stage(started: Started, stage: Stage) -> None:
    if stage is Stage.BEGUN:
        say(f"attempt {started.attempt} has begun")
    elif stage is Stage.ALIVE:
        say(f"attempt {started.attempt} is alive: its first heartbeat is here")
