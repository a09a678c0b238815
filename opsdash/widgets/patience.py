"""Stop an expression that would never end, from inside the thread that runs it.

A regular expression that backtracks holds the interpreter, so no other thread
can stop it; but it looks for signals now and then. The timer counts this
process's own CPU time and has a signal that nothing else here uses. Outside the
main thread there is no such way: there the block runs unbounded.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class OutOfPatienceError(Exception):
    """The block took more than it may."""


@contextlib.contextmanager
def patience(cpu_s: float) -> Iterator[None]:
    """Raise `OutOfPatienceError` in a block that computes for longer than this.

    Args:
        cpu_s: CPU time of this process, seconds.

    Raises:
        OutOfPatienceError: it took longer; what it did half is the caller's.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    is_over = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if not is_over:
            raise OutOfPatienceError

    before = signal.signal(signal.SIGVTALRM, interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        yield
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
