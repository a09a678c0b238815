"""Run a command of the trainer's beside the dashboard, and follow what it prints.

What must touch tensors or write a store is done by `python -m trainer` in a
process of its own: the dashboard loads no torch. It prints a JSON object per
line; one with `done_bytes` and `total_bytes` is progress, any other a result.
"""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import msgspec

from agent.rundir.errors import RunDirError
from opsdash.operations.plan import Plan
from opsdash.operations.record import OperationLog, entry
from opsdash.projections.plausible import clip, whole

PACKAGES = Path(__file__).resolve().parents[2]
"""The directory that `opsdash` and `trainer` lie in."""
_MAX_LINE_BYTES = 16 << 20
_MAX_RESULTS = 10_000
_MAX_ERROR_LINES = 20


def trainer_command(*words: str) -> tuple[str, ...]:
    """Return `python -m trainer` with these words, as a plan shows it."""
    return (sys.executable, "-m", "trainer", *words)


class TrainerCommand:
    """One such process, followed by a thread of its own."""

    def __init__(self, plan: Plan, log: OperationLog | None = None) -> None:
        """Start it.

        Raises:
            ValueError: the plan says that it must not be started.
            RunDirError: it cannot be started.
        """
        if not plan.can_start:
            raise ValueError(f"this plan must not be carried out: {plan.why_not}")
        self.plan = plan
        self.done_bytes = 0
        self.total_bytes = 0
        self.results: tuple[dict[str, Any], ...] = ()
        """Objects that it printed besides progress; replaced whole."""
        self.is_cancelled = False
        self._errors: list[str] = []
        self._log = log
        self._operation = log.new_id() if log else ""
        self._process = _start(plan)
        self._record("started", "")
        self._thread = threading.Thread(
            target=self._follow, name="opsdash-trainer", daemon=True
        )
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether it has ended and everything it said was read."""
        return not self._thread.is_alive()

    @property
    def exit_code(self) -> int | None:
        """Its exit code; None: it runs."""
        return self._process.poll() if self.is_done else None

    @property
    def error(self) -> str:
        """What it said was wrong, or how it ended; empty: nothing was."""
        if not self.exit_code:
            return ""
        return self.complaint or f"it ended with exit code {self.exit_code}"

    @property
    def complaint(self) -> str:
        """What it said was wrong; empty: nothing."""
        said = [line for line in self._errors if line.startswith("error: ")]
        said = said or self._errors[-1:]
        told = said[0].removeprefix("error: ") if said else ""
        return clip(told)

    def cancel(self) -> None:
        """End it; what it has written to its temporary names it removes."""
        self.is_cancelled = True
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for its end."""
        self._thread.join(timeout_s)

    def _follow(self) -> None:
        errors = threading.Thread(target=self._read_errors, daemon=True)
        errors.start()
        with self._process as process:
            output = process.stdout
            assert output is not None
            for line in iter(lambda: output.readline(_MAX_LINE_BYTES), b""):
                self._take(line)
            errors.join()
        is_fine = self._process.returncode == 0
        stage = "done" if is_fine else "cancelled" if self.is_cancelled else "failed"
        self._record(stage, "" if is_fine else " / ".join(self._errors[-2:]))

    def _take(self, line: bytes) -> None:
        try:
            found = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        total = found.get("total_bytes")
        if isinstance(total, int) and isinstance(found.get("done_bytes"), int):
            self.done_bytes = whole(found["done_bytes"]) or 0
            self.total_bytes = whole(total) or 0
        elif len(self.results) < _MAX_RESULTS:
            self.results = (*self.results, found)

    def _read_errors(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        for line in _lines(stream):
            self._errors = [*self._errors[-_MAX_ERROR_LINES:], line]

    def _record(self, stage: str, text: str) -> None:
        if self._log is not None:
            self._log.write(
                entry(
                    self._operation,
                    self.plan.kind,
                    stage,
                    subject=self.plan.subject,
                    text=clip(text),
                    command=self.plan.command if stage == "started" else (),
                )
            )


def _start(plan: Plan) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(  # noqa: S603 - our own module, no shell
            plan.command,
            cwd=plan.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "OPSDASH_AGENT": "off", "OMP_NUM_THREADS": "1"},
        )
    except OSError as error:
        raise RunDirError(
            f"`{plan.command[0]}` cannot be started: {error.strerror}", hint=plan.shell
        ) from error


def _lines(stream: IO[bytes]) -> "list[str]":
    """Return what is said, line by line; a last line without end counts."""
    text = stream.read(_MAX_LINE_BYTES).decode("utf-8", "backslashreplace")
    return [line for line in text.splitlines() if line.strip()]
