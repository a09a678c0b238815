"""Who wrote Python stacks, or could not, and why they were taken.

The stacks themselves lie in files; an agent tells when there are new ones, and
of a process that cannot write any, what the kernel knows of it.
"""

from pathlib import PurePosixPath
from typing import NamedTuple

from agent.rundir.events import StacksWritten
from opsdash.projections.batch import Origin
from opsdash.projections.plausible import MAX_NODES, clip


class StacksNote(NamedTuple):
    """The newest word about one process's stacks."""

    attempt: int
    time_ns: int
    """Writer's wall clock, Unix ns."""
    reason: str


class Stacks:
    """Folds `stacks_written`."""

    def __init__(self) -> None:
        self._notes: dict[str, StacksNote] = {}

    def on_written(self, origin: Origin, event: StacksWritten) -> None:
        """Take in that stacks were written, or why not."""
        stem = clip(PurePosixPath(event.file).stem, 80)
        known = self._notes.get(stem)
        if known is None and len(self._notes) >= MAX_NODES:
            return
        if known is None or origin.attempt >= known.attempt:
            note = StacksNote(origin.attempt, event.time_ns, clip(event.reason))
            self._notes[stem] = note

    def of(self, stem: str) -> StacksNote | None:
        """Return the newest word about a process; None: there is none."""
        return self._notes.get(stem)
