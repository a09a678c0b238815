"""Read small files of a run directory that somebody else may have put there.

A FIFO in place of a file must not hold the reader, and a huge one must not fill
its memory: both are as if the file were not what its name says.
"""

import os
import stat
from pathlib import Path


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return at most `max_bytes` of a regular file, without ever waiting.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(None, "not a regular file", str(path))
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(max_bytes)
    finally:
        os.close(fd)
