"""`run.lock`: two trainers never run on one directory.

The file names its holder. Taking it is decided under a short `flock` on that
very file, so that of two starts exactly one wins; the flock is not the lock,
because it would not tell who holds it and is inherited by forked workers. A
holder whose process is gone is replaced; one on another host is not, because
nobody here can know.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.rundir.errors import LockedError
from agent.rundir.process import Liveness, ProcessId, liveness, this_process
from agent.rundir.reading import read_regular

_MAX_BYTES = 64 << 10
_READ_TRIES = 20
_READ_PAUSE_S = 0.01


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs on the directory."""

    process: ProcessId
    attempt: int
    taken_ns: int
    """Wall clock, Unix ns."""
    launch_id: str = ""
    """What the ranks of one start have in common; they find their attempt by it."""


_held_here: set[Holder] = set()
"""What this program took; `exec` puts another in its place, under the same pid."""


class LockView(NamedTuple):
    """What a reader sees."""

    holder: Holder
    liveness: Liveness


def read_lock(path: Path) -> LockView | None:
    """Return who holds the lock; None where nobody does.

    A file caught between two writes of a taker is read again; one that stays
    unreadable names no holder.
    """
    for _ in range(_READ_TRIES):
        try:
            data = read_regular(path, _MAX_BYTES)
        except OSError:
            return None
        holder = _decode(data)
        if holder is not None:
            return LockView(holder, liveness(holder.process))
        time.sleep(_READ_PAUSE_S)
    return None


def take_lock(
    path: Path, attempt: int, *, launch_id: str = "", force: bool = False
) -> Holder:
    """Become the holder.

    Args:
        path: `run.lock` of the run.
        attempt: The attempt that this process begins.
        launch_id: What this start's ranks have in common.
        force: Take it from a holder on another host, which is for an operator
            to decide who knows that it is gone.

    Raises:
        LockedError: somebody holds it, or may hold it.
        OSError: the directory cannot be written.
    """
    with _decided(path) as fd:
        found = _decode(os.pread(fd, _MAX_BYTES, 0))
        if found is not None:
            _refuse_unless_free(path, found, force=force)
        holder = Holder(
            process=this_process(),
            attempt=attempt,
            taken_ns=time.time_ns(),
            launch_id=launch_id,
        )
        _overwrite(fd, msgspec.json.encode(holder) + b"\n")
    _held_here.add(holder)
    return holder


def release_lock(path: Path, holder: Holder) -> None:
    """Give the lock back if it is still ours; a lock that passed on stays."""
    _held_here.discard(holder)
    with contextlib.suppress(OSError), _decided(path, is_made=False) as fd:
        if _decode(os.pread(fd, _MAX_BYTES, 0)) == holder:
            path.unlink()


def hold_again(path: Path, holder: Holder) -> bool:
    """Write a lock again whose file was removed; False: another one holds it now.

    Raises:
        OSError: the directory cannot be written.
    """
    with _decided(path) as fd:
        found = _decode(os.pread(fd, _MAX_BYTES, 0))
        if found is None:
            _overwrite(fd, msgspec.json.encode(holder) + b"\n")
        return found in (None, holder)


def _refuse_unless_free(path: Path, holder: Holder, *, force: bool) -> None:
    if holder.process == this_process() and holder not in _held_here:
        return  # the program that this process ran before
    state = liveness(holder.process)
    process = holder.process
    who = f"process {process.pid} on `{process.host}` (attempt {holder.attempt})"
    if state is Liveness.ALIVE:
        raise LockedError(
            f"`{path.parent}` is in use by {who}",
            hint=f"opsdash attach {path.parent}",
        )
    if state is Liveness.UNKNOWN and not force:
        raise LockedError(
            f"`{path.parent}` may be in use by {who}, which cannot be seen from here",
            hint=f"ssh {process.host} ps -p {process.pid}; if it is gone: rm {path}",
        )


@contextlib.contextmanager
def _decided(path: Path, *, is_made: bool = True) -> Iterator[int]:
    """Hold the flock on the file that is at `path` now, made there if need be."""
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if is_made else 0)
    while True:
        fd = os.open(path, flags, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _is_same_file(fd, path):
                yield fd
                return
        finally:
            os.close(fd)


def _is_same_file(fd: int, path: Path) -> bool:
    """Whether nobody unlinked the file while this process waited for it."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except OSError:
        return False


def _overwrite(fd: int, data: bytes) -> None:
    """Write in place: a rename would take the file away from under the flock."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    os.fsync(fd)


def _decode(data: bytes) -> Holder | None:
    try:
        return msgspec.json.decode(data, type=Holder)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
