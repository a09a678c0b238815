"""One piece of work in a thread, whose result or error is asked for later."""

import threading
from collections.abc import Callable


class Background:
    """Runs a function at once. Made and asked by the same thread."""

    def __init__(self, work: Callable[[], str]) -> None:
        """Begin; what `work` raises is kept for `result`."""
        self._work = work
        self._text = ""
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="checkpoint-save")
        self._thread.start()

    @property
    def has_ended(self) -> bool:
        """Whether `result` would return at once."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def result(self) -> str:
        """Wait for the end; return what the function did, or raise what it did."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._text

    def _run(self) -> None:
        try:
            self._text = self._work()
        except BaseException as error:  # noqa: BLE001 - a thread boundary: kept for `result`
            self._error = error
