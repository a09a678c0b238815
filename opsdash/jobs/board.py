"""The jobs of one attached run, and the lines that show how far they are.

Threads and processes do the work and never touch a widget; the board looks at
them four times a second, however often it is asked to, and shows what they have
reached.
"""

import itertools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from opsdash.widgets.progress import JobState

if TYPE_CHECKING:
    from opsdash.screens.watch import WatchScreen


_LOOK_S = 0.24
"""Between two looks: a look may do some of the work, and a line costs bytes."""


class Job(Protocol):
    """Something that goes on beside the screen."""

    @property
    def title(self) -> str:
        """What is done to what."""

    def state(self) -> JobState:
        """Return what a line shows of it now; called from the screen's thread."""

    def cancel(self) -> None:
        """Stop soon: the operator wants it."""

    def leave(self) -> None:
        """The dashboard goes: end what makes no sense without it."""


class JobBoard:
    """Every job that was begun, until its last line was shown."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._jobs: dict[str, tuple[Job, Callable[[], bool] | None]] = {}
        self._looked_s = 0.0

    def add(self, job: Job, when_done: Callable[[], bool] | None = None) -> None:
        """Show a job; `when_done` returns whether its line may go then."""
        self._jobs[f"{next(self._numbers)} {job.title}"] = (job, when_done)

    def cancel(self, key: str) -> None:
        """Stop a job, if it still runs."""
        if key in self._jobs:
            self._jobs[key][0].cancel()

    def cancel_newest(self) -> bool:
        """Stop the newest job that can be; False: there is none."""
        for job, _ in reversed(self._jobs.values()):
            if job.state().can_cancel:
                job.cancel()
                return True
        return False

    def why_none_cancelled(self) -> str:
        """Return why `cancel_newest` found nothing to stop."""
        for job, _ in reversed(self._jobs.values()):
            if job.state().is_running:
                return f"{job.title}: it goes on by itself, nothing can cancel it"
        return "no job is running"

    def leave(self) -> None:
        """The dashboard goes: threads are daemons and end with the process."""
        for job, _ in self._jobs.values():
            job.leave()

    async def show_on(self, watch: "WatchScreen") -> None:
        """Bring every line up to date; a job that ended keeps its last line."""
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        for key, (job, when_done) in list(self._jobs.items()):
            state = job.state()
            await watch.show_job(key, state)
            if state.is_running:
                continue
            del self._jobs[key]
            if when_done is not None and when_done():
                await watch.forget_job(key)
