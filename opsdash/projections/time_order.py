"""Put the lines of several files in the order of their writers' wall clocks.

History is read a piece of each file at a time, so what one file says of a
moment may come a pass later than another's: until everything is read, what
others may still precede is held back. Within a file the order of lines stays,
whatever its clock did; what is held back is bounded.
"""

from collections.abc import Iterator
from operator import itemgetter
from typing import NamedTuple

from opsdash.projections.batch import Batch, Lines

_MAX_HELD = 100_000
_MAX_FILES = 16_384

_Placed = tuple[int, int, int, Lines]
"""Greatest time that the file said so far, count, index of the event, its lines."""
_ORDER = itemgetter(0, 1)


class Span(NamedTuple):
    """Consecutive events of one file; of many files most are one event long."""

    lines: Lines
    start: int
    stop: int


class TimeOrder:
    """Takes batches as they come, gives lines as they happened."""

    def __init__(self) -> None:
        self._held: list[_Placed] = []
        self._latest: dict[str, int] = {}
        self._num_seen = 0

    def take(self, batch: Batch) -> Iterator[Span]:
        """Yield what nothing can precede any more, oldest first."""
        speaking = [lines for lines in batch.lines if lines.events]
        yield from (Span(lines, 0, 0) for lines in batch.lines if not lines.events)
        horizon_ns = min(map(self._place, speaking), default=None)
        is_behind = batch.backlog_bytes > 0 and len(self._held) <= _MAX_HELD
        if is_behind and horizon_ns is None:
            return
        self._held.sort(key=_ORDER)
        due = self._held
        if is_behind and horizon_ns is not None:
            due = [placed for placed in due if placed[0] <= horizon_ns]
        self._held = self._held[len(due) :]
        yield from _runs(due)

    def _place(self, lines: Lines) -> int:
        """Hold the events of one file; return the time of the last."""
        file = lines.origin.file
        time_ns = self._latest.get(file, 0)
        for index, event in enumerate(lines.events):
            time_ns = max(time_ns, event.time_ns)
            self._num_seen += 1
            self._held.append((time_ns, self._num_seen, index, lines))
        if file in self._latest or len(self._latest) < _MAX_FILES:
            self._latest[file] = time_ns
        return time_ns


def _runs(due: list[_Placed]) -> Iterator[Span]:
    """Yield the longest runs of consecutive events of one file."""
    start = 0
    for stop in range(1, len(due) + 1):
        if stop == len(due) or due[stop][3] is not due[start][3]:
            yield Span(due[start][3], due[start][2], due[stop - 1][2] + 1)
            start = stop
