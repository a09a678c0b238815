"""End when whoever started this process is gone, or asks for it.

A launcher keeps the other end of a pipe. However it dies, the pipe closes, and
no process of a run outlives it.
"""

import asyncio
import os
import signal
from collections.abc import Callable

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stops:
    """Turns signals and a closed pipe into one call, in the event loop."""

    def __init__(self, on_stop: Callable[[], None], lifeline_fd: int | None) -> None:
        """Watch from now on. Call it inside the loop of the main thread."""
        self.signal: int | None = None
        """Which signal asked; None: none did."""
        self._on_stop = on_stop
        self._loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            self._loop.add_signal_handler(number, self._signalled, number)
        if lifeline_fd is not None:
            self._loop.add_reader(lifeline_fd, self._orphaned, lifeline_fd)

    def _signalled(self, number: int) -> None:
        self.signal = self.signal or number
        self._on_stop()

    def _orphaned(self, lifeline_fd: int) -> None:
        if not os.read(lifeline_fd, 1):
            self._loop.remove_reader(lifeline_fd)
            self._signalled(signal.SIGTERM)
