"""What the other processes of this attempt last said, from their telemetry.

Nobody is asked: the ends of their files are read, and only while something is
wrong or a verdict is due. Whether a peer is alive is judged on this process's
own clock, by whether its file still grows; clocks of two hosts are never
compared.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from agent.rundir.events import (
    AnyEvent,
    BarrierArrived,
    BarrierReleased,
    CollectivesSampled,
    Heartbeat,
    PhaseChanged,
    RunEnded,
    StepDone,
    Undecodable,
    decode_lines,
)
from agent.rundir.layout import RunDir, parse_telemetry_name, rank_stem

_TAIL_BYTES = 128 << 10
_LONGEST_TAIL_BYTES = 2 << 20
_SILENT_BEATS = 3.5
"""A file that has not grown for so many beats belongs to a silent process."""
_SILENT_LOOKS = 4
"""The same in looks: they come late, on a busy host, where beats do."""

_WENT_ON = (BarrierArrived, BarrierReleased, PhaseChanged, StepDone)
"""Told by a main thread that does not stand still."""


@dataclass
class Standing:
    """Where one rank stands."""

    rank: int
    step: int | None = None
    phase: str | None = None
    progress: int | None = None
    """What its last beat counted of its main thread."""
    waiting_at: tuple[str, int] | None = None
    """Barrier and index at which its last beat saw it wait, the innermost."""
    arrived: dict[str, int] = field(default_factory=dict)
    """By barrier: the greatest index that it has arrived at."""
    collectives: dict[str, int] = field(default_factory=dict)
    """By group: the greatest sequence number that it has started."""
    has_told_latest: bool = False
    """Whether it told those while it stood still, and nothing since."""
    has_ended: bool = False

    def has_arrived(self, name: str, index: int) -> bool:
        """Whether it came to a barrier for the `index`-th time, from 0."""
        return self.arrived.get(name, -1) >= index

    def observe(self, event: AnyEvent) -> None:
        """Take in one of its events; they come in order."""
        if event.step is not None:
            self.step = event.step
        self.has_told_latest &= not isinstance(event, _WENT_ON)
        match event:
            case Heartbeat():
                self._observe_beat(event)
            case PhaseChanged():
                self.phase = event.phase
            case BarrierArrived():
                self._arrive(event.name, event.index)
            case StepDone():
                for wait in event.waits:
                    self._arrive(wait.name, wait.index)
            case CollectivesSampled():
                last = event.first_id + len(event.started_ns) - 1
                self.collectives[event.group] = last
                self.has_told_latest = event.is_still
            case RunEnded():
                self.has_ended = True

    def _observe_beat(self, beat: Heartbeat) -> None:
        self.phase, self.progress = beat.phase, beat.progress
        self.waiting_at = None
        if beat.waiting_at is not None and beat.waiting_index is not None:
            self.waiting_at = (beat.waiting_at, beat.waiting_index)
            self._arrive(*self.waiting_at)
        for lasting in beat.waits:
            self._arrive(lasting.name, lasting.index)

    def _arrive(self, name: str, index: int) -> None:
        self.arrived[name] = max(index, self.arrived.get(name, -1))


class Peers:
    """The ranks of one attempt, this one included."""

    def __init__(
        self, run: RunDir, attempt: int, world_size: int, *, period_s: float
    ) -> None:
        """Name them; nothing is read yet.

        Args:
            run: Whose telemetry is read.
            attempt: The one that runs.
            world_size: How many ranks it has.
            period_s: From one of their beats to the next.
        """
        self._silent_s = _SILENT_BEATS * period_s
        self._directory = run.telemetry_file(attempt, "x").parent
        self._world_size = world_size
        self._sizes: dict[int, int] = {}
        self._grown_s: dict[int, float] = {}
        self._num_same: dict[int, int] = {}
        """Looks since its file grew, by rank."""
        self._progress: dict[int, int | None] = {}
        self._moved: set[int] = set()
        self._num_looks = 0

    def look(self, *, reach_ns: int = 0) -> dict[int, Standing]:
        """Read where every rank stands now; one that left no file stands nowhere.

        `reach_ns`: how much of its past each file's end has to show, if it can.
        """
        segments = self._segments()
        self._num_looks += 1
        return {
            rank: self._standing(rank, segments.get(rank_stem(rank), []), reach_ns)
            for rank in range(self._world_size)
        }

    @property
    def is_informed(self) -> bool:
        """Whether there were two looks: one says nothing about what goes on."""
        return self._num_looks > 1

    def is_alive(self, rank: int) -> bool:
        """Whether its file grew lately; known from the second look on."""
        grown_s = self._grown_s.get(rank)
        return grown_s is not None and time.monotonic() - grown_s < self._silent_s

    def is_silent(self, rank: int) -> bool:
        """Whether its file has not grown in so many looks that it must be stuck."""
        return self._num_same.get(rank, 0) >= _SILENT_LOOKS

    def is_still(self, rank: int) -> bool:
        """Whether its main thread told nothing between the last two looks."""
        return rank in self._progress and rank not in self._moved

    def forget(self) -> None:
        """Begin to judge anew who is alive: it was not looked for a while."""
        self._num_looks = 0
        self._sizes.clear()
        self._grown_s.clear()
        self._num_same.clear()
        self._progress.clear()
        self._moved.clear()

    def _segments(self) -> dict[str, list[Path]]:
        """Return each process's files, the newest last."""
        found: dict[str, list[tuple[int, Path]]] = {}
        try:
            paths = list(self._directory.iterdir())
        except OSError:
            return {}
        for path in paths:
            name = parse_telemetry_name(path.name)
            if name is not None:
                found.setdefault(name.stem, []).append((name.segment, path))
        return {stem: [p for _, p in sorted(files)] for stem, files in found.items()}

    def _standing(self, rank: int, files: list[Path], reach_ns: int) -> Standing:
        standing = Standing(rank)
        events, size = _last_events(files, reach_ns)
        for event in events:
            standing.observe(event)
        has_grown = rank in self._sizes and self._sizes[rank] != size
        if has_grown:
            self._grown_s[rank] = time.monotonic()
        if rank in self._sizes:
            self._num_same[rank] = 0 if has_grown else self._num_same.get(rank, 0) + 1
        self._sizes[rank] = size
        if self._progress.get(rank, -1) != standing.progress:
            self._moved.add(rank)
        else:
            self._moved.discard(rank)
        self._progress[rank] = standing.progress
        return standing


def _last_events(files: list[Path], reach_ns: int) -> tuple[list[AnyEvent], int]:
    """Return a process's last events, so far back if that can be read; and its size."""
    num_bytes = _TAIL_BYTES
    while True:
        data, size = _read_end(files, num_bytes)
        events = [e for e in decode_lines(data) if not isinstance(e, Undecodable)]
        reached_ns = events[-1].mono_ns - events[0].mono_ns if events else 0
        has_more = num_bytes < min(size, _LONGEST_TAIL_BYTES)
        # One line may be longer than what was read.
        if (events and reached_ns >= reach_ns) or not has_more:
            return events, size
        num_bytes *= 4


def _read_end(files: list[Path], num_bytes: int) -> tuple[bytes, int]:
    """Return the last whole lines of a process's files, and their total size.

    A segment that has just begun says little: the one before is read with it.
    """
    data, total = b"", 0
    for path in files[-2:]:
        try:
            size, block = _read_block(path, num_bytes)
        except OSError:  # it is gone, or a FIFO lies in its place
            continue
        total += size
        data += block.partition(b"\n")[2] if len(block) < size else block
    return data.rpartition(b"\n")[0], total


def _read_block(path: Path, num_bytes: int) -> tuple[int, bytes]:
    """Return a file's size, and its last bytes."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        begin = max(0, size - num_bytes)
        return size, os.pread(fd, size - begin, begin)
    finally:
        os.close(fd)
