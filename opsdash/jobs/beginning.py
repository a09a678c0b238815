"""What was confirmed is set going: a request is written, a process started.

Both write into the run, which may lie on a mount that died. Nobody can call a
write back before it is done, so whoever cancels cancels what it becomes.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, TypeVar

from opsdash.jobs.board import Job
from opsdash.jobs.errand import Errand
from opsdash.widgets.progress import JobState

Became = TypeVar("Became", bound=Job)
LEAVE_S = 1.0
"""So long a write may take that is under way when the dashboard goes."""


class Beginning(Errand[Became]):
    """One plan that is being set going; `then` is given the job that it becomes."""

    UNDER_WAY: ClassVar[str] = "waits for the disk"

    def __init__(
        self,
        title: str,
        begin: Callable[[], Became],
        then: Callable[[Became], None],
        *,
        can_cancel: bool = True,
    ) -> None:
        """Set it going.

        Args:
            title: Of the plan.
            begin: Called in a thread of its own; returns what goes on from there.
            then: Called by `finish` with that.
            can_cancel: Whether what it becomes can be stopped from here.
        """
        self._begin, self._then = begin, then
        self._can_cancel = can_cancel
        self._changing = threading.Lock()
        self._job: Became | None = None
        self._is_left = False
        super().__init__(title, self._begun)

    def cancel(self) -> None:
        """Want it no more, where that makes a difference."""
        self.is_cancelled = self._can_cancel

    def leave(self) -> None:
        """Leave what it became, or will; what was confirmed is written first."""
        with self._changing:
            self._is_left = True
            if self._job is not None:
                self._job.leave()
        self._thread.join(LEAVE_S)

    def state(self) -> JobState:
        """Return what a line shows of it now; who cancelled waits for the disk too."""
        if self.is_cancelled and not self.is_done:
            return JobState(self.title, detail="cancelled when the disk answers")
        if self.is_done:
            return self._ended()
        return replace(self._under_way(), can_cancel=self._can_cancel)

    def finish(self) -> bool:
        """Pass on what it became; False: nothing, and the line says why."""
        for job in self.found:
            self._then(job)
            if self.is_cancelled:
                job.cancel()
        return bool(self.found)

    def _begun(self) -> Became:
        job = self._begin()
        with self._changing:
            self._job = job
            if self._is_left:
                job.leave()
        return job
