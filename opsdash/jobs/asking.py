"""A request to the running trainer, from its file to its outcome.

Its files are looked at beside the screen: a mount that died keeps the line as it
was, and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from agent.rundir.errors import RunDirError
from opsdash.operations.beside import Beside
from opsdash.operations.requests import Asked, Step
from opsdash.projections.requests import RequestRow
from opsdash.widgets.progress import JobState

_GRACE_LOOKS = 8
"""The outcome's file may be read before what the ranks told of it: two seconds."""


@dataclass
class Asking:
    """One request; what events tell of it is asked for anew each time."""

    asked: Asked
    told: Callable[[], RequestRow | None]
    num_processes: int | None
    """Ranks that take part; None where nobody said."""
    _acked: tuple[str, ...] = ()
    _num_early: int = 0
    _beside: Beside = field(
        default_factory=lambda: Beside("opsdash-request", lambda: None)
    )
    _trouble: str = ""
    """Why the last look failed; empty: it did not."""

    @property
    def title(self) -> str:
        """What was asked for."""
        return self.asked.plan.title

    def cancel(self) -> None:
        """Take it back, if the trainer has not taken it."""
        self._beside.ask("withdraw", self.asked.withdraw)

    def leave(self) -> None:
        """Look no more: a request stands without whoever made it."""
        self._beside.stop()

    def state(self) -> JobState:
        """Return what a line shows of it now."""
        row = self.told()
        self._look(row)
        state = self._say(row, self.asked.step)
        if not state.is_running:
            self._beside.stop()
        elif self._trouble:
            return JobState(self.title, detail=self._trouble)
        return state

    def _look(self, row: RequestRow | None) -> None:
        if self.asked.is_over:
            return
        self._beside.ask("look", lambda: self.asked.look(row))
        self._beside.wait("look")
        answer = self._beside.take().get("look")
        if answer is not None:
            self._trouble = str(answer) if isinstance(answer, RunDirError) else ""

    def _say(self, row: RequestRow | None, step: Step) -> JobState:
        if row is not None:
            self._acked = row.acked
        if step is Step.WAITING:
            return JobState(self.title, detail="asked, waits for a safe point")
        if step is Step.RUNNING:
            return JobState(self.title, detail=self._acks())
        if step is Step.DONE:
            if not self._is_told(row) and self._num_early < _GRACE_LOOKS:
                self._num_early += 1
                return JobState(self.title, detail=self._acks())
            return JobState(self.title, outcome="ok", detail=self._acks())
        if step is Step.WITHDRAWN:
            return JobState(self.title, outcome="cancelled", detail="taken back")
        return JobState(self.title, outcome="failed", detail=self.asked.error)

    def _is_told(self, row: RequestRow | None) -> bool:
        """Whether the ranks' own words about the outcome have been read."""
        if row is None or not row.is_over:
            return False
        return not row.acked or len(row.acked) >= (self.num_processes or 1)

    def _acks(self) -> str:
        acked = self._acked
        if not acked:
            return "taken" if not self.asked.is_over else ""
        if self.num_processes is None or not acked[0].startswith("rank-"):
            return f"acknowledged by {', '.join(acked[:4])}"
        return f"acknowledged by {len(acked)} of {self.num_processes} ranks"
