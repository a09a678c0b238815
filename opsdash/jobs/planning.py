"""What must be looked up in the run before a plan can be shown."""

from collections.abc import Callable
from typing import ClassVar

from agent.rundir.errors import RunDirError
from agent.rundir.layout import RunDir
from opsdash import units
from opsdash.jobs.errand import Errand, Found
from opsdash.operations.plan import Plan
from opsdash.operations.resume import Loss, plan_resume
from opsdash.widgets.progress import JobState


class Planning(Errand[Found]):
    """One look into the run; `then` is told what it found, in the screen's thread."""

    UNDER_WAY: ClassVar[str] = "reading the run"

    def __init__(
        self,
        title: str,
        look: Callable[[], Found],
        then: Callable[[Found], None],
        trouble: Callable[[RunDirError], None],
    ) -> None:
        """Begin to look.

        Args:
            title: What is looked up.
            look: Called in a thread of its own.
            then: Called by `finish` with what was found.
            trouble: Called by `finish` with why nothing was.
        """
        self._then, self._trouble = then, trouble
        super().__init__(title, look)

    def finish(self) -> bool:
        """Pass on what came of it; True: nothing is left to be shown."""
        if self.is_cancelled:
            return False
        if self.error is not None:
            self._trouble(self.error)
        for found in self.found:
            self._then(found)
        return True


class ResumePlanning(Errand[Plan]):
    """Finds out what a resume would do; reading the checkpoint takes a while."""

    UNDER_WAY: ClassVar[str] = "reading the checkpoint again"

    def __init__(
        self, run: RunDir, name: str | None, loss: Loss, then: Callable[[Plan], None]
    ) -> None:
        """Begin to read the checkpoint; `then` is told the plan by `finish`."""
        self._then = then
        self._run, self._name, self._loss = run, name, loss
        self._progress = (0, 0)
        super().__init__(f"plan to resume {name or run.path.name}", self._plan)

    def finish(self) -> bool:
        """Pass on the plan; False: there is none, and the line says why."""
        if self.is_cancelled:
            return False
        for plan in self.found:
            self._then(plan)
        return bool(self.found)

    def _under_way(self) -> JobState:
        done, total = self._progress
        if not total:
            return super()._under_way()
        detail = f"{units.byte_size(done)} of {units.byte_size(total)} read again"
        return JobState(self.title, done / total, detail)

    def _plan(self) -> Plan:
        def tell(done: int, total: int) -> None:
            self._progress = (done, total)

        return plan_resume(
            self._run,
            name=self._name,
            loss=self._loss,
            progress=tell,
            is_cancelled=lambda: self.is_cancelled,
        )
