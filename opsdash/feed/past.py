"""What one process wrote before the newest part of its log, thinned.

A long log is not folded line by line: of its past the roll-up's events are
read, or what the log itself yields where there is no roll-up, and only the
newest part is complete. Where the one ends the process's cursor goes on.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from agent.rundir.events import AnyEvent, Undecodable
from agent.rundir.history import History, Position
from agent.rundir.layout import RunDir, parse_telemetry_name, telemetry_name
from agent.rundir.rollup import roll_up
from agent.rundir.stretches import Stretch, kept
from agent.rundir.windows import WINDOW_BYTES, read_window
from opsdash.feed.cursor import Clocks, Cursor, unreadable_line
from opsdash.projections.batch import Lines

_STRETCHES = 16
"""Of one process per turn: where they come from the log, 10 ms of work."""
_LINE_BYTES = 64 << 10
_MAX_UNREADABLE = 20


class Past:
    """The thinned part of one process's log."""

    def __init__(
        self, run: RunDir, cursors: Sequence[Cursor], place: tuple[Cursor, int]
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            run: The run.
            cursors: Of the process's segments, in order, unread.
            place: At which cursor and offset the complete part begins.
        """
        self._cursors = cursors
        self._newest = cursors[-1]
        self.attempt, self.stem = self._newest.attempt, self._newest.stem
        self._history = History(run, self.attempt, self.stem)
        self._end = Position(_segment(place[0]), place[1])
        self._begins = _skip(cursors, place)
        self._stretches = self._all_stretches()
        self.backlog = self._begins[self._end.segment] + self._end.offset
        """Bytes of the log that this stands for and that were not told yet."""
        self._num_bytes = self.backlog
        self.problem: str | None = None
        """Why it ended too early."""
        self.last_time_ns: int | None = None
        """Writer's wall clock in the newest event that was read."""
        self.span_ns = 0
        """From the first to the last event of the newest turn."""

    def read(self, clocks: Clocks) -> list[Lines]:
        """Return what stands for the next piece of the log; empty: there is none."""
        try:
            found = [
                s for _, s in zip(range(_STRETCHES), self._stretches, strict=False)
            ]
        except OSError as error:
            self.problem, found = error.strerror or str(error), []
        lines = [
            self._lines(segment, list(group), clocks)
            for segment, group in groupby(found, key=lambda s: s.segment)
        ]
        if found:
            begin = self._begins.get(found[-1].segment, 0)
            done = min(begin + found[-1].end, self._num_bytes - 1)
            self.backlog = min(self.backlog, self._num_bytes - done)
        if len(found) < _STRETCHES:
            self._hand_over()
        self._note_times(lines)
        return lines

    def _hand_over(self) -> None:
        """Let the cursors go on; those before the last one have nothing to say."""
        self.backlog = 0
        for cursor in self._cursors:
            cursor.last_time_ns = self.last_time_ns
            cursor.is_live = cursor.backlog == 0

    def _note_times(self, lines: list[Lines]) -> None:
        times = [event.time_ns for part in lines for event in part.events]
        if times:
            self.last_time_ns = times[-1]
            self.span_ns = max(0, times[-1] - times[0])

    def _all_stretches(self) -> Iterator[Stretch]:
        for stretch in self._history.thinned():
            begin = Position(stretch.segment, stretch.begin)
            if begin >= self._end:
                return
            yield self._cut(stretch)
        yield from self._rest()

    def _rest(self) -> Iterator[Stretch]:
        """Yield what is younger than the last window, thinned likewise."""
        position = self._history.position
        begin = position.offset if position.segment == self._end.segment else 0
        if position.segment > self._end.segment:
            return
        path = self._newest.path.with_name(telemetry_name(self.stem, self._end.segment))
        while begin < self._end.offset:
            limit = min(WINDOW_BYTES, self._end.offset - begin)
            data = read_window(path, begin, limit=limit, is_final=True)
            if not data:
                return
            block = roll_up(data, segment=self._end.segment, begin=begin)
            yield kept(block, 0)
            begin += len(data)

    def _cut(self, stretch: Stretch) -> Stretch:
        """Leave out of a stretch what will be read in full."""
        end = self._end
        if stretch.segment < end.segment or stretch.end <= end.offset:
            return stretch
        num = sum(offset < end.offset for offset in stretch.offsets)
        # Which part of it lost events is not known; `events_dropped` tells it too.
        return stretch._replace(
            end=end.offset,
            counts={},
            events=stretch.events[:num],
            offsets=stretch.offsets[:num],
            num_bad=0,
            num_missing=0,
        )

    def _lines(self, segment: int, stretches: list[Stretch], clocks: Clocks) -> Lines:
        good: list[tuple[AnyEvent, int]] = []
        bad: list[tuple[Undecodable, int]] = []
        for stretch in stretches:
            for event, place in zip(stretch.events, stretch.offsets, strict=True):
                if isinstance(event, Undecodable):
                    bad.append((event, place))
                else:
                    good.append((event, place))
        num_newer = sum(event.is_newer_kind for event, _ in bad)
        num_bad = sum(stretch.num_bad for stretch in stretches)
        folder = self._newest.file.rpartition("/")[0]
        origin = self._newest.origin(good[-1][0].mono_ns if good else 0, clocks)
        return Lines(
            origin=origin._replace(
                file=f"{folder}/{telemetry_name(self.stem, segment)}"
            ),
            offsets=tuple(place for _, place in good),
            events=tuple(event for event, _ in good),
            unreadable=tuple(unreadable_line(*p) for p in bad[:_MAX_UNREADABLE]),
            num_undecodable=max(num_bad, len(bad) - num_newer),
            num_newer=num_newer,
            is_thinned=True,
            num_left_out=sum(map(_num_left_out, stretches)),
            num_missing=sum(stretch.num_missing for stretch in stretches),
        )


def tail_place(cursors: Sequence[Cursor], num_bytes: int) -> tuple[Cursor, int] | None:
    """Return where the last bytes of a process's segments begin, at a line.

    None where no line begins near there, or a segment cannot be read: then the
    log is read from its start.
    """
    left = num_bytes
    for cursor in reversed(cursors):
        if cursor.size > left or cursor is cursors[0]:
            offset = _line_before(cursor.path, max(0, cursor.size - left))
            return None if offset is None else (cursor, offset)
        left -= cursor.size
    return None


def _num_left_out(stretch: Stretch) -> int:
    num_good = len(stretch.events) - stretch.num_bad
    return max(0, sum(stretch.counts.values()) - num_good)


def _line_before(path: Path, offset: int) -> int | None:
    """Return where the last line before an offset ends; None: too far away."""
    begin = max(0, offset - _LINE_BYTES)
    if begin == offset:
        return offset
    try:
        data = read_window(path, begin, limit=offset - begin, is_final=True)
    except OSError:
        return None
    found = data.rfind(b"\n") + 1
    return begin + found if found or begin == 0 else None


def _skip(cursors: Sequence[Cursor], place: tuple[Cursor, int]) -> dict[int, int]:
    """Set cursors to where the past ends; return how many bytes lie before each."""
    begins, total = {}, 0
    for cursor in cursors:
        begins[_segment(cursor)] = total
        total += cursor.size
    for cursor in cursors[: cursors.index(place[0])]:
        cursor.tail.offset = cursor.size
    place[0].tail.offset = place[1]
    return begins


def _segment(cursor: Cursor) -> int:
    name = parse_telemetry_name(cursor.path.name)
    assert name is not None
    return name.segment
