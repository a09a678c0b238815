"""Every telemetry file of a run, found and read in pieces that keep step.

Files of an attempt are read in turns, a piece each, and who is a piece ahead of
the slowest waits: ranks advance together, so that a barrier's arrivals meet.
Attempts are read oldest first. Of a long log the past comes thinned.
"""

import math
import os
import re
from pathlib import Path

from agent.rundir.layout import RunDir, parse_telemetry_name
from opsdash.feed.cursor import Clocks, Cursor
from opsdash.feed.past import Past
from opsdash.feed.pasts import FULL_BYTES, plan_pasts
from opsdash.feed.preview import Preview
from opsdash.projections.batch import Lines, Problem
from opsdash.projections.plausible import MAX_RANKS

_MAX_FILES = 8_192
_MAX_PROBLEMS = 20
_TICK_NS = 10**9
"""Modification times younger than this may change without being seen to."""
_RANK = re.compile(r"rank-(\d{1,9})")


class Telemetry:
    """All telemetry files of one run."""

    def __init__(self, run: RunDir, *, full_bytes: int = FULL_BYTES) -> None:
        self._run = run
        self._full_bytes = full_bytes
        self._cursors: dict[str, Cursor] = {}
        self._scanned: dict[str, int] = {}
        self._problems: dict[str, Problem] = {}
        self._pasts: dict[tuple[int, str], Past] = {}
        self._preview: Preview | None = None
        self.newest_attempt = 0
        self.backlog_bytes = 0
        """Known to be on disk and not read."""
        self.read_bytes = 0
        """Read in total."""
        self.num_overlong = 0
        """Lines too long to be lines, in total."""
        self.problems: tuple[Problem, ...] = ()
        """What cannot be read now, a few of many."""

    @property
    def cursors(self) -> list[Cursor]:
        """Every file that was found, oldest attempt first."""
        return list(self._cursors.values())

    def take_stock(self, clocks: Clocks) -> None:
        """Count what was read, what was not, and what cannot be."""
        cursors = self._cursors.values()
        past_bytes = sum(past.backlog for past in self._pasts.values())
        self.backlog_bytes = past_bytes + sum(cursor.backlog for cursor in cursors)
        self.read_bytes = sum(cursor.tail.offset for cursor in cursors) - past_bytes
        self.num_overlong = sum(cursor.tail.num_overlong for cursor in cursors)
        self.problems = self._find_problems(clocks)

    def discover(self, clocks: Clocks, *, is_thorough: bool) -> None:
        """Look for new files.

        Args:
            clocks: Now.
            is_thorough: Also in folders whose modification time stands still.
        """
        root, num_known = self._run.telemetry, len(self._cursors)
        for attempt, folder in self._attempt_folders(root):
            self.newest_attempt = max(self.newest_attempt, attempt)
            try:
                changed_ns = folder.stat().st_mtime_ns
                if is_thorough or self._scanned.get(folder.name) != changed_ns:
                    # A file made in the same tick of the clock leaves no trace.
                    if clocks.time_ns - changed_ns > _TICK_NS:
                        self._scanned[folder.name] = changed_ns
                    self._scan(attempt, folder)
                self._problems.pop(folder.name, None)
            except OSError as error:
                text = error.strerror or str(error)
                self._problems[folder.name] = Problem(f"telemetry/{folder.name}", text)
        if len(self._cursors) > num_known:
            found = sorted(self._cursors.values(), key=_file_order)
            self._cursors = {cursor.file: cursor for cursor in found}
            self._plan_pasts(found)

    def read_preview(self, clocks: Clocks) -> list[Lines]:
        """Return the newest lines while a long past is not read yet; empty: go on."""
        if not self._pasts:
            self._preview = None
            return []
        if self._preview is None:
            newest = self.newest_attempt
            cursors = [c for c in self._cursors.values() if c.attempt == newest]
            self._preview = Preview(cursors)
        return self._preview.read(clocks)

    def read_turn(self, clocks: Clocks, *, with_old: bool) -> list[Lines]:
        """Read a piece of each file of the oldest attempt that has unread lines.

        Args:
            clocks: Now.
            with_old: Also look at files of earlier attempts that were read to
                their end; nobody writes them, so rarely is enough.
        """
        found: list[Lines] = []
        behind: set[tuple[int, str]] = set()
        busy_attempt: int | None = None
        horizon_ns = self._horizon_ns()
        for cursor in self._cursors.values():
            if busy_attempt is not None and cursor.attempt > busy_attempt:
                break
            # A process's next segment waits until the one before is read.
            if cursor.process in behind or (not with_old and self._is_settled(cursor)):
                continue
            if past := self._pasts.get(cursor.process):
                found += self._read_past(past, clocks, horizon_ns)
            elif (cursor.last_time_ns or 0) <= horizon_ns or not cursor.backlog:
                if not cursor.look():
                    continue  # nothing new, as in most files most of the time
                if lines := cursor.read(clocks):
                    found.append(lines)
                if not cursor.backlog:
                    continue
            behind.add(cursor.process)
            busy_attempt = cursor.attempt
        return found

    def _horizon_ns(self) -> float:
        """Return how far history may be read: a piece past the slowest file.

        Wall clocks of hosts differ by less than that matters here.
        """
        if not self.backlog_bytes:
            return math.inf
        sources: list[Cursor | Past] = [*self._cursors.values(), *self._pasts.values()]
        behind = [source for source in sources if source.backlog]
        oldest = min((source.attempt for source in behind), default=0)
        known = [
            source.last_time_ns + source.span_ns
            for source in behind
            if source.attempt == oldest and source.last_time_ns is not None
        ]
        return min(known, default=math.inf)

    def _plan_pasts(self, cursors: list[Cursor]) -> None:
        pasts = plan_pasts(self._run, cursors, self.newest_attempt, self._full_bytes)
        for past in pasts:
            self._pasts[past.attempt, past.stem] = past

    def _read_past(self, past: Past, clocks: Clocks, horizon_ns: float) -> list[Lines]:
        if (past.last_time_ns or 0) > horizon_ns:
            return []
        lines = past.read(clocks)
        if past.problem:
            where = f"telemetry/{past.attempt:04d}/{past.stem}"
            self._problems[where] = Problem(where, past.problem)
        if not past.backlog:
            del self._pasts[past.attempt, past.stem]
        return lines

    def _find_problems(self, clocks: Clocks) -> tuple[Problem, ...]:
        found = list(self._problems.values())
        for cursor in self._cursors.values():
            text = cursor.problem or cursor.clock_problem(clocks)
            if text:
                found.append(Problem(f"telemetry/{cursor.file}", text))
            if len(found) >= _MAX_PROBLEMS:
                break
        return tuple(found)

    def _is_settled(self, cursor: Cursor) -> bool:
        return cursor.attempt < self.newest_attempt and cursor.is_live

    def _attempt_folders(self, root: Path) -> list[tuple[int, Path]]:
        try:
            with os.scandir(root) as entries:
                names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
            self._problems.pop("", None)
        except FileNotFoundError:
            return []
        except OSError as error:
            self._problems[""] = Problem("telemetry", error.strerror or str(error))
            return []
        numbers = [name for name in names if name.isdecimal() and len(name) <= 9]
        return sorted((int(name), root / name) for name in numbers)

    def _scan(self, attempt: int, folder: Path) -> None:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            file = f"{folder.name}/{name}"
            parsed = parse_telemetry_name(name)
            if parsed is None or file in self._cursors:
                continue
            if len(self._cursors) >= _MAX_FILES:
                text = f"more than {_MAX_FILES} files; the rest is not read"
                self._problems["many"] = Problem("telemetry", text)
                return
            self._cursors[file] = Cursor(
                path=folder / name,
                attempt=attempt,
                file=file,
                stem=parsed.stem,
                rank=_rank(parsed.stem),
            )


def _rank(stem: str) -> int | None:
    match = _RANK.fullmatch(stem)
    rank = int(match[1]) if match else MAX_RANKS
    return rank if rank < MAX_RANKS else None


def _file_order(cursor: Cursor) -> tuple[int, int, str, str]:
    parsed = parse_telemetry_name(cursor.path.name)
    segment = parsed.segment if parsed else 1
    return cursor.attempt, segment, cursor.stem, cursor.file
