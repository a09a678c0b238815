"""Start a planned resume detached, and watch it until it is alive.

The trainer gets a session of its own, so that it outlives this dashboard and
its terminal; its output goes to `logs/`. Watching is asking: `poll` looks once
and returns.
"""

import os
import subprocess
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from agent.rundir.attempts import list_attempts
from agent.rundir.errors import RunDirError
from agent.rundir.events import Heartbeat, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.tail import Tail
from opsdash.operations.plan import Plan
from opsdash.operations.record import OperationLog, entry

_SUBMITTED_S = 120.0
"""A command that ended well, such as a submission, may take so long to begin."""
_TAIL_BYTES = 4_096


class Stage(StrEnum):
    """How far a start is."""

    STARTING = "starting"
    """The command runs; no new attempt yet."""
    BEGUN = "begun"
    """A new attempt exists; no heartbeat yet."""
    ALIVE = "alive"
    ENDED = "ended"
    """The command ended before a heartbeat."""


@dataclass
class Started:
    """A resume that was started from here."""

    run: RunDir
    process: "subprocess.Popen[bytes]"
    log_path: Path
    """Where the trainer's output goes."""
    before: int
    """The newest attempt before the start."""
    operation: str
    _log: OperationLog
    _began_s: float = field(default_factory=time.monotonic)
    _tails: dict[Path, Tail] = field(default_factory=dict)
    _stage: Stage = Stage.STARTING

    @property
    def attempt(self) -> int | None:
        """The new attempt; None: there is none yet."""
        newest = _newest_attempt(self.run)
        return newest if newest > self.before else None

    def poll(self) -> Stage:
        """Return how far the start is now; never waits."""
        stage = self._look()
        if stage is not self._stage and stage in (Stage.ALIVE, Stage.ENDED):
            self._record(stage)
        self._stage = stage
        return stage

    def last_output(self, num_lines: int = 5) -> list[str]:
        """Return the end of what the trainer wrote."""
        try:
            with self.log_path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                text = file.read().decode("utf-8", "backslashreplace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-num_lines:]

    def _look(self) -> Stage:
        if self._stage in (Stage.ALIVE, Stage.ENDED):
            return self._stage
        code = self.process.poll()
        attempt = self.attempt
        if attempt is not None and self._has_heartbeat(attempt):
            return Stage.ALIVE
        is_submitted = code == 0 and time.monotonic() - self._began_s < _SUBMITTED_S
        if code is not None and not is_submitted:
            return Stage.ENDED
        return Stage.STARTING if attempt is None else Stage.BEGUN

    def _has_heartbeat(self, attempt: int) -> bool:
        folder = self.run.telemetry / f"{attempt:04d}"
        try:
            paths = [path for path in folder.iterdir() if path.suffix == ".jsonl"]
            for path in paths:
                tail = self._tails.setdefault(path, Tail(path))
                events = decode_lines(tail.read())
                if any(isinstance(event, Heartbeat) for event in events):
                    return True
        except OSError:
            return False
        return False

    def _record(self, stage: Stage) -> None:
        is_alive = stage is Stage.ALIVE
        text = f"attempt {self.attempt}" if is_alive else "\n".join(self.last_output())
        outcome = "done" if is_alive else "failed"
        self._log.write(entry(self.operation, "resume", outcome, text=text))


def start_resume(run: RunDir, plan: Plan, log: OperationLog | None = None) -> Started:
    """Start what a plan says, detached.

    Raises:
        ValueError: the plan says that it must not be started.
        RunDirError: the output cannot be written, or the program not started.
    """
    if not plan.can_start or not plan.command:
        raise ValueError(f"this plan must not be started: {plan.why_not}")
    log = log or OperationLog(run)
    operation = log.new_id()
    before = _newest_attempt(run)
    log_path = run.logs / f"resume-{before + 1:04d}-{operation}.log"
    try:
        run.logs.mkdir(exist_ok=True)
        with log_path.open("xb") as output:
            process = subprocess.Popen(  # noqa: S603 - the plan was shown; trust.py looked at who wrote it
                plan.command,
                cwd=plan.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise RunDirError(
            f"`{plan.command[0]}` cannot be started: {error.strerror} "
            f"(`{error.filename}`)",
            hint=plan.shell,
        ) from error
    log.write(
        entry(
            operation, "resume", "started", subject=plan.subject, command=plan.command
        )
    )
    return Started(run, process, log_path, before, operation, log)


def _newest_attempt(run: RunDir) -> int:
    """Return the greatest attempt that left anything; telemetry may come first."""
    try:
        folders = [path.name for path in run.telemetry.iterdir()]
    except OSError:
        folders = []
    numbers = [int(name) for name in folders if name.isdecimal() and len(name) <= 9]
    return max([*numbers, *list_attempts(run)], default=0)
