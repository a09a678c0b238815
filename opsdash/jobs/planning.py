"""Something that must be looked up in the run before a plan of it can be shown.

A thread does it: on a disk that works it is there before the key is forgotten,
and on a mount that died a line says what is waited for while the rest goes on.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from agent.rundir.errors import RunDirError
from opsdash.widgets.progress import JobState

Found = TypeVar("Found")
PATIENCE_S = 0.04
"""What comes sooner needs no line."""


class Planning(Generic[Found]):
    """One look into the run; `then` is told what it found, in the screen's thread."""

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
        self.title = title
        self._look, self._then, self._trouble = look, then, trouble
        self._found: list[Found] = []
        self._error: RunDirError | None = None
        self._is_cancelled = False
        self._thread = threading.Thread(
            target=self._work, name="opsdash-plan", daemon=True
        )
        self._thread.start()

    def wait(self) -> bool:
        """Give it a moment; False: it takes longer."""
        self._thread.join(PATIENCE_S)
        return not self._thread.is_alive()

    def cancel(self) -> None:
        """Want it no more."""
        self._is_cancelled = True

    def leave(self) -> None:
        """Want it no more."""
        self.cancel()

    def state(self) -> JobState:
        """Return what a line shows of it now."""
        if self._is_cancelled:
            return JobState(self.title, outcome="cancelled")
        if self._thread.is_alive():
            return JobState(self.title, detail="reading the run")
        return JobState(self.title, outcome="failed" if self._error else "ok")

    def finish(self) -> bool:
        """Pass on what came of it; True: nothing is left to be shown."""
        if self._is_cancelled:
            return False
        if self._error is not None:
            self._trouble(self._error)
        for found in self._found:
            self._then(found)
        return True

    def _work(self) -> None:
        try:
            self._found.append(self._look())
        except RunDirError as error:
            self._error = error
        except OSError as error:
            self._error = RunDirError(f"`{error.filename}`: {error.strerror}")
        except Exception as error:  # noqa: BLE001 - a thread that ends without a word is never seen
            self._error = RunDirError(f"{type(error).__name__}: {error}")
