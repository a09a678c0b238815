"""Lines that wait in memory while a file system blocks.

Whoever has a line puts it here and goes on; a thread of its own writes them in
order, and ends when none is left and the last write was fast again. Nothing
here takes a lock that a signal handler could meet: `SimpleQueue.put` may be
re-entered, the thread is started below `threading`, and the counters are
changed by single operations, which CPython does not interrupt.
"""

import _thread
from collections.abc import Callable
from queue import Empty, SimpleQueue

MAX_LINES = 10_000
MAX_BYTES = 4 << 20


class Backlog:
    """A bounded queue of lines in front of something that may block."""

    is_open: bool = False
    """Lines have to go through here, or they would overtake those that wait."""
    num_lines: int = 0
    num_bytes: int = 0

    def __init__(
        self,
        write: Callable[[bytes], bool],
        *,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Make a closed one.

        Args:
            write: Writes a line, never raises; False: it took long.
            max_lines: Lines that may wait.
            max_bytes: Their bytes.
        """
        self._write = write
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._permit = [True]
        """Whoever pops it may start the thread; a pop is atomic, a flag is not."""

    @property
    def is_half_full(self) -> bool:
        """Whether a line that may as well be written later should be."""
        return (
            self.num_lines * 2 >= self._max_lines
            or self.num_bytes * 2 >= self._max_bytes
        )

    def open(self) -> None:
        """Write through the thread from now on, until writes are fast again."""
        try:
            self._permit.pop()
        except IndexError:
            return
        self.is_open = True
        try:
            _thread.start_new_thread(self._drain, ())
        except RuntimeError:
            # No thread to be had, e.g. while the interpreter ends.
            self._close()

    def put(self, line: bytes) -> bool:
        """Leave a line here; False: there is no room, it is not taken."""
        size = len(line)
        if self.num_lines >= self._max_lines or self.num_bytes + size > self._max_bytes:
            return False
        self.num_lines += 1
        self.num_bytes += size
        self._queue.put(line)
        if not self.is_open:
            # The thread may have looked just before the line was there.
            self._sweep()
        return True

    def stop(self) -> None:
        """End the thread once it has written what is here."""
        self._queue.put(None)

    def _drain(self) -> None:
        line = self._queue.get()
        while line is not None:
            was_fast = self._take_out(line)
            if was_fast and self.num_lines == 0:
                break
            line = self._queue.get()
        self._close()

    def _close(self) -> None:
        self.is_open = False
        self._permit.append(True)
        self._sweep()

    def _sweep(self) -> None:
        while True:
            try:
                line = self._queue.get_nowait()
            except Empty:
                return
            if line is not None:
                self._take_out(line)

    def _take_out(self, line: bytes) -> bool:
        was_fast = self._write(line)
        size = len(line)
        self.num_lines -= 1
        self.num_bytes -= size
        return was_fast
