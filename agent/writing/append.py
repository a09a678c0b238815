"""Append lines to a file, through a descriptor whose number never changes.

Other threads write to the number without asking, at any moment. So the file
behind it is exchanged by `dup2`, in one step, and the number is given back only
with the object: a freed one might already be somebody's checkpoint when a late
write arrives.
"""

import contextlib
import errno
import os
from pathlib import Path

# Non-blocking for what may lie at the path instead of a file: a FIFO, a device.
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK


class AppendFile:
    """The end of one file, and later of the next one."""

    fd: int = -1
    """Where to write; below 0: no file was opened yet."""
    path: Path | None = None
    is_torn: bool = False
    """The last line has no newline; the next write should begin with one."""

    def __init__(self) -> None:
        self._size_at_open = 0
        self._bytes_before = 0
        self._device: int | None = None
        """Of the directory in which a file was opened last."""

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    @property
    def size(self) -> int:
        """Bytes in the file that is written now."""
        return os.fstat(self.fd).st_size if self.fd >= 0 else 0

    @property
    def num_bytes(self) -> int:
        """Written through this object, to all its files; a device counts nothing."""
        return self._bytes_before + max(0, self.size - self._size_at_open)

    def open(self, path: Path, *, first_line: bytes = b"") -> None:
        """Write to `path` from now on; directories are made, a file continued.

        Args:
            path: A new file or one of our own.
            first_line: What a new or empty file begins with, newline included.

        Raises:
            OSError: it cannot be opened; writes go where they went.
        """
        self._make(path.parent)
        opened = os.open(path, _FLAGS, 0o666)
        try:
            size = os.fstat(opened).st_size
            device = path.parent.stat().st_dev
            is_torn = size > 0 and os.pread(opened, 1, size - 1) != b"\n"
            if first_line and size == 0:
                is_torn = 0 < os.write(opened, first_line) < len(first_line)
            before = self.num_bytes
            if self.fd >= 0:
                os.dup2(opened, self.fd, inheritable=False)
            else:
                self.fd, opened = opened, -1
        finally:
            if opened >= 0:
                os.close(opened)
        self.path, self.is_torn, self._device = path, is_torn, device
        self._bytes_before, self._size_at_open = before, size

    def _make(self, directory: Path) -> None:
        """Make a directory again, but not in the place of a disk that is gone.

        What would be written below its mount point would be hidden by its return.

        Raises:
            OSError: it cannot be made.
        """
        if self._device is not None and not directory.exists():
            above = next(place for place in directory.parents if place.exists())
            is_other = above.stat().st_dev != self._device
            # One that came back empty is mounted there; `/` always is.
            if is_other and (above == Path("/") or not above.is_mount()):
                raise OSError(errno.ENODEV, "its disk is not there", str(directory))
        directory.mkdir(parents=True, exist_ok=True)

    def is_in_place(self) -> bool:
        """Whether what is written can still be found at the path.

        A file that was unlinked or moved takes writes without an error.
        """
        if self.path is None or self.fd < 0:
            return False
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self.fd))
        except OSError:
            return False

    def retire(self) -> None:
        """Let later writes vanish; the file is complete, or another process's."""
        self._bytes_before, self._size_at_open = self.num_bytes, 0
        self.path = None
        if self.fd < 0:
            return
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(nowhere, self.fd, inheritable=False)
            os.close(nowhere)
