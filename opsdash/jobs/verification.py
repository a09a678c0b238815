"""Checkpoints and chunk stores that are read again while the screen goes on."""

from dataclasses import dataclass, field

from agent.rundir.verify.verdict import Level, State, Verdict
from opsdash import units
from opsdash.jobs.beginning import LEAVE_S
from opsdash.operations.record import OperationLog
from opsdash.operations.targets import Target, first_finding
from opsdash.operations.verify import VerifyJob
from opsdash.widgets.progress import JobState


@dataclass
class Verification:
    """Checkpoints and stores that are read again, one after the other."""

    targets: tuple[Target, ...]
    log: OperationLog | None = None
    """Where outcomes are written down; None: nowhere."""
    level: Level = Level.CONTENT
    job: VerifyJob = field(init=False)

    def __post_init__(self) -> None:
        targets = list(self.targets)
        self.job = VerifyJob(targets, self.level, self.log)
        self.job.start()

    @property
    def title(self) -> str:
        """What is done to what."""
        deep = " deep" if self.level is Level.DEEP else ""
        if len(self.targets) == 1:
            return f"verify{deep} {self.targets[0].name}"
        return f"verify{deep} {len(self.targets)} of them"

    @property
    def is_done(self) -> bool:
        """Whether nothing more will change."""
        return self.job.is_done

    def cancel(self) -> None:
        """Stop soon."""
        self.job.cancel()

    def leave(self) -> None:
        """Stop: nobody will see it, and the process of a deep look must not stay."""
        self.cancel()
        self.job.wait(LEAVE_S)

    def state(self) -> JobState:
        """Return what a line shows of it now."""
        if not self.job.is_done:
            return self._running()
        if self.job.error:
            return JobState(self.title, outcome="failed", detail=self.job.error)
        if self.job.is_cancelled:
            detail = f"{len(self.job.verdicts)} of {len(self.targets)} were read"
            return JobState(self.title, outcome="cancelled", detail=detail)
        return self._ended(list(self.job.verdicts.items()))

    def _running(self) -> JobState:
        progress = self.job.progress
        share = progress.read_frac
        size = units.byte_size(progress.total_bytes)
        detail = f"{units.byte_size(progress.done_bytes)} of {size}"
        if not progress.total_bytes:
            detail = ""
        elif self.level is Level.DEEP:
            if share == 1.0:
                detail = f"{size} read, now its values are looked at"
            # Nobody knows how long the values take: they are taken as the other half.
            share /= 2
        done = (progress.num_done + share) / max(1, progress.num_targets)
        return JobState(self.title, done, detail)

    def _ended(self, verdicts: list[tuple[str, Verdict]]) -> JobState:
        bad = [(name, v) for name, v in verdicts if v.state is not State.SOUND]
        if not bad:
            num_bytes = sum(v.num_bytes for _, v in verdicts)
            took = units.duration(sum(v.elapsed_ns for _, v in verdicts))
            detail = f"sound: {units.byte_size(num_bytes)} read in {took}"
            return JobState(self.title, outcome="ok", detail=detail)
        name, verdict = bad[0]
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        found = first_finding(verdict) or verdict.advice
        which = "" if len(self.targets) == 1 else f"{name} "
        detail = f"{which}{verdict.state}: {found}{more}"
        return JobState(self.title, outcome="failed", detail=detail)
