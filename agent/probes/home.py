"""Whether the run directory still holds the run of this process.

A directory may be moved away, and another run begin at its path or be moved
there. Whatever a process goes on doing by that path it would then do to a run
that is not its own: continue its telemetry, obey what it is asked. What a
process has open goes on, wherever it was moved.
"""

import os
from collections.abc import Callable

from agent.rundir.attempts import read_identity
from agent.rundir.errors import LockedError, RunDirError
from agent.rundir.layout import RunDir


class Home:
    """One process's run directory."""

    def __init__(self, run: RunDir) -> None:
        """Remember which run lies there, or the first that does."""
        self._run = run
        self._run_id: str | None = None
        self._found: os.stat_result | None = None
        """`run.json`, when it was read last."""
        self._is_ours = True
        self.is_ours()

    def is_ours(self) -> bool:
        """Whether no other run lies there; where none does, another place tells."""
        try:
            found = self._run.identity.stat()
        except OSError:
            return True
        if self._found is None or not _is_same(found, self._found):
            try:
                run_id = read_identity(self._run).run_id
            except RunDirError:
                return True
            self._found = found
            self._run_id = self._run_id or run_id
            self._is_ours = self._run_id == run_id
        return self._is_ours

    def only_here(self, work: Callable[[], object]) -> Callable[[], None]:
        """Return what does some work as long as this is so."""

        def look() -> None:
            if self.is_ours():
                work()

        return look

    def look(self) -> None:
        """Do nothing, as long as this is so.

        Raises:
            LockedError: another run lies there.
        """
        if not self.is_ours():
            raise LockedError(f"another run lies in `{self._run.path}` by now")


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    return os.path.samestat(one, other) and one.st_mtime_ns == other.st_mtime_ns
