"""Progress out and cancellation in, while a verification runs.

Both callbacks are called from the thread that called `verify_path`, so that
they need no locks of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[int, int], None]
IsCancelled = Callable[[], bool]


class VerifyCancelled(Exception):  # noqa: N818 - an outcome asked for, not an error
    """The caller asked to stop; there is no verdict."""


@dataclass
class Watch:
    """What the caller wants to know and to decide while bytes are read."""

    total_bytes: int = 0
    progress: Progress | None = None
    is_cancelled: IsCancelled | None = None
    _done_bytes: int = 0

    def advance(self, num_bytes: int) -> None:
        """Count bytes as read, tell the caller, and stop if it asks.

        Raises:
            VerifyCancelled: the caller has had enough.
        """
        self._done_bytes += num_bytes
        if self.progress is not None:
            self.progress(min(self._done_bytes, self.total_bytes), self.total_bytes)
        self.check()

    def check(self) -> None:
        """Raise VerifyCancelled if the caller asks to stop."""
        if self.is_cancelled is not None and self.is_cancelled():
            raise VerifyCancelled
