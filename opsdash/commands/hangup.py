"""Leave when the terminal is gone, whatever still waits to write to it.

Textual writes from a thread that ends with the terminal, and whoever hands it
more waits for ever; a signal's handler is no help, for it runs between two
steps of that waiting loop. A window that was closed must not leave a process.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable

_GRACE_S = 3.0
"""For the ordinary way out, which SIGHUP begins."""


def leave_with_terminal(fd: int, last: Callable[[], None] | None = None) -> None:
    """End this process soon after its terminal went; `last` is called before."""
    threading.Thread(
        target=_watch, args=(fd, last), name="opsdash-hangup", daemon=True
    ).start()


def _watch(fd: int, last: Callable[[], None] | None) -> None:
    terminal = select.poll()
    terminal.register(fd, 0)  # a hang-up is told without being asked for
    terminal.poll()
    time.sleep(_GRACE_S)
    try:
        if last is not None:
            last()
    finally:
        os._exit(128 + signal.SIGHUP)
