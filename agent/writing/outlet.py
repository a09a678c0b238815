"""Lines into a process's newest segment: directly, or through memory.

A line is written by the thread that has it while the file system answers. After
a write that took longer than the limit, lines wait in a bounded backlog until
writes are fast again. `fd` is for the fast path and is below 0 whenever
something has to be looked at first; everything that sets it so is recorded
before, so that no thread can undo it unseen.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.writing.backlog import Backlog
from agent.writing.segments import SegmentWriter


class Outlet:
    """Where one process's telemetry goes."""

    fd: int = -1
    """Write here and `judge`; below 0: use `deliver`."""

    def __init__(
        self, folder: Path, stem: str, *, slow_ns: int, on_lost: Callable[[str], None]
    ) -> None:
        """Name the files; `open` opens one.

        Args:
            folder: Of the attempt.
            stem: Of the process.
            slow_ns: A write that takes so long makes the next ones wait in memory.
            on_lost: Told why a line that had been taken could not be written.
        """
        self.slow_ns = slow_ns
        self.file = SegmentWriter(folder, stem)
        self._backlog = Backlog(self._write_waiting)
        self._on_lost = on_lost
        self._canary_since_ns = 0
        self._is_held = False
        self._is_closed = False
        self._why_not_open = "it was not opened"

    @property
    def num_waiting(self) -> int:
        """Lines in memory."""
        return self._backlog.num_lines

    @property
    def is_waiting(self) -> bool:
        """Whether the next line has to wait in memory."""
        since_ns = self._canary_since_ns
        return self._backlog.is_open or (
            since_ns > 0 and time.monotonic_ns() - since_ns > self.slow_ns
        )

    @property
    def is_crowded(self) -> bool:
        """Whether a line that can be spared should be."""
        return self.is_waiting and self._backlog.is_half_full

    def open(self) -> None:
        """Go on in the newest segment of this process.

        Raises:
            OSError: it cannot be opened.
        """
        try:
            self.file.begin()
        except OSError as error:
            self._why_not_open = str(error)
            raise
        self._settle()

    def open_next(self, first_line: bytes) -> None:
        """Go on in another segment.

        Raises:
            OSError: it cannot be opened; lines go where they went.
        """
        self.file.begin_next(self.file.segment + 1, first_line)
        self._settle()

    def deliver(self, line: bytes) -> bool:
        """Write a line, or leave it with those that wait; False: no room there.

        Raises:
            OSError: it cannot be written.
        """
        if self.is_waiting:
            self._begin_to_wait()
            return self._backlog.put(line)
        self._write_now(line)
        self._settle()
        return True

    def judge(self, written: int, size: int, took_ns: int) -> bool:
        """Act on a write to `fd` that was not as it should be; False: it is torn."""
        if took_ns >= self.slow_ns:
            self._begin_to_wait()
        if written == size:
            return True
        self.file.is_torn, self.fd = True, -1
        return False

    def hold(self, *, is_held: bool = True) -> None:
        """Keep everybody off the fast path, or allow it again."""
        self._is_held = is_held
        if is_held:
            self.fd = -1
        else:
            self._settle()

    @contextmanager
    def canary(self) -> Iterator[None]:
        """Surround a write that may hang: while it does, other lines wait in memory."""
        self._canary_since_ns, self.fd = time.monotonic_ns(), -1
        try:
            yield
        finally:
            self._canary_since_ns = 0
            self._settle()

    def close(self, *, patience_s: float) -> None:
        """Give what waits so long to be written; later lines vanish."""
        give_up = time.monotonic() + patience_s
        while self._backlog.is_open and time.monotonic() < give_up:
            time.sleep(0.01)
        self._backlog.stop()
        self.leave()

    def leave(self) -> None:
        """Let later lines vanish, at once."""
        self._is_closed, self.fd = True, -1
        self.file.retire()

    def _begin_to_wait(self) -> None:
        self._backlog.open()
        self.fd = -1

    def _write_now(self, line: bytes) -> int:
        """Write wherever the file ends; return how long it took, ns."""
        file = self.file
        if file.fd < 0:
            raise OSError(f"the telemetry file is not open: {self._why_not_open}")
        if file.is_torn:
            line = b"\n" + line
        began_ns = time.monotonic_ns()
        written = os.write(file.fd, line)
        took_ns = time.monotonic_ns() - began_ns
        file.is_torn = written < len(line)
        if took_ns >= self.slow_ns:
            self._begin_to_wait()
        if file.is_torn:
            raise OSError(f"wrote {written} of {len(line)} bytes")
        return took_ns

    def _write_waiting(self, line: bytes) -> bool:
        try:
            return self._write_now(line) < self.slow_ns
        except OSError as error:
            self._on_lost(str(error))
            return True

    def _settle(self) -> None:
        """Allow the fast path, if nothing speaks against it."""
        if self._must_look():
            return
        self.fd = self.file.fd
        # Another thread may have found something between the two lines above.
        if self._must_look():
            self.fd = -1

    def _must_look(self) -> bool:
        return (
            self._is_held
            or self._is_closed
            or self.file.is_torn
            or self._backlog.is_open
            or self._canary_since_ns > 0
        )
