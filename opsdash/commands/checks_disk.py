"""What the disk under a run is: its kind, its room, how fast it makes durable."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from opsdash import units
from opsdash.commands.checks import Check, Mark
from opsdash.feed.mounts import file_system_type, tells_of_changes
from opsdash.projections.ranks import CLOCK_SKEW_NS

_NUM_SYNCS = 8
_BLOCK = b"\0" * 4096
_SLOW_SYNC_NS = 50_000_000
_LEAST_FREE_FRAC = 0.05


def check_disk(path: Path) -> Iterator[Check]:
    """Look at the file system that holds a path; leaves nothing behind."""
    kind = file_system_type(path) or "not known"
    if tells_of_changes(path):
        yield Check(Mark.OK, "file system", f"{kind}: it tells of changes")
    else:
        yield Check(
            Mark.NOTE,
            "file system",
            f"{kind}: it tells of no changes made elsewhere; looked at once a second",
        )
    yield _room(path)
    yield _sync_speed(path)
    yield from _clock(path)


def _room(path: Path) -> Check:
    try:
        found = os.statvfs(path)
    except OSError as error:
        return Check(Mark.WARN, "room", f"cannot be asked: {error.strerror}")
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    is_low = total > 0 and free < _LEAST_FREE_FRAC * total
    return Check(
        Mark.WARN if is_low else Mark.OK,
        "room",
        f"{units.byte_size(free)} of {units.byte_size(total)} free",
        "a save that does not fit is refused" if is_low else "",
    )


def _sync_speed(path: Path) -> Check:
    """Time fsync on a file without a name: nothing appears in the directory."""
    try:
        fd = os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except (OSError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Check(Mark.NOTE, "fsync", f"cannot be timed here: {reason}")
    try:
        times = [_timed_sync(fd) for _ in range(_NUM_SYNCS)]
    except OSError as error:
        return Check(Mark.WARN, "fsync", f"fails: {error.strerror}", "check the disk")
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
    typical_ns = sorted(times)[len(times) // 2]
    is_slow = typical_ns > _SLOW_SYNC_NS
    return Check(
        Mark.WARN if is_slow else Mark.OK,
        "fsync",
        f"{units.duration(typical_ns)} for 4 KiB",
        "each checkpoint waits for several of them" if is_slow else "",
    )


def _clock(path: Path) -> Iterator[Check]:
    """Compare the file system's clock with this host's: ages are told by both."""
    try:
        fd = os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except (OSError, AttributeError):
        return  # told already: it cannot be timed here
    try:
        os.write(fd, b"0")
        skew_ns = os.fstat(fd).st_mtime_ns - time.time_ns()
    except OSError:
        return
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)
    is_off = abs(skew_ns) > CLOCK_SKEW_NS
    where = "ahead of" if skew_ns > 0 else "behind"
    yield Check(
        Mark.WARN if is_off else Mark.OK,
        "clock",
        f"the file system's is {units.duration(abs(skew_ns))} {where} this host's"
        if is_off
        else "the file system's and this host's agree",
        "chronyc tracking" if is_off else "",
    )


def _timed_sync(fd: int) -> int:
    os.write(fd, _BLOCK)
    began_ns = time.perf_counter_ns()
    os.fsync(fd)
    return time.perf_counter_ns() - began_ns
