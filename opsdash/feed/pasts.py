"""Which logs are too long to be folded line by line, and how much of each is.

Folding a line costs 15 us, so what is read in full is bounded over all
processes: attaching takes as long to a run of a year as to one of an hour.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

from agent.rundir.layout import RunDir
from opsdash.feed.cursor import Cursor
from opsdash.feed.past import Past, tail_place

FULL_BYTES = 8 << 20
"""Logs of an attempt that together have no more are read in full."""
_ALL_TAILS_BYTES = 2 << 20
"""The newest parts of all logs of the newest attempt, which are complete."""
_MIN_TAIL_BYTES, _MAX_TAIL_BYTES = 64 << 10, 1 << 20


def plan_pasts(
    run: RunDir, cursors: Sequence[Cursor], newest_attempt: int, full_bytes: int
) -> Iterator[Past]:
    """Yield the pasts of processes that were found just now and wrote much.

    Args:
        run: The run.
        cursors: All of them, in the order in which they are read.
        newest_attempt: Of earlier ones nothing is complete but short logs.
        full_bytes: Logs of an attempt that have no more are left as they are.
    """
    for attempt, group in groupby(cursors, key=lambda cursor: cursor.attempt):
        logs: dict[str, list[Cursor]] = {}
        for cursor in group:
            logs.setdefault(cursor.stem, []).append(cursor)
        fresh = [log for log in logs.values() if all(c.is_fresh for c in log)]
        for cursor in (cursor for log in fresh for cursor in log):
            cursor.look()
        if sum(map(_size, logs.values())) > full_bytes:
            is_newest = attempt == newest_attempt
            tail_bytes = _tail_bytes(len(logs)) if is_newest else 0
            yield from _plan_attempt(run, fresh, tail_bytes)


def _plan_attempt(
    run: RunDir, logs: Sequence[list[Cursor]], tail_bytes: int
) -> Iterator[Past]:
    for log in logs:
        if _size(log) <= max(2 * tail_bytes, _MIN_TAIL_BYTES):
            continue
        place = tail_place(log, tail_bytes)
        if place is not None and not any(cursor.problem for cursor in log):
            yield Past(run, log, place)


def _tail_bytes(num_logs: int) -> int:
    share = _ALL_TAILS_BYTES // max(1, num_logs)
    return max(_MIN_TAIL_BYTES, min(share, _MAX_TAIL_BYTES))


def _size(log: Sequence[Cursor]) -> int:
    return sum(cursor.size for cursor in log)
