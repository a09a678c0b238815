"""Verify in the background, with progress and a way to stop.

What was found stays with the job for the screen, and goes into this
dashboard's operations file, so that the next dashboard shows it too.
"""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from agent.rundir.verify.verdict import Level, Verdict
from agent.rundir.verify.watch import VerifyCancelled
from opsdash.operations.record import OperationLog, entry
from opsdash.operations.targets import Target, first_finding, verify_target


def verify_command(path: Path, level: Level) -> tuple[str, ...]:
    """Return the shell command that reads the same again."""
    flags = () if level is Level.CONTENT else ("--level", str(level))
    return ("opsdash", "verify", *flags, str(path))


@dataclass
class JobProgress:
    """How far a job is; replaced whole, so that a screen can read it any time."""

    name: str = ""
    """What is read now."""
    done_bytes: int = 0
    total_bytes: int = 0
    """Of the target that is read now."""
    num_done: int = 0
    """Targets with a verdict; the one that is read now is none of them."""
    num_targets: int = 0

    @property
    def read_frac(self) -> float:
        """Share of the target's bytes that were read; a store may grow meanwhile."""
        return min(1.0, self.done_bytes / self.total_bytes) if self.total_bytes else 0.0


@dataclass
class VerifyJob:
    """Verifies targets one after the other, in a thread of its own."""

    targets: list[Target]
    level: Level = Level.CONTENT
    log: OperationLog | None = None
    """Where outcomes are written down; None: nowhere."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """By the target's name, as they come."""
    progress: JobProgress = field(default_factory=JobProgress)
    error: str | None = None
    """What went wrong besides what was found."""
    is_cancelled: bool = False
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(
            target=self._run, name="opsdash-verify", daemon=True
        )
        self._thread.start()

    def cancel(self) -> None:
        """Stop soon; outcomes that are there stay."""
        self.is_cancelled = True

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the end."""
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def is_done(self) -> bool:
        """Whether it was started and has ended."""
        return self._thread is not None and not self._thread.is_alive()

    def _run(self) -> None:
        for number, target in enumerate(self.targets):
            if self.is_cancelled:
                return
            self._tell(target, number, 0, 0)
            try:
                self._verify(target, number)
            except VerifyCancelled:
                self.is_cancelled = True
                self._record(target, "cancelled")
                return
            except Exception as error:  # noqa: BLE001 - a thread that ends without a word is never seen
                self.error = f"{target.name}: {type(error).__name__}: {error}"
                self._record(target, "failed", text=self.error)

    def _verify(self, target: Target, number: int) -> None:
        def tell(done_bytes: int, total_bytes: int) -> None:
            self._tell(target, number, done_bytes, total_bytes)

        verdict = verify_target(
            target, self.level, progress=tell, is_cancelled=lambda: self.is_cancelled
        )
        self.verdicts[target.name] = verdict
        self._tell(target, number + 1, 0, 0)
        self._record(
            target,
            "done",
            digest=verdict.digest,
            state=str(verdict.state),
            level=str(verdict.level),
            text=first_finding(verdict),
            duration_ns=verdict.elapsed_ns,
            command=verify_command(target.path, self.level),
        )

    def _tell(self, target: Target, number: int, done: int, total: int) -> None:
        self.progress = JobProgress(target.name, done, total, number, len(self.targets))

    def _record(self, target: Target, stage: str, **fields: object) -> None:
        if self.log is not None:
            name = target.path.name if not target.is_store else target.name
            written = entry(self.log.new_id(), "verify", stage, subject=name, **fields)
            self.log.write(written)
