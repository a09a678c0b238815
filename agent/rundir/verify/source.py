"""One file, opened so that nothing it does can hang, kill or fool the reader.

Reading is by `pread` only: a mapped file that shrinks kills the process with
SIGBUS, a read one comes up short, and short is a verdict. FIFOs and devices
are recognised before they are opened; whether the file changed between the
first and the last look is asked at the end.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFDIR: "a directory",
}


class NotReadableError(Exception):
    """The file cannot be looked at; the text says why, without its name.

    Attributes:
        is_absent: there is no regular file of that name, so none is hidden by a
            lack of permission either.
    """

    def __init__(self, why: str, *, is_absent: bool = False) -> None:
        super().__init__(why)
        self.is_absent = is_absent


class EndsEarlyError(Exception):
    """The file ended, or was cut, before what had to be read.

    Attributes:
        offset: where the bytes ran out.
    """

    def __init__(self, offset: int) -> None:
        super().__init__(f"the file ends at byte {offset}")
        self.offset = offset


@dataclass(frozen=True)
class Source:
    """An open regular file."""

    name: str
    """What findings call it."""
    fd: int
    size: int
    """Bytes when it was opened."""
    mtime_ns: int

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Return exactly these bytes.

        Raises:
            EndsEarlyError: the file has fewer.
            NotReadableError: the disk cannot deliver them.
        """
        pieces = []
        while num_bytes > 0:
            try:
                piece = os.pread(self.fd, num_bytes, offset)
            except OSError as error:
                raise _io_failure(error, offset) from error
            if not piece:
                raise EndsEarlyError(offset)
            pieces.append(piece)
            offset += len(piece)
            num_bytes -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_up_to(self, offset: int, num_bytes: int) -> bytes:
        """Return these bytes, or as many as the file has from `offset` on."""
        return self.read(offset, max(0, min(num_bytes, self.size - offset)))

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`; raises as `read` does."""
        while buffer:
            try:
                num_read = os.preadv(self.fd, [buffer], offset)
            except OSError as error:
                raise _io_failure(error, offset) from error
            if not num_read:
                raise EndsEarlyError(offset)
            buffer = buffer[num_read:]
            offset += num_read

    def changed(self) -> bool:
        """Whether size or modification time differ from when it was opened."""
        now = os.fstat(self.fd)
        return (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns)


@contextmanager
def open_source(path: Path, name: str) -> Iterator[Source]:
    """Open a regular file for the time of a `with` block.

    Raises:
        NotReadableError: it is missing, forbidden, or not a regular file.
    """
    fd = _open_regular(path)
    try:
        now = os.fstat(fd)
        yield Source(name, fd, now.st_size, now.st_mtime_ns)
    finally:
        os.close(fd)


def _open_regular(path: Path) -> int:
    try:
        # Before opening: opening a device can rewind a tape or wait for a peer.
        _require_regular(path.stat().st_mode)
        # Non-blocking, for the name may have become a FIFO since.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        absent = isinstance(error, FileNotFoundError)
        raise NotReadableError(reason(error), is_absent=absent) from error
    except ValueError as error:  # a NUL byte in the name
        raise NotReadableError(str(error)) from error
    try:
        _require_regular(os.fstat(fd).st_mode)
    except NotReadableError:
        os.close(fd)
        raise
    return fd


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise NotReadableError(f"it is {kind}", is_absent=True)


def _io_failure(error: OSError, offset: int) -> NotReadableError:
    return NotReadableError(f"byte {offset} cannot be read: {reason(error)}")


def reason(error: OSError) -> str:
    """Return an operating system error in a few lower-case words."""
    if error.errno == errno.ENOENT:
        return "there is no such file"
    return (error.strerror or str(error)).lower()
