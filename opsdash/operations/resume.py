"""Plan how a run goes on after it died, and start it where that is allowed.

The command is the one that the attempt recorded; nothing is guessed. It is
started here only on the recorded host, for a run of one node, outside a batch
allocation, with nothing alive, and when nobody else could have written it;
everywhere else the plan is shown and can be copied.
"""

import os
import shlex
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from agent.rundir.attempts import (
    Attempt,
    fill_resume_command,
    read_identity,
    read_newest_attempt,
)
from agent.rundir.checkpoints import (
    CheckpointEntry,
    Stage,
    find_checkpoint,
    list_checkpoints,
)
from agent.rundir.errors import (
    EXIT_LOCKED,
    EXIT_RUN_DIR,
    DamagedCheckpointError,
    NoCheckpointError,
)
from agent.rundir.layout import RunDir
from agent.rundir.lock import LockView, read_lock
from agent.rundir.process import Liveness
from agent.rundir.verify.verdict import Level, State, Verdict
from opsdash import units
from opsdash.operations.plan import Plan, name_of
from opsdash.operations.targets import (
    IsCancelled,
    Progress,
    Target,
    first_finding,
    verify_target,
)
from opsdash.operations.trust import why_untrusted

_IN_PLACE = (Stage.PUBLISHED, Stage.VERIFIED, Stage.DAMAGED)
_FLOWER = "flwr"
"""Among an attempt's versions, where it ran on Flower."""
_BATCH_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")


@dataclass(frozen=True, slots=True)
class Loss:
    """Where the run stands, so that a plan can tell what is done again."""

    step: int | None = None
    """Steps, or rounds, completed."""
    step_ns: int | None = None
    """Typical length of one."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A checkpoint that was read again, and the newer ones that were passed over."""

    entry: CheckpointEntry
    verdict: Verdict | None
    """None: it was not read, because nothing will be started."""
    passed_over: tuple[str, ...] = ()
    """Each with what was found."""


def plan_resume(
    run: RunDir,
    *,
    name: str | None = None,
    loss: Loss | None = None,
    progress: Progress | None = None,
    is_cancelled: IsCancelled | None = None,
) -> Plan:
    """Return what resuming will do.

    Every byte of the checkpoint is read again first, unless nothing may be
    started anyway; one that does not hold is passed over for the next older.

    Args:
        run: The run.
        name: Resume from this checkpoint; None: from the newest that is sound.
        loss: Where the run stands.
        progress: Called with bytes read and in all, of one checkpoint.
        is_cancelled: Asked while reading.

    Raises:
        RunDirError: no run, no attempt, no checkpoint that holds, or the named
            one does not.
        VerifyCancelled: `is_cancelled` said so.
    """
    identity = read_identity(run)
    attempt = read_newest_attempt(run)
    if attempt is None:
        raise NoCheckpointError(
            f"`{run.path}` has no attempt to go on from",
            hint=f"opsdash status {shlex.quote(str(run.path))}",
        )
    why_not, exit_code = why_not_here(run, attempt)
    if identity.kind == "federated" and name is None:
        return _plan_rounds(run, attempt, why_not, exit_code)
    choice = _choose(
        run, attempt, name, progress, is_cancelled, is_reading=why_not is None
    )
    command = fill_resume_command(attempt, choice.entry.name) or []
    return Plan(
        kind="resume",
        title=f"resume {run.path} from {choice.entry.name}",
        reads=(_what_is_read(choice),),
        writes=(
            f"attempt {attempt.attempt + 1}: attempts/, telemetry/, checkpoints/",
            f"the trainer's output: {run.logs}/",
        ),
        loses=tuple(what_is_lost(run, choice.entry, loss or Loss())),
        command=tuple(command),
        cwd=attempt.cwd,
        subject=choice.entry.name,
        confirm_name=_name_to_type(run, choice.entry) if name else "",
        notes=choice.passed_over,
        why_not=why_not,
        exit_code=exit_code,
    )


def _plan_rounds(
    run: RunDir, attempt: Attempt, why_not: str | None, exit_code: int
) -> Plan:
    """Return what going on with a federation will do: its rounds are its state."""
    return Plan(
        kind="resume",
        title=f"resume {run.path} after its newest committed round",
        reads=(f"{run.chunk_store('server')}: that round, every chunk checked",),
        writes=(
            f"attempt {attempt.attempt + 1}: attempts/, telemetry/, chunks/",
            f"the trainer's output: {run.logs}/",
        ),
        loses=("what clients had done in the round that was open",),
        command=tuple(fill_resume_command(attempt, "auto") or ()),
        cwd=attempt.cwd,
        why_not=why_not,
        exit_code=exit_code,
    )


def why_not_here(run: RunDir, attempt: Attempt) -> tuple[str | None, int]:
    """Return why an attempt's command must not be started from here, and a code."""
    held = _why_held(read_lock(run.lock))
    if held:
        return held, EXIT_LOCKED
    for reason in (
        _why_no_command(run, attempt),
        why_untrusted(run, attempt.attempt),
        _why_elsewhere(attempt),
        _why_not_startable(attempt),
    ):
        if reason:
            return reason, EXIT_RUN_DIR
    return None, EXIT_RUN_DIR


def _why_held(view: LockView | None) -> str | None:
    if view is None or view.liveness is Liveness.DEAD:
        return None
    process = view.holder.process
    who = f"process {process.pid} on {process.host}"
    if view.liveness is Liveness.ALIVE:
        return f"attempt {view.holder.attempt} is running: {who}"
    return f"attempt {view.holder.attempt} may be running: {who}, not seen from here"


def _why_no_command(run: RunDir, attempt: Attempt) -> str | None:
    if attempt.resume_command:
        return None
    if _FLOWER in attempt.versions:
        setting = shlex.quote(f'run-dir="{run.path}"')
        return (
            f"attempt {attempt.attempt} was started by Flower's SuperLink, and a run "
            "directory does not say how that and its SuperNodes are started; once "
            f"they are up, `flwr run` of the same app, with `--run-config {setting}` "
            "and its other settings as before, goes on after the newest committed round"
        )
    return (
        f"attempt {attempt.attempt} recorded no command to resume with; give one to "
        "Agent.attach(..., resume_command=[...])"
    )


def _why_elsewhere(attempt: Attempt) -> str | None:
    host, here = attempt.process.host, socket.gethostname()
    if attempt.num_nodes > 1:
        return f"it ran on {attempt.num_nodes} hosts: start it where they are started"
    if attempt.batch_job is not None:
        return f"it ran in a batch job ({attempt.batch_job}): submit it again"
    batch = next((v for v in _BATCH_VARIABLES if v in os.environ), None)
    if batch is not None:
        return f"this shell is inside a batch allocation ({batch} is set)"
    if host != here:
        return f"it ran on host {host}, this is {here}: start it there"
    return None


def _why_not_startable(attempt: Attempt) -> str | None:
    program = (attempt.resume_command or ("",))[0]
    if not Path(attempt.cwd).is_dir():
        return f"its working directory `{attempt.cwd}` is gone"
    found = shutil.which(program) or shutil.which(Path(attempt.cwd) / program)
    return None if found else f"its program `{program}` is not there"


def _choose(
    run: RunDir,
    attempt: Attempt,
    name: str | None,
    progress: Progress | None,
    is_cancelled: IsCancelled | None,
    *,
    is_reading: bool,
) -> Choice:
    """Return the newest checkpoint that holds, or the named one if it does."""
    entries = [find_checkpoint(run, name)] if name else list_checkpoints(run)
    if name and entries[0].stage not in _IN_PLACE:
        raise NoCheckpointError(
            f"checkpoint `{name}` cannot be resumed from: {entries[0].why_not}",
            hint=f"opsdash checkpoints {shlex.quote(str(run.path))}",
        )
    passed_over: list[str] = []
    for entry in entries:
        if entry.stage not in _IN_PLACE:
            continue
        if not is_reading:
            if entry.why_not is None or name:
                return Choice(entry, None, tuple(passed_over))
            passed_over.append(f"{entry.name} is passed over: {entry.why_not}")
            continue
        target = Target(entry.path, entry.name)
        verdict = verify_target(
            target, Level.CONTENT, progress=progress, is_cancelled=is_cancelled
        )
        if verdict.state is State.SOUND:
            return Choice(entry, verdict, tuple(passed_over))
        found = f"{verdict.state}: {first_finding(verdict)}"
        passed_over.append(f"{entry.name} is passed over: {found}")
    raise _nothing_holds(run, attempt, name, passed_over)


def _nothing_holds(
    run: RunDir, attempt: Attempt, name: str | None, passed_over: list[str]
) -> NoCheckpointError | DamagedCheckpointError:
    path = shlex.quote(str(run.path))
    if name:
        return DamagedCheckpointError(
            f"checkpoint `{name}` does not hold: {passed_over[0].partition(': ')[2]}",
            hint=f"opsdash resume {path}   # takes the newest one that is sound",
        )
    if passed_over:
        return NoCheckpointError(
            f"`{run.path}` has no checkpoint that holds: {'; '.join(passed_over)}",
            hint=f"opsdash checkpoints {path}",
        )
    start = fill_resume_command(attempt, "auto") or list(attempt.argv)
    return NoCheckpointError(
        f"`{run.path}` has no checkpoint to resume from: none was published",
        hint=f"cd {shlex.quote(attempt.cwd)} && {shlex.join(start)}",
    )


def _what_is_read(choice: Choice) -> str:
    entry, verdict = choice.entry, choice.verdict
    size = units.byte_size(entry.manifest.size_bytes if entry.manifest else None)
    if verdict is None:
        return f"{entry.name}: {size}"
    took = units.duration(verdict.elapsed_ns)
    return f"{entry.name}: {size}, just read again in {took}: {verdict.state}"


def _name_to_type(run: RunDir, entry: CheckpointEntry) -> str:
    """Return what confirms going back behind newer ones; empty: there is none."""
    return name_of(run) if _newer_than(run, entry) else ""


def _newer_than(run: RunDir, entry: CheckpointEntry) -> list[str]:
    return [
        other.name
        for other in list_checkpoints(run)
        if other.stage in _IN_PLACE and other.number > entry.number
    ]


def what_is_lost(run: RunDir, entry: CheckpointEntry, loss: Loss) -> list[str]:
    """Return what going back to a checkpoint throws away, in words."""
    lost = []
    if loss.step is not None and loss.step > entry.number:
        num_steps = loss.step - max(0, entry.number)
        text = f"{units.count(num_steps)} steps after {entry.name}"
        if loss.step_ns is not None:
            text += f", {units.duration(num_steps * loss.step_ns)} of work"
        lost.append(f"{text}: they are done again")
    above = _newer_than(run, entry)
    lost += [f"{name} is set aside as superseded" for name in above[:5]]
    if len(above) > 5:
        lost.append(f"{len(above) - 5} more checkpoints are set aside as superseded")
    return lost
