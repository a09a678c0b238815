"""A run that is dead: find out what a resume would do, then see it come alive."""

import threading
from dataclasses import dataclass

from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from agent.rundir.verify.watch import VerifyCancelled
from opsdash import units
from opsdash.operations.plan import Plan
from opsdash.operations.resume import Loss, plan_resume
from opsdash.operations.start import Stage, Started
from opsdash.widgets.progress import JobState


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

    def leave(self) -> None:
        """Stop soon: nobody will see it."""
        self.cancel()

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

    def leave(self) -> None:
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
