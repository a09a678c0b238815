"""Write events without ever blocking, failing or slowing training.

One event is one `write` of one whole line to a file opened with O_APPEND,
from whichever thread has it: no queue that a SIGKILL would empty, and no lock
that a signal handler could meet. What cannot be written is dropped, counted,
and told with the next event that can.
"""

import itertools
import os
import time
import weakref
from pathlib import Path
from typing import Any

from agent.rundir.events import Event, EventsDropped, encode

_INHERITED: "weakref.WeakSet[Emitter]" = weakref.WeakSet()


class Emitter:
    """The one writer of one telemetry file.

    Safe from several threads and from signal handlers of one process. A forked
    child inherits a closed one: the file stays with the process that opened it.
    """

    num_dropped: int = 0
    """Events lost since the last one that told so."""
    num_bytes: int = 0
    """Written in total."""
    busy_ns: int = 0
    """Spent in `emit`, in total over all threads."""

    def __init__(self, path: Path | None, *, node: str, rank: int | None) -> None:
        """Open the file; `path=None` makes an emitter that swallows everything."""
        self.node = node
        self.rank = rank
        self.step: int | None = None
        """Goes into every event that is not given one."""
        self.round_num: int | None = None
        self.problem: str | None = None
        """Why the last write failed; None while writes succeed."""
        self._path = path
        self._seq = itertools.count()
        self._is_line_torn = False
        self._fd = -1
        if path is not None:
            self._open(path)
            _INHERITED.add(self)

    def emit(self, event_type: type[Event], /, **fields: Any) -> bool:  # noqa: ANN401 - the event type checks them
        """Write one event; False: it was dropped and counted.

        `fields` are those of the event type; time, sequence, node, rank and
        step are filled in. Never raises.
        """
        if self._path is None:
            return False
        began = time.perf_counter_ns()
        try:
            self._tell_drops()
            self._write(encode(self._event(event_type, fields)))
        except Exception as error:  # noqa: BLE001 - training must not see it
            self.num_dropped += 1
            self.problem = f"{type(error).__name__}: {error}"
            return False
        else:
            self.problem = None
            return True
        finally:
            self.busy_ns += time.perf_counter_ns() - began

    def close(self) -> None:
        """Close the file; later events are dropped silently."""
        fd, self._fd, self._path = self._fd, -1, None
        if fd >= 0:
            os.close(fd)

    def reopen_if_removed(self) -> None:
        """Make the file again if someone removed it from under the run.

        An unlinked file takes writes without an error, so this has to be
        asked; the agent's thread does, once a second.
        """
        if self._path is None:
            return
        try:
            if self._fd >= 0 and os.fstat(self._fd).st_nlink > 0:
                return
            old, self._fd = self._fd, -1
            if old >= 0:
                self.problem = "the telemetry file was removed"
                os.close(old)
            self._open(self._path)
        except OSError as error:
            self.problem = str(error)

    def _event(self, event_type: type[Event], fields: dict[str, Any]) -> Event:
        fields.setdefault("step", self.step)
        fields.setdefault("round_num", self.round_num)
        return event_type(
            time_ns=time.time_ns(),
            mono_ns=time.monotonic_ns(),
            node=self.node,
            rank=self.rank,
            seq=next(self._seq),
            **fields,
        )

    def _tell_drops(self) -> None:
        if not self.num_dropped:
            return
        told, reason = self.num_dropped, self.problem or "unknown"
        fields = {"num_dropped": told, "reason": reason}
        self._write(encode(self._event(EventsDropped, fields)))
        self.num_dropped -= told

    def _write(self, line: bytes) -> None:
        if self._fd < 0:
            raise OSError(self.problem or "the telemetry file is not open")
        if self._is_line_torn:
            line = b"\n" + line
        written = os.write(self._fd, line)
        self.num_bytes += written
        self._is_line_torn = written < len(line)
        if self._is_line_torn:
            raise OSError(f"wrote {written} of {len(line)} bytes")

    def _open(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, flags, 0o666)
            size = os.fstat(self._fd).st_size
            self._is_line_torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
        except OSError as error:
            self.problem = str(error)

    def _leave_to_parent(self) -> None:
        """In a forked child: one file has one writer, and that is the parent."""
        self._path, self._fd = None, -1


def _after_fork() -> None:
    for emitter in list(_INHERITED):
        emitter._leave_to_parent()  # noqa: SLF001 - same module, same class


os.register_at_fork(after_in_child=_after_fork)
