"""Follow an append-only line file across torn writes and replacement.

A `Tail` is a cursor, not a thread: `read` returns what is new and never
waits. Whoever owns the clock decides when to call it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

READ_LIMIT_BYTES = 1 << 20
"""Most bytes that one call reads, and the longest line that is a line."""


@dataclass
class Tail:
    """A position in one file, always at the start of a line or inside a giant."""

    path: Path
    offset: int = 0
    """Where the next read begins, in bytes."""
    num_overlong: int = 0
    """Lines longer than READ_LIMIT_BYTES: skipped, counted, shown."""
    _file_id: tuple[int, int] | None = None
    _is_skipping: bool = False

    def read(self) -> bytes:
        """Return the next whole lines, newlines included; empty: nothing new.

        A line still being written stays on disk until its newline arrives, so
        every line is returned once and whole. At most READ_LIMIT_BYTES are
        returned per call: call again until the result is empty. A missing
        file has no lines yet; a truncated or replaced file starts over.

        Raises:
            OSError: the file exists but cannot be read.
        """
        while True:
            data = self._read_block()
            whole, newline, _torn = data.rpartition(b"\n")
            if self._is_skipping:
                if not self._skip(data):
                    return b""
                continue
            if newline:
                self.offset += len(whole) + 1
                return whole + newline
            if len(data) < READ_LIMIT_BYTES:
                return b""
            self.num_overlong += 1
            self._is_skipping = True

    @property
    def is_replaced(self) -> bool:
        """Whether another file lies at the path now, or a shorter one."""
        try:
            stat = self.path.stat()
        except OSError:
            return False
        return self._file_id is not None and (
            (stat.st_dev, stat.st_ino) != self._file_id or stat.st_size < self.offset
        )

    def _read_block(self) -> bytes:
        try:
            # A FIFO or a device in place of the log must not block the reader.
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            stat = os.fstat(fd)
            self._start_over_if_replaced(stat)
            # No more than is there: a megabyte of memory is not had for nothing.
            size = min(READ_LIMIT_BYTES, stat.st_size - self.offset)
            return os.pread(fd, max(size, 0), self.offset)
        finally:
            os.close(fd)

    def _skip(self, data: bytes) -> bool:
        """Pass over the rest of a giant line; False: its end is not there yet."""
        head, newline, _ = data.partition(b"\n")
        self.offset += len(head) + len(newline)
        self._is_skipping = not newline
        return bool(data)

    def _start_over_if_replaced(self, stat: os.stat_result) -> None:
        file_id = (stat.st_dev, stat.st_ino)
        if file_id != self._file_id or stat.st_size < self.offset:
            if self._file_id is not None:
                self.offset = 0
            self._file_id, self._is_skipping = file_id, False
