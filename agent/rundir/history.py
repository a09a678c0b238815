"""The past of one process's telemetry, however long: thinned, or exactly.

Attaching to a run that wrote gigabytes reads the roll-up and the last window
of the log; any window of the past is read from the log itself, found through
the roll-up. Where there is no roll-up, or a torn one, the log stands in for
it: slower, and with the same result. Memory is bounded by a window.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from agent.rundir.layout import RunDir, telemetry_name
from agent.rundir.rollup import Block, Head, missing_between, read_blocks, roll_up
from agent.rundir.segments import list_segments
from agent.rundir.stretches import Span, Stretch, exact, kept, select
from agent.rundir.windows import WINDOW_BYTES, open_plain, read_window

NEWEST_BYTES = 64 << 10


class Position(NamedTuple):
    """A place between two lines."""

    segment: int
    offset: int
    """In the segment's file, bytes."""


class _Gap(NamedTuple):
    """A piece of a segment that no block covers."""

    segment: int
    begin: int
    end: int


class History:
    """What one process of one attempt wrote so far."""

    def __init__(self, run: RunDir, attempt: int, stem: str) -> None:
        """Name the files; nothing is read yet."""
        self._folder = run.telemetry_file(attempt, stem).parent
        self._rollup = run.rollup_file(attempt, stem)
        self._stem = stem
        self.position = Position(1, 0)
        """Where `thinned` stopped: read the log from here on."""

    def newest(self, num_bytes: int = NEWEST_BYTES) -> Stretch | None:
        """Return the last events, all of them; None: there are none yet.

        Raises:
            OSError: the log cannot be read.
        """
        sizes = self._sizes()
        for segment, size in reversed(sizes.items()):
            begin = max(0, size - num_bytes)
            data = read_window(
                self._path(segment), begin, limit=num_bytes, is_final=True
            )
            first = data.find(b"\n") + 1 if begin > 0 else 0
            if whole := data[first : data.rfind(b"\n") + 1]:
                return exact(segment, begin + first, whole)
        return None

    def thinned(self) -> Iterator[Stretch]:
        """Yield the past, oldest first: all that is rare, samples of the rest.

        Stops where the log is younger than a window; `position` is there
        afterwards.

        Raises:
            OSError: the log cannot be read.
        """
        sizes, last_seq = self._sizes(), None
        for piece in self._pieces(sizes):
            blocks: Iterable[Block] = (
                (piece,) if isinstance(piece, Block) else self._roll_up(piece, sizes)
            )
            for block in blocks:
                head = block.head
                num_missing = missing_between(last_seq, head.first_seq)
                last_seq = last_seq if head.last_seq is None else head.last_seq
                self.position = Position(head.segment, head.end)
                yield kept(block, num_missing)
        newest = max(sizes, default=1)
        if newest > self.position.segment:
            self.position = Position(newest, 0)

    def window(
        self, *, steps: Span | None = None, time_ns: Span | None = None
    ) -> Iterator[Stretch]:
        """Yield every event of a range of steps or of wall-clock times.

        Where the log itself is gone, what its roll-up kept of it.

        Args:
            steps: Only events that carry a step in this range.
            time_ns: Only events of this time, Unix ns.

        Raises:
            OSError: the log cannot be read.
        """
        sizes = self._sizes()
        for piece in self._pieces(sizes):
            found = self._exactly(piece)
            if isinstance(piece, Block):
                if not _may_hold(piece.head, steps, time_ns):
                    continue
                if piece.head.segment not in sizes:
                    found = iter([kept(piece, 0)])
            for stretch in found:
                if (selected := select(stretch, steps, time_ns)).events:
                    yield selected

    def _sizes(self) -> dict[int, int]:
        """Return how long each segment on disk is, in bytes, in order."""
        sizes = {}
        for segment in list_segments(self._folder, self._stem):
            with contextlib.suppress(FileNotFoundError):
                sizes[segment] = self._path(segment).stat().st_size
        return sizes

    def _path(self, segment: int) -> Path:
        return self._folder / telemetry_name(self._stem, segment)

    def _pieces(self, sizes: Mapping[int, int]) -> Iterator[Block | _Gap]:
        """Yield what covers the log, in order: blocks, and gaps between them."""
        done = Position(min(sizes, default=1), 0)
        for block in self._blocks():
            begin = Position(block.head.segment, block.head.begin)
            if begin < done and block.head.segment in sizes:
                continue
            yield from _gaps(done, begin, sizes)
            yield block
            done = max(done, Position(block.head.segment, block.head.end))
        newest = max(sizes, default=0)
        yield from _gaps(done, Position(newest, sizes.get(newest, 0)), sizes)

    def _blocks(self) -> Iterator[Block]:
        try:
            fd = open_plain(self._rollup)
        except OSError:
            return
        with os.fdopen(fd, "rb") as file:
            yield from read_blocks(file)

    def _roll_up(self, gap: _Gap, sizes: Mapping[int, int]) -> Iterator[Block]:
        """Do for a gap what its writer had not done yet."""
        is_final = gap.segment < max(sizes)
        begin = gap.begin
        while begin < gap.end:
            limit = min(WINDOW_BYTES, gap.end - begin)
            if limit < WINDOW_BYTES and not is_final:
                return
            data = read_window(
                self._path(gap.segment), begin, limit=limit, is_final=is_final
            )
            if not data:
                return
            yield roll_up(data, segment=gap.segment, begin=begin)
            begin += len(data)

    def _exactly(self, piece: Block | _Gap) -> Iterator[Stretch]:
        """Yield every event of a piece, a window at a time."""
        gap = (
            piece
            if isinstance(piece, _Gap)
            else _Gap(piece.head.segment, piece.head.begin, piece.head.end)
        )
        begin = gap.begin
        while begin < gap.end:
            limit = min(WINDOW_BYTES, gap.end - begin)
            data = read_window(
                self._path(gap.segment), begin, limit=limit, is_final=True
            )
            if not data:
                return
            yield exact(gap.segment, begin, data)
            begin += len(data)


def _gaps(begin: Position, end: Position, sizes: Mapping[int, int]) -> Iterator[_Gap]:
    """Yield what lies between two positions, a gap per segment."""
    for segment, size in sizes.items():
        first = begin.offset if segment == begin.segment else 0
        last = min(size, end.offset) if segment == end.segment else size
        if begin.segment <= segment <= end.segment and first < last:
            yield _Gap(segment, first, last)


def _may_hold(head: Head, steps: Span | None, time_ns: Span | None) -> bool:
    return (steps is None or steps.meets(head.min_step, head.max_step)) and (
        time_ns is None or time_ns.meets(head.min_time_ns, head.max_time_ns)
    )
