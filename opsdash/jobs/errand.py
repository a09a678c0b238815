"""Something that a thread is sent to do, while a line says that it is under way.

On a disk that works it is done before the key is forgotten; a mount that died
holds up that thread and nobody else. Whatever goes wrong is an error that is
found here: raised in a thread, nobody would ever see it.
"""

import threading
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

from agent.rundir.errors import RunDirError
from opsdash.widgets.progress import JobState

Found = TypeVar("Found")
PATIENCE_S = 0.04
"""What comes sooner needs no line."""


class Errand(Generic[Found]):
    """One thread; `found` or `error` says what came of it."""

    UNDER_WAY: ClassVar[str]
    """What its line says while it runs."""

    def __init__(self, title: str, do: Callable[[], Found]) -> None:
        """Send the thread off.

        Args:
            title: What it is sent for.
            do: Called in that thread.
        """
        self.title = title
        self.found: list[Found] = []
        """What `do` returned, once it did."""
        self.error: RunDirError | None = None
        """Why it returned nothing; None: it did, or it has not ended."""
        self.is_cancelled = False
        self._do = do
        self._thread = threading.Thread(
            target=self._work, name="opsdash-errand", daemon=True
        )
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether nothing more will change."""
        return not self._thread.is_alive()

    def wait(self) -> bool:
        """Give it a moment; False: it takes longer."""
        self._thread.join(PATIENCE_S)
        return self.is_done

    def cancel(self) -> None:
        """Want it no more."""
        self.is_cancelled = True

    def leave(self) -> None:
        """Want it no more: nobody will see it."""
        self.cancel()

    def state(self) -> JobState:
        """Return what a line shows of it now; who wants it no more need not wait."""
        if self.is_cancelled:
            return JobState(self.title, outcome="cancelled")
        return self._ended() if self.is_done else self._under_way()

    def _under_way(self) -> JobState:
        return JobState(self.title, detail=self.UNDER_WAY)

    def _ended(self) -> JobState:
        if self.error is not None:
            hint = f" ({self.error.hint})" if self.error.hint else ""
            return JobState(self.title, outcome="failed", detail=f"{self.error}{hint}")
        return JobState(self.title, outcome="ok")

    def _work(self) -> None:
        try:
            self.found.append(self._do())
        except RunDirError as error:
            self.error = error
        except OSError as error:
            where = "" if error.filename is None else f"`{error.filename}`: "
            self.error = RunDirError(f"{where}{error.strerror or error}")
        except Exception as error:  # noqa: BLE001 - a thread that ends without a word is never seen
            self.error = RunDirError(f"{type(error).__name__}: {error}")
