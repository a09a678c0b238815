"""One telemetry file: how far it was read, and what its next lines say.

Only plain files are opened: a symlink, a FIFO or a device in place of one is a
problem to show, not something to follow.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.rundir.events import AnyEvent, Undecodable, decode, decode_lines
from agent.rundir.layout import RunDir
from agent.rundir.tail import Tail
from opsdash.projections.batch import Lines, Origin, UnreadableLine
from opsdash.projections.plausible import clip

PIECE_BYTES = 64 << 10
"""Read of one file per turn."""
_MAX_UNREADABLE = 20
"""Unreadable lines of one piece that are passed on; the rest is counted."""
_MAX_CLOCK_LEAD_NS = 5 * 10**9


@dataclass(frozen=True)
class Clocks:
    """The reader's clocks at one moment, ns."""

    mono_ns: int
    time_ns: int


@dataclass
class Cursor:
    """A position in one file."""

    path: Path
    attempt: int
    file: str
    """Below `telemetry/`."""
    stem: str
    rank: int | None
    is_live: bool = False
    """Its end was reached once: what comes now is written while we watch."""
    problem: str | None = None
    """Why it cannot be read now."""
    last_time_ns: int | None = None
    """Writer's wall clock in the newest line that was read; None: none was."""
    span_ns: int = 0
    """From the first to the last line of the newest piece."""
    process: tuple[int, str] = field(init=False)
    """Attempt and stem: whose segment it is."""
    tail: Tail = field(init=False)
    _place: str = field(init=False)
    _size: int = 0
    _torn_size: int = -1
    _mtime_ns: int = 0
    _has_moved: bool = False
    """A line came while we watched: its age is known without the file's time."""
    _signature: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        self.process = (self.attempt, self.stem)
        self.tail = Tail(self.path)
        self._place = str(self.path)

    @property
    def is_fresh(self) -> bool:
        """Whether it was never looked at."""
        return self._signature is None and self.problem is None

    @property
    def size(self) -> int:
        """Bytes on disk when it was last looked at."""
        return self._size

    @property
    def backlog(self) -> int:
        """Bytes on disk that were not read; a torn last line is none of them."""
        if self.problem or self._size == self._torn_size:
            return 0
        return max(0, self._size - self.tail.offset)

    def look(self) -> bool:
        """Whether there is something to read; one `stat`, no open."""
        try:
            found = os.lstat(self._place)
        except OSError as error:
            self.problem = error.strerror or str(error)
            return False
        signature = (found.st_dev, found.st_ino, found.st_size)
        if signature == self._signature and self.problem is None:
            return self.backlog > 0
        if not stat.S_ISREG(found.st_mode):
            self.problem = "it is not a plain file"
            return False
        self._notice(found, signature)
        return True

    def read(self, clocks: Clocks) -> Lines | None:
        """Return the next whole lines, at most a piece; None: there are none."""
        try:
            data = self._next_piece()
        except OSError as error:
            self.problem, self._signature = error.strerror or str(error), None
            return None
        lines = self._lines(data, clocks) if data else None
        if not data:
            self._torn_size = self._size
        if not self.backlog:
            self.is_live = True
        return lines

    def clock_problem(self, clocks: Clocks) -> str | None:
        """Return what is wrong with the file's time, which tells the age of history."""
        lead_ns = self._mtime_ns - clocks.time_ns
        if self._has_moved or lead_ns <= _MAX_CLOCK_LEAD_NS:
            return None
        return f"its time is {lead_ns // 10**9} s ahead of this host's clock"

    def _notice(self, found: os.stat_result, signature: tuple[int, int, int]) -> None:
        is_other = self._signature is not None and signature[:2] != self._signature[:2]
        if is_other or found.st_size < self.tail.offset:
            self.is_live, self._torn_size = False, -1
        self._signature, self._size = signature, found.st_size
        self._mtime_ns, self.problem = found.st_mtime_ns, None

    def _next_piece(self) -> bytes:
        data = self.tail.read()
        if len(data) <= PIECE_BYTES:
            return data
        # The rest is read again next turn: cheaper than keeping a MiB per file.
        cut = data.rfind(b"\n", 0, PIECE_BYTES) + 1 or data.find(b"\n") + 1
        self.tail.offset -= len(data) - cut
        return data[:cut]

    def _lines(self, data: bytes, clocks: Clocks) -> Lines:
        good: list[tuple[AnyEvent, int]] = []
        bad: list[tuple[Undecodable, int]] = []
        for event, place in _decode(data, self.tail.offset - len(data)):
            if isinstance(event, Undecodable):
                bad.append((event, place))
            else:
                good.append((event, place))
        num_newer = sum(line.is_newer_kind for line, _ in bad)
        if good:
            self._has_moved = self.is_live
            self.last_time_ns = good[-1][0].time_ns
            self.span_ns = max(0, self.last_time_ns - good[0][0].time_ns)
        return Lines(
            origin=self.origin(good[-1][0].mono_ns if good else 0, clocks),
            offsets=tuple(place for _, place in good),
            events=tuple(event for event, _ in good),
            unreadable=tuple(unreadable_line(*pair) for pair in bad[:_MAX_UNREADABLE]),
            num_undecodable=len(bad) - num_newer,
            num_newer=num_newer,
        )

    def origin(self, last_mono_ns: int, clocks: Clocks) -> Origin:
        """Return where lines come from that are read now.

        Args:
            last_mono_ns: The writer's monotonic clock in the last of them.
            clocks: Now.
        """
        age_ns = 0 if self.is_live else max(0, clocks.time_ns - self._mtime_ns)
        return Origin(
            attempt=self.attempt,
            file=self.file,
            stem=self.stem,
            rank=self.rank,
            seen_mono_ns=clocks.mono_ns - age_ns,
            last_mono_ns=last_mono_ns,
            is_live=self.is_live,
        )


def read_line(run: RunDir, file: str, offset: int) -> bytes:
    """Return one line of a telemetry file again; empty: it is not there any more.

    Args:
        run: The run.
        file: Below `telemetry/`, as an event's row names it.
        offset: Where the line begins, bytes.
    """
    path = run.telemetry / file
    if Path(file).is_absolute() or ".." in Path(file).parts:
        return b""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(fd, PIECE_BYTES, offset).partition(b"\n")[0]
    except OSError:
        return b""
    finally:
        os.close(fd)


def _decode(data: bytes, offset: int) -> Iterator[tuple[AnyEvent | Undecodable, int]]:
    """Yield what each line says and the byte offset at which it begins."""
    texts = data.split(b"\n")
    places = list(_places(texts, offset))
    decoded = decode_lines(data)
    if len(decoded) != len(places):
        # Several objects on one line, or one over several: by the line then.
        decoded = [decode(texts[index]) for index, _ in places]
    for event, (_, place) in zip(decoded, places, strict=True):
        yield event, place


def _places(texts: list[bytes], offset: int) -> Iterator[tuple[int, int]]:
    """Yield the index and the byte offset of each line that is not blank."""
    for index, text in enumerate(texts):
        if text and not text.isspace():
            yield index, offset
        offset += len(text) + 1


def unreadable_line(line: Undecodable, place: int) -> UnreadableLine:
    """Return a line that is no event as far as it is shown."""
    head = line.line[:200].decode("utf-8", "backslashreplace")
    return UnreadableLine(place, head, clip(line.reason, 120), line.is_newer_kind)
