"""Read telemetry by windows: pieces of a segment that end where a line does.

Only plain files are read; whatever else lies at the name is an error, never a
wait.
"""

import os
import stat
from pathlib import Path

WINDOW_BYTES = 256 << 10
"""What one block of a roll-up stands for, before blocks are merged."""

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_plain(path: Path) -> int:
    """Return a descriptor of a plain file.

    Raises:
        FileNotFoundError: there is none.
        OSError: it is something else, or cannot be read.
    """
    fd = os.open(path, _FLAGS)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(f"`{path}` is not a plain file")


def read_window(path: Path, begin: int, *, limit: int, is_final: bool) -> bytes:
    """Return whole lines from `begin` on, at most `limit` bytes.

    Args:
        path: A segment.
        begin: Where a line begins, bytes.
        limit: More than a line has; of a longer one a part is returned.
        is_final: Nobody writes there any more: also return what is less than
            `limit`, a torn last line included. Otherwise that is empty.

    Raises:
        OSError: it cannot be read.
    """
    fd = open_plain(path)
    try:
        data = os.pread(fd, limit, begin)
    finally:
        os.close(fd)
    if len(data) < limit:
        return data if is_final else b""
    return data[: data.rfind(b"\n") + 1] or data
