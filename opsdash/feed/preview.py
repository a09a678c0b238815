"""The newest lines of a run, read ahead of a long past.

They tell a first screen where the run stands. Everything is read again in its
order afterwards, so what is read here is marked and folded apart.
"""

from collections.abc import Iterable, Sequence

from agent.rundir.events import RunStarted, decode
from agent.rundir.windows import read_window
from opsdash.feed.cursor import PIECE_BYTES, Clocks, Cursor
from opsdash.feed.past import tail_place
from opsdash.projections.batch import Lines

_ALL_BYTES = 1 << 20
_MIN_BYTES = 8 << 10
_HEAD_BYTES = 4 << 10
_EVERY_NS = 250_000_000


class Preview:
    """The ends of the logs of one attempt."""

    def __init__(self, cursors: Sequence[Cursor]) -> None:
        """Take the files of the newest attempt, in order; they stay untouched."""
        logs: dict[str, list[Cursor]] = {}
        for cursor in cursors:
            logs.setdefault(cursor.stem, []).append(cursor)
        share = min(max(_ALL_BYTES // max(1, len(logs)), _MIN_BYTES), PIECE_BYTES)
        self._heads = [log[0] for log in logs.values()]
        self._tails = [end for log in logs.values() for end in _ends(log, share)]
        self._read_ns: int | None = None

    def read(self, clocks: Clocks) -> list[Lines]:
        """Return what is new; at first who the processes are and their newest lines."""
        is_first = self._read_ns is None
        if self._read_ns is not None and clocks.mono_ns - self._read_ns < _EVERY_NS:
            return []
        self._read_ns = clocks.mono_ns
        heads = (_head(cursor, clocks) for cursor in self._heads if is_first)
        tails = (cursor.read(clocks) for cursor in self._tails if cursor.look())
        return [*_there(heads), *_there(tails)]


def _ends(log: Sequence[Cursor], num_bytes: int) -> list[Cursor]:
    """Return cursors of our own at the last lines of a log's segments."""
    ends = [_copy(cursor) for cursor in log[-2:]]
    for end in ends:
        end.look()
    place = tail_place(ends, num_bytes)
    if place is None:
        return []
    place[0].tail.offset = place[1]
    return ends[ends.index(place[0]) :]


def _copy(cursor: Cursor) -> Cursor:
    return Cursor(
        path=cursor.path,
        attempt=cursor.attempt,
        file=cursor.file,
        stem=cursor.stem,
        rank=cursor.rank,
    )


def _head(cursor: Cursor, clocks: Clocks) -> Lines | None:
    """Return who a process is, as every segment says first."""
    try:
        data = read_window(cursor.path, 0, limit=_HEAD_BYTES, is_final=True)
    except OSError:
        return None
    event = decode(data.partition(b"\n")[0])
    if not isinstance(event, RunStarted):
        return None
    origin = cursor.origin(event.mono_ns, clocks)
    return Lines(origin, (0,), (event,), is_thinned=True)


def _there(lines: Iterable[Lines | None]) -> Iterable[Lines]:
    return (part for part in lines if part is not None)
