"""Write events without ever blocking, failing or slowing training.

One event is one `write` of one whole line to a file opened with O_APPEND,
from whichever thread has it: no queue that a SIGKILL would empty, and no lock
that a signal handler could meet. Only while a file system blocks do lines wait
in memory. What cannot be written is dropped, counted, and told right after the
next event that can.

State shared by threads is changed by single operations, which CPython does not
interrupt: what is added is computed before the sum, never inside it.
"""

import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from agent.rundir.events import Event, EventsDropped, RunStarted
from agent.rundir.layout import parse_telemetry_name
from agent.rundir.readable import readable
from agent.writing.outlet import Outlet
from agent.writing.rollups import RollupWriter
from agent.writing.stamps import Stamps

SEGMENT_BYTES = 64 << 20
SLOW_WRITE_S = 0.25
_CLOSE_PATIENCE_S = 2.0
_NEWLINE = ord("\n")

_INHERITED: "weakref.WeakSet[Emitter]" = weakref.WeakSet()


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a trainer has put into a field
    """Return the number in a 0-d tensor or array; a GPU's is waited for.

    Raises:
        TypeError: it is something else.
    """
    if not hasattr(value, "item"):
        raise TypeError(f"`{type(value).__name__}` cannot stand in an event")
    return value.item()


_encoder = msgspec.json.Encoder(enc_hook=_plain)
# Bound once: every look-up counts at a microsecond per event.
_encode_into = _encoder.encode_into
_write = os.write
_mono_ns = time.monotonic_ns


class Emitter:
    """The one writer of one process's telemetry.

    Safe from several threads and from signal handlers of one process. A forked
    child inherits a closed one: the file stays with the process that opened it.
    """

    num_dropped: int = 0
    """Events lost since the last one that told so."""
    busy_ns: int = 0
    """Spent on writing events, in total over all threads."""

    def __init__(
        self,
        path: Path | None,
        *,
        node: str,
        rank: int | None,
        segment_bytes: int = SEGMENT_BYTES,
        slow_s: float = SLOW_WRITE_S,
    ) -> None:
        """Open the newest segment.

        Args:
            path: The first segment; None makes an emitter that swallows everything.
            node: Goes into every event.
            rank: Likewise; None outside data-parallel training.
            segment_bytes: A file that has grown so far is followed by the next.
            slow_s: A write that takes so long makes the next ones wait in memory.

        Raises:
            ValueError: `path` does not have the name of a telemetry file.
        """
        self.node = node
        self.rank = rank
        self.step: int | None = None
        """Goes into every event that is not given one."""
        self.round_num: int | None = None
        self.problem: str | None = None
        """Why the last write failed; None while writes succeed."""
        self._segment_bytes = segment_bytes
        self._stamps = Stamps(node=node, rank=rank)
        self._start: dict[str, Any] | None = None
        self._has_begun = False
        folder, stem = (Path(), "") if path is None else (path.parent, _stem(path))
        self._line: bytearray | None = None
        """Whoever writes takes it; who comes meanwhile, also in a signal
        handler, finds none and makes another."""
        self._outlet = Outlet(
            folder, stem, slow_ns=int(slow_s * 1e9), on_lost=self.drop
        )
        self._rollup = RollupWriter(folder, stem)
        self.is_off = path is None
        """Nothing is written: switched off, closed, or in a forked child."""
        if path is not None:
            self._open()
            _INHERITED.add(self)

    def stamped(self, event_type: type[Event], *names: str) -> Callable[..., Any]:
        """Return what makes this node's events of a type, for `put`.

        Time, sequence number, node and rank are filled in when it is called
        with the event's own fields. A hot loop keeps it, and names the fields
        that it gives every time: what has no others is made and written faster.

        Raises:
            ValueError: the event type has no field of such a name.
        """
        if names:
            return self._stamps.lean(event_type, names)
        return self._stamps[event_type]

    def emit(self, event_type: type[Event], /, **fields: Any) -> bool:  # noqa: ANN401 - the event type checks them
        """Write one event; False: it was dropped and counted.

        `fields` are those of the event type; time, sequence, node, rank and
        step are filled in. Never raises.
        """
        try:
            if "step" not in fields:
                fields["step"] = self.step
            if self.round_num is not None:
                fields.setdefault("round_num", self.round_num)
            event = self._stamps[event_type](**fields)
        except Exception as error:  # noqa: BLE001 - training must not see it
            self.drop(f"{type(error).__name__}: {error}")
            return False
        return self.put(event)

    def put(self, event: Any) -> bool:  # noqa: ANN401 - made by `stamped`
        """Write an event that was stamped just now; False: dropped and counted.

        Never raises.
        """
        outlet = self._outlet
        fd = outlet.fd
        if fd < 0:
            return self._put_carefully(event)
        line, self._line = self._line, None
        try:
            if line is None:
                line = bytearray()
            _encode_into(event, line)
            line.append(_NEWLINE)
            written = _write(fd, line)
            took_ns = _mono_ns() - event.mono_ns
        except UnicodeEncodeError:
            return self._put_carefully(event)
        except Exception as error:  # noqa: BLE001 - training must not see it
            self.drop(f"{type(error).__name__}: {error}")
            return False
        size = len(line)
        self._line = line
        self.busy_ns += took_ns
        if took_ns < outlet.slow_ns and written == size:
            return True
        if outlet.judge(written, size, took_ns):
            return True
        self.drop(f"OSError: wrote {written} of {size} bytes")
        return False

    def emit_first(self, event_type: type[Event], /, **fields: Any) -> bool:  # noqa: ANN401 - the event type checks them
        """Write one event from a thread that may hang: the agent's own.

        While this write hangs, those of other threads wait in memory instead
        of hanging too.
        """
        with self._outlet.canary():
            return self.emit(event_type, **fields)

    def begin(self, **fields: Any) -> bool:  # noqa: ANN401 - RunStarted checks them
        """Write `RunStarted`, and again at the head of every later segment."""
        self._start = fields
        self._has_begun = self.emit(RunStarted, **fields)
        return self._has_begun

    def drop(self, reason: str) -> None:
        """Count an event that was not written, or could not even be made."""
        self.problem = reason
        self.num_dropped += 1
        self._outlet.hold()

    @property
    def num_bytes(self) -> int:
        """Written in total."""
        return self._outlet.file.num_bytes

    @property
    def num_waiting(self) -> int:
        """Events in memory because the file system blocks."""
        return self._outlet.num_waiting

    def tend(self) -> None:
        """Do what is too slow for `put`; the agent's thread calls it every second.

        Goes on in a new segment when this one is full or somebody removed it:
        an unlinked file takes writes without an error. Never raises.
        """
        file = self._outlet.file
        if self.is_off or self._outlet.is_waiting:
            return
        try:
            if file.fd < 0:
                self._outlet.open()
            elif not file.is_in_place():
                self.problem = "the telemetry file was removed"
                self._begin_next_segment()
            elif file.size >= self._segment_bytes:
                self._begin_next_segment()
        except OSError as error:
            self.problem = str(error)
            return
        if self._start is not None and not self._has_begun:
            # There was no room, or no directory, when it was to be the first line.
            self.begin(**self._start)
        try:
            self._rollup.advance(file.segment)
        except OSError as error:
            self.problem = f"roll-up: {error}"

    def close(self) -> None:
        """Close the file; what waits is given two seconds, the rest is lost.

        Later events vanish silently.
        """
        self.is_off = True
        self._outlet.close(patience_s=_CLOSE_PATIENCE_S)

    def _put_carefully(self, event: Any) -> bool:  # noqa: ANN401 - see `put`
        """Write while something is amiss, and see whether it still is."""
        if self.is_off:
            return False
        is_taken = self._deliver(event)
        if is_taken:
            self._tell_drops()
        took_ns = _mono_ns() - event.mono_ns
        self.busy_ns += took_ns
        return is_taken

    def _deliver(self, event: Any) -> bool:  # noqa: ANN401 - see `put`
        try:
            is_taken = self._outlet.deliver(_line_of(event))
        except Exception as error:  # noqa: BLE001 - training must not see it
            self.drop(f"{type(error).__name__}: {error}")
            return False
        if not is_taken:
            self.drop("the file system blocks, and no more events may wait")
        return is_taken

    def _tell_drops(self) -> None:
        """Say what was lost, after an event that was not.

        Tried before, it would be lost with each of the others, and every number
        that is missing is a drop to a reader.
        """
        if self._outlet.is_crowded:
            return
        told = self.num_dropped
        # Taken away first, or another thread would tell them too.
        self.num_dropped -= told
        if not told:
            return
        event = self._stamps[EventsDropped](
            num_dropped=told, reason=self.problem or "unknown", step=self.step
        )
        if not self._deliver(event):
            self.num_dropped += told
            return
        self.problem = None
        self._outlet.hold(is_held=False)
        if self.num_dropped:
            # Another thread lost one meanwhile.
            self._outlet.hold()

    def _open(self) -> None:
        try:
            self._outlet.open()
        except OSError as error:
            self.problem = str(error)

    def _begin_next_segment(self) -> None:
        head = b""
        if self._start is not None:
            fields = {**self._start, "segment": self._outlet.file.segment + 1}
            head = _line_of(self._stamps[RunStarted](**fields))
        self._outlet.open_next(head)
        self._has_begun = True

    def _leave_to_parent(self) -> None:
        """In a forked child: one file has one writer, and that is the parent."""
        self.is_off = True
        self._outlet.leave()


def _line_of(event: Any) -> bytes:  # noqa: ANN401 - see `put`
    """Return an event as a line; texts that are no UTF-8 are told with escapes."""
    try:
        return _encoder.encode(event) + b"\n"
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(event, enc_hook=_plain)
        return _encoder.encode(readable(plain)) + b"\n"


def _stem(path: Path) -> str:
    name = parse_telemetry_name(path.name)
    if name is None:
        raise ValueError(f"`{path.name}` is not the name of a telemetry file")
    return name.stem


def _after_fork() -> None:
    for emitter in list(_INHERITED):
        emitter._leave_to_parent()  # noqa: SLF001 - same module, same class


os.register_at_fork(after_in_child=_after_fork)
