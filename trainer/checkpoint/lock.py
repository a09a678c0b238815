"""One process at a time publishes into `checkpoints/`, and is known by name.

`run.lock` keeps a second trainer out; this one keeps out whoever else writes
there for a moment: a pin, a repair, a second server of our own making.
"""

import contextlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from agent.rundir.checkpoints import DOOMED_PREFIX, PARTIAL_PREFIX
from agent.rundir.errors import LockedError
from agent.rundir.layout import RunDir
from agent.rundir.process import Liveness, ProcessId, liveness, this_process

OWNER_NAME = "owner.json"
"""In a partial directory: the process that writes it."""
_LOCK_NAME = ".publish.lock"
_HOLDER_NAME = ".publish.holder"
WAIT_S = 30.0
"""A pin takes milliseconds; whoever holds it longer is named."""


@contextlib.contextmanager
def publishing(run: RunDir, *, wait_s: float = WAIT_S) -> Iterator[None]:
    """Be the only one who changes what is published, for the length of a block.

    Raises:
        LockedError: another process is, and stays; it is named.
        OSError: the directory cannot be written.
    """
    holder = run.checkpoints / _HOLDER_NAME
    lock = FileLock(run.checkpoints / _LOCK_NAME, timeout=wait_s)
    try:
        lock.acquire()
    except Timeout as error:
        raise LockedError(
            f"`{run.checkpoints}` is being written by {_who(holder)}",
            hint=f"opsdash status {run.path}",
        ) from error
    try:
        # Beside the lock: taking a lock may truncate the file that is locked. A
        # courtesy: on a full disk nobody is named, and room can still be made.
        with contextlib.suppress(OSError):
            holder.write_bytes(msgspec.json.encode(this_process()))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def clean_partials(run: RunDir) -> list[str]:
    """Remove what dead processes left half written; call it under `publishing`.

    A partial whose owner lives, or runs where we cannot look, is left alone.

    Returns:
        The names that were removed.
    """
    removed = []
    for path in run.checkpoints.iterdir():
        if path.name.startswith(DOOMED_PREFIX) or (
            path.name.startswith(PARTIAL_PREFIX) and _is_abandoned(path)
        ):
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    return removed


def make_partial(run: RunDir, name: str) -> Path:
    """Make a directory that nobody else writes into; call it under `publishing`.

    One that a process on another host left behind may be anybody's: it stays,
    and the next free name is taken.

    Raises:
        LockedError: a process of this host writes under that name.
    """
    wanted = run.checkpoints / (PARTIAL_PREFIX + name)
    partial = wanted
    for number in itertools.count(2):
        try:
            partial.mkdir()
        except FileExistsError:
            _refuse_if_alive(partial)
            partial = wanted.with_name(f"{wanted.name}.{number}")
        else:
            return partial
    raise AssertionError("numbers do not end")


def is_alive(partial: Path) -> bool:
    """Whether a process of this host is writing into a partial directory."""
    owner = _read_process(partial / OWNER_NAME)
    return owner is not None and liveness(owner) is Liveness.ALIVE


def _refuse_if_alive(partial: Path) -> None:
    if is_alive(partial):
        raise LockedError(
            f"`{partial}` is being written by {_who(partial / OWNER_NAME)}",
            hint=f"cat {partial / OWNER_NAME}; if it is gone: rm -r {partial}",
        )


def _is_abandoned(partial: Path) -> bool:
    """Whether nobody will go on writing.

    Without an owner it is abandoned too: the owner is the first thing in and
    the last thing out, and whoever is between those holds the lock.
    """
    owner = _read_process(partial / OWNER_NAME)
    if owner is None:
        return True
    return liveness(owner) is Liveness.DEAD or owner == this_process()


def _who(holder: Path) -> str:
    process = _read_process(holder)
    if process is None:
        return "another process"
    return f"process {process.pid} on `{process.host}`"


def _read_process(path: Path) -> ProcessId | None:
    try:
        return msgspec.json.decode(path.read_bytes()[:4096], type=ProcessId)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
