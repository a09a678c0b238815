"""A trainer that was started from here, until it is alive.

Its files are looked at beside the screen: a mount that died keeps the line as it
was, and nothing else.
"""

from dataclasses import dataclass, field

from opsdash.operations.beside import Beside
from opsdash.operations.start import Stage, Started
from opsdash.widgets.progress import JobState


@dataclass
class Resuming:
    """One start; what it left behind stays on its line."""

    started: Started
    title: str
    _beside: Beside = field(
        default_factory=lambda: Beside("opsdash-start", lambda: None)
    )
    _newest: JobState | None = None

    def cancel(self) -> None:
        """Nothing: what was started goes on by itself."""

    def leave(self) -> None:
        """Look no more: what was started goes on by itself."""
        self._beside.stop()

    def state(self) -> JobState:
        """Return what a line shows of it now."""
        self._beside.ask("look", self._look)
        self._beside.wait("look")
        answer = self._beside.take().get("look")
        if isinstance(answer, JobState):
            self._newest = answer
        elif answer is not None:
            self._newest = self._running(str(answer))
        if self._newest is None:
            return self._running(str(Stage.STARTING))
        if not self._newest.is_running:
            self._beside.stop()
        return self._newest

    def _look(self) -> JobState:
        stage = self.started.poll()
        if stage is Stage.ALIVE:
            detail = f"attempt {self.started.attempt} is alive"
            return JobState(self.title, outcome="ok", detail=detail)
        if stage is Stage.ENDED:
            said = " / ".join(self.started.last_output(2)) or str(self.started.log_path)
            return JobState(self.title, outcome="failed", detail=said)
        return self._running(str(stage))

    def _running(self, what: str) -> JobState:
        detail = f"{what}; output in {self.started.log_path}"
        return JobState(self.title, detail=detail, can_cancel=False)
