"""What says which run this is, made again where the run directory was removed.

Telemetry makes its own directory again, and without `run.json`, the attempt and
the lock beside it no reader would know it for a run, and a second trainer could
begin there. Rank 0 or the server keeps what they said. It writes nothing while
`run.json` stands, nothing in the place of a disk that is gone, and nothing over
what another trainer has made meanwhile.
"""

import contextlib
from pathlib import Path

from agent.emitter import Emitter
from agent.rundir.atomic import write_new
from agent.rundir.errors import LockedError
from agent.rundir.layout import RunDir
from agent.rundir.lock import Holder, hold_again, read_lock
from agent.rundir.process import this_process
from agent.rundir.reading import read_regular

_MAX_BYTES = 16 << 20


class Documents:
    """Looked after at every beat, in the process that acts for the whole run."""

    def __init__(self, emitter: Emitter, run: RunDir, attempt: int) -> None:
        """Make it; `look` reads what there is."""
        self._emitter = emitter
        self._run = run
        self._attempt = attempt
        self._texts: dict[Path, bytes] = {}
        self._holder: Holder | None = None

    def look(self) -> None:
        """Remember what stands there, or make it again if it is gone.

        Raises:
            LockedError: another trainer has taken the directory meanwhile.
            OSError: what is there cannot be read, or what is gone not be made yet.
        """
        run = self._run
        if self._emitter.is_off:
            return
        if run.identity.exists():
            self._remember()
        elif run.telemetry_file(self._attempt, "x").parent.is_dir():
            self._make_again()

    def _remember(self) -> None:
        # A trainer may record its attempt long after the agent was attached.
        for path in (self._run.identity, self._run.attempt_file(self._attempt)):
            if path not in self._texts:
                with contextlib.suppress(FileNotFoundError):
                    self._texts[path] = read_regular(path, _MAX_BYTES)
        if self._holder is None:
            view = read_lock(self._run.lock)
            if view is not None and view.holder.process == this_process():
                self._holder = view.holder

    def _make_again(self) -> None:
        """Make them so that `run.json` comes last: until then it is tried again."""
        run = self._run
        if self._holder is not None and not hold_again(run.lock, self._holder):
            raise LockedError(f"another trainer has begun in `{run.path}` meanwhile")
        run.attempts.mkdir(exist_ok=True)
        for path, text in reversed(self._texts.items()):
            with contextlib.suppress(FileExistsError):
                write_new(path, text)
