"""Which process is meant, so that a reused pid is never taken for it.

A pid alone lies after a crash or a reboot. Host, boot, pid namespace, pid and
the process's start time together do not.
"""

import getpass
import os
import socket
from enum import StrEnum
from functools import cache
from pathlib import Path

import msgspec

_STAT_BYTES = 4_096
"""More than /proc/<pid>/stat ever has: its command is cut at 16 characters."""
_START_TIME_FIELD = 19
"""Of /proc/<pid>/stat, counted after the command's closing bracket."""


def user_at_host() -> str:
    """Return who runs this process, for others to read.

    A container may run under a number that has no name; the number is told then.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        user = str(os.geteuid())
    return f"{user}@{socket.gethostname()}"


class Liveness(StrEnum):
    """What can be said from here about a process."""

    ALIVE = "alive"
    DEAD = "dead"
    UNKNOWN = "unknown"
    """It runs, or ran, where this process cannot look."""


class ProcessId(msgspec.Struct, frozen=True, kw_only=True):
    """One process on one boot of one host."""

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    pid_start: int
    """Clock ticks since boot."""


def this_process() -> ProcessId:
    """Describe the calling process."""
    pid = os.getpid()
    return ProcessId(
        host=socket.gethostname(),
        boot_id=boot_id(),
        pid_namespace=_pid_namespace(),
        pid=pid,
        pid_start=start_ticks(pid) or 0,
    )


def liveness(process: ProcessId) -> Liveness:
    """Say whether a process runs; another host's is never presumed dead."""
    if process.host != socket.gethostname():
        return Liveness.UNKNOWN
    if process.boot_id != boot_id():
        return Liveness.DEAD
    if process.pid_namespace != _pid_namespace():
        return Liveness.UNKNOWN
    if start_ticks(process.pid) != process.pid_start:
        return Liveness.DEAD
    return Liveness.ALIVE


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None: it is gone.

    A zombie is gone: it holds no lock and writes nothing.
    """
    if pid <= 0:
        return None
    try:
        # Not by way of a text file, which takes thrice as long: a screen asks
        # after every rank once a second.
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        stat = os.read(fd, _STAT_BYTES)
    except OSError:
        return None
    finally:
        os.close(fd)
    fields = stat.rpartition(b")")[2].split()
    if len(fields) <= _START_TIME_FIELD or fields[0] in (b"Z", b"X"):
        return None
    return int(fields[_START_TIME_FIELD])


@cache
def boot_id() -> str:
    """Return the id of this boot; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@cache
def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


# A child may be born into another one than its parent's.
os.register_at_fork(after_in_child=_pid_namespace.cache_clear)
