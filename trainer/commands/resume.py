"""Start the next attempt of a run, with the command that the last one recorded."""

import os
import shlex
from pathlib import Path

from agent.rundir.attempts import (
    Attempt,
    fill_resume_command,
    read_identity,
    read_newest_attempt,
)
from agent.rundir.errors import LockedError, NoCheckpointError
from agent.rundir.layout import RunDir
from agent.rundir.lock import read_lock
from agent.rundir.process import Liveness
from trainer.console import say
from trainer.settings import UsageParser

_FLOWER = "flwr"
"""Among an attempt's versions, where it ran on Flower."""


def main(arguments: list[str]) -> int:
    """Run `python -m trainer resume RUN_DIR`: become the recorded command.

    Raises:
        RunDirError: there is no run, it is running, or it recorded no command.
    """
    parser = UsageParser(prog="python -m trainer resume", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "--from",
        dest="checkpoint",
        default="auto",
        metavar="NAME",
        help="checkpoint to resume from (default: the newest that verifies)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say the command, start nothing"
    )
    known = parser.parse(arguments)
    command, cwd = recorded_command(RunDir(known.run_dir.absolute()), known.checkpoint)
    say(f"cd {shlex.quote(cwd)} && {shlex.join(command)}")
    if known.dry_run:
        return 0
    try:
        os.chdir(cwd)
        os.execvp(command[0], command)  # noqa: S606 - it is on the screen, in full
    except OSError as error:
        raise NoCheckpointError(
            f"`{command[0]}` cannot be started in `{cwd}`: {error.strerror}",
            hint=f"opsdash resume {shlex.quote(str(known.run_dir))} --dry-run",
        ) from error
    raise AssertionError("exec returned")


def recorded_command(run: RunDir, checkpoint: str) -> tuple[list[str], str]:
    """Return what starts the next attempt, and the directory to start it in.

    Raises:
        NotARunError: there is no run.
        LockedError: it is running.
        NoCheckpointError: no attempt recorded how to start another.
    """
    kind = read_identity(run).kind
    view = read_lock(run.lock)
    if view is not None and view.liveness is Liveness.ALIVE:
        process = view.holder.process
        raise LockedError(
            f"`{run.path}` is running: process {process.pid} on `{process.host}`",
            hint=f"opsdash attach {run.path}",
        )
    attempt = read_newest_attempt(run)
    command = fill_resume_command(attempt, checkpoint) if attempt else None
    if attempt is None or command is None:
        raise NoCheckpointError(
            f"`{run.path}` has not recorded how to start it again",
            hint=_how_to_begin(run, kind, attempt),
        )
    return command, attempt.cwd


def _how_to_begin(run: RunDir, kind: str, attempt: Attempt | None) -> str:
    """Return the command that a run of this kind is begun, or gone on with, by hand."""
    shown = shlex.quote(str(run.path))
    if kind != "federated":
        return f"python -m trainer launch ddp {shown} --nproc 2"
    if attempt is not None and _FLOWER in attempt.versions:
        setting = shlex.quote(f'run-dir="{run.path}"')
        return f"flwr run APP --run-config {setting}   # once its SuperLink is up"
    return f"python -m trainer launch fl {shown}"
