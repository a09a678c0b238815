"""Read small files that nobody but this user can have written.

What is obeyed has to come from the run's own user: a regular file, owned by
the caller, writable by nobody else, of a sane size. Symlinks are not followed
and nothing blocks, whatever lies at the name.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.rundir.errors import RunDirError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ForeignFileError(RunDirError):
    """Somebody else may have written it; what it says is not to be obeyed."""


def open_own_directory(path: Path) -> int:
    """Return a descriptor of a directory in which only this user can write.

    Raises:
        ForeignFileError: it is another user's, or others may write in it.
        FileNotFoundError: there is none.
        OSError: it is a symlink or no directory, or cannot be opened.
    """
    fd = os.open(path, _DIRECTORY)
    reason = _why_foreign(os.fstat(fd))
    if reason is None:
        return fd
    os.close(fd)
    raise ForeignFileError(reason, hint=f"ls -ld {path}")


@contextmanager
def opened_directory(path: Path) -> Iterator[int]:
    """Open a directory, whoever owns it, for the length of a block.

    Raises:
        OSError: there is none, or it is a symlink, or it cannot be opened.
    """
    fd = os.open(path, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def read_own_file(directory: int, name: str, max_bytes: int) -> bytes:
    """Return a file's content.

    Args:
        directory: Descriptor of the directory that holds it.
        name: Of the file.
        max_bytes: A larger file is refused before it is read.

    Raises:
        ForeignFileError: it is anything but a small regular file of this user.
        FileNotFoundError: there is none.
    """
    try:
        fd = os.open(name, _FILE, dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError as error:
        # ELOOP is a symlink, ENXIO a socket.
        raise ForeignFileError(f"it cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        reason = _why_foreign(found)
        if reason is None and not stat.S_ISREG(found.st_mode):
            reason = "it is not a regular file"
        if reason is None and found.st_size > max_bytes:
            reason = f"it has {found.st_size} bytes, more than {max_bytes}"
        if reason is not None:
            raise ForeignFileError(reason)
        return os.read(fd, max_bytes)
    finally:
        os.close(fd)


def _why_foreign(found: os.stat_result) -> str | None:
    if found.st_uid != os.geteuid():
        return f"it belongs to user {found.st_uid}, not to user {os.geteuid()}"
    if found.st_mode & _OTHERS_WRITE:
        return "it can be written by others"
    return None
