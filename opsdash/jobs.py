"""What the app does in the background for its operator, as lines on the screen.

Threads do the work and never touch a widget; the app looks at them four times a
second and shows what they have reached.
"""

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from agent.rundir.verify.verdict import Level, State, Verdict
from agent.rundir.verify.watch import VerifyCancelled
from opsdash import units
from opsdash.operations.plan import Plan
from opsdash.operations.record import OperationLog
from opsdash.operations.resume import Loss, plan_resume
from opsdash.operations.start import Stage, Started
from opsdash.operations.targets import Target, first_finding
from opsdash.operations.verify import VerifyJob
from opsdash.screens.watch import WatchScreen
from opsdash.widgets.progress import JobState


@dataclass
class Verification:
    """Checkpoints that are read again, one after the other."""

    run: RunDir
    names: tuple[str, ...]
    log: OperationLog
    level: Level = Level.CONTENT
    job: VerifyJob = field(init=False)

    def __post_init__(self) -> None:
        targets = [Target(self.run.checkpoints / name, name) for name in self.names]
        self.job = VerifyJob(targets, self.level, self.log)
        self.job.start()

    @property
    def title(self) -> str:
        """What is done to what."""
        if len(self.names) == 1:
            return f"verify {self.names[0]}"
        return f"verify {len(self.names)} checkpoints"

    @property
    def is_done(self) -> bool:
        """Whether nothing more will change."""
        return self.job.is_done

    def cancel(self) -> None:
        """Stop soon."""
        self.job.cancel()

    def state(self) -> JobState:
        """Return what a line shows of it now."""
        if not self.job.is_done:
            return self._running()
        if self.job.error:
            return JobState(self.title, outcome="failed", detail=self.job.error)
        if self.job.is_cancelled:
            detail = f"{len(self.job.verdicts)} of {len(self.names)} were read"
            return JobState(self.title, outcome="cancelled", detail=detail)
        return self._ended(list(self.job.verdicts.items()))

    def _running(self) -> JobState:
        progress = self.job.progress
        frac = progress.done_bytes / progress.total_bytes if progress.total_bytes else 0
        num = max(1, progress.num_targets)
        size = units.byte_size(progress.total_bytes)
        detail = f"{units.byte_size(progress.done_bytes)} of {size}"
        return JobState(self.title, (progress.num_done + frac) / num, detail)

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
        which = "" if len(self.names) == 1 else f"{name} "
        detail = f"{which}{verdict.state}: {found}{more}"
        return JobState(self.title, outcome="failed", detail=detail)


class ResumePlanning:
    """Finds out what a resume would do; reading the checkpoint takes a while."""

    def __init__(self, run: RunDir, name: str | None, loss: Loss) -> None:
        self.title = f"plan to resume {name or run.path.name}"
        self.plan: Plan | None = None
        """Once it is there; None as well where `error` tells why it is not."""
        self.error: RunDirError | None = None
        self._is_cancelled = False
        self._progress = (0, 0)
        self._run, self._name, self._loss = run, name, loss
        self._thread = threading.Thread(
            target=self._work, name="opsdash-plan", daemon=True
        )
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether nothing more will change."""
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Stop soon."""
        self._is_cancelled = True

    def state(self) -> JobState:
        """Return what a line shows of it now."""
        if not self.is_done:
            done, total = self._progress
            detail = f"{units.byte_size(done)} of {units.byte_size(total)} read again"
            return JobState(self.title, done / total if total else None, detail)
        if self.error is not None:
            hint = f" ({self.error.hint})" if self.error.hint else ""
            return JobState(self.title, outcome="failed", detail=f"{self.error}{hint}")
        if self._is_cancelled or self.plan is None:
            return JobState(self.title, outcome="cancelled")
        return JobState(self.title, outcome="ok", detail=self.plan.title)

    def _work(self) -> None:
        def tell(done: int, total: int) -> None:
            self._progress = (done, total)

        try:
            self.plan = plan_resume(
                self._run,
                name=self._name,
                loss=self._loss,
                progress=tell,
                is_cancelled=lambda: self._is_cancelled,
            )
        except VerifyCancelled:
            self._is_cancelled = True
        except RunDirError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - a thread that ends without a word is never seen
            self.error = RunDirError(f"{type(error).__name__}: {error}")


@dataclass
class Resuming:
    """A trainer that was started from here, until it is alive."""

    started: Started
    title: str
    is_done: bool = False

    def cancel(self) -> None:
        """Nothing: what was started goes on by itself."""

    def state(self) -> JobState:
        """Return what a line shows of it now."""
        stage = self.started.poll()
        self.is_done = stage in (Stage.ALIVE, Stage.ENDED)
        if stage is Stage.ALIVE:
            detail = f"attempt {self.started.attempt} is alive"
            return JobState(self.title, outcome="ok", detail=detail)
        if stage is Stage.ENDED:
            said = " / ".join(self.started.last_output(2)) or str(self.started.log_path)
            return JobState(self.title, outcome="failed", detail=said)
        return JobState(
            self.title, detail=f"{stage}; output in {self.started.log_path}"
        )


Job = Verification | ResumePlanning | Resuming


class JobBoard:
    """The jobs that run, each with a line on the screen."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._jobs: dict[str, tuple[Job, Callable[[], bool] | None]] = {}

    def add(self, job: Job, when_done: Callable[[], bool] | None = None) -> None:
        """Show a job; `when_done` returns whether its line may go then."""
        self._jobs[f"{next(self._numbers)} {job.title}"] = (job, when_done)

    def cancel(self, key: str) -> None:
        """Stop a job, if it still runs."""
        if key in self._jobs:
            self._jobs[key][0].cancel()

    def cancel_all(self) -> None:
        """Stop everything: the threads are daemons and end with the process."""
        for job, _ in self._jobs.values():
            job.cancel()

    async def show_on(self, watch: WatchScreen) -> None:
        """Bring every line up to date; a job that ended keeps its last line."""
        for key, (job, when_done) in list(self._jobs.items()):
            state = job.state()
            await watch.show_job(key, state)
            if state.is_running:
                continue
            del self._jobs[key]
            if when_done is not None and when_done():
                await watch.forget_job(key)
