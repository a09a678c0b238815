"""The events of a run as rows of a table, or those that a filter lets through.

A filter over a long log is worked off in slices, so that keys are answered in
between; the count beside the filter says how far it is. An expression that
takes too long is taken literally.
"""

import time
from array import array
from bisect import bisect_left
from collections.abc import Hashable, Sequence

from agent.rundir.events import Undecodable, decode
from agent.rundir.layout import RunDir
from opsdash import units
from opsdash.feed.cursor import read_line
from opsdash.projections.event_words import Severity, describe
from opsdash.projections.events_log import EventFilter, EventRow, EventsLog
from opsdash.projections.match import Matcher, matcher
from opsdash.widgets.patience import OutOfPatienceError, patience
from opsdash.widgets.rows import Cell, Column

COLUMNS = (
    Column("time", 8, sortable=False),
    Column("", 1, sortable=False),
    Column("who", 10, sortable=False),
    Column("step", 7, align_right=True, sortable=False),
    Column("kind", 20, sortable=False),
    Column("what", 20, flex=1, sortable=False),
)
_SLICE = 1_000
_LOOK_S = 0.012
"""Of each call of `advance`: a key waits no longer."""
_PATIENCE_S = 0.25
_MAX_SAID = 4_096
_TONES = {Severity.ERROR: "bad", Severity.WARNING: "warn", Severity.DETAIL: "dim"}
_LETTERS = {Severity.ERROR: "E", Severity.WARNING: "W", Severity.INFO: " "}


class EventRows:
    """A row model over the log; `advance` looks at the next slice of a filter."""

    def __init__(self, log: EventsLog, run: RunDir) -> None:
        self.log = log
        self.run = run
        self._pattern: Matcher = matcher("")
        self._wanted = EventFilter()
        self._found = array("q")
        self._looked_upto = 0
        self._said: dict[int, str] = {}

    @property
    def is_filtered(self) -> bool:
        """Whether rows may be left out."""
        return not (self._pattern.is_everything and self._wanted == EventFilter())

    @property
    def is_literal(self) -> bool:
        """Whether the pattern is not taken as a regular expression."""
        return self._pattern.is_literal

    def restrict(self, pattern: str, wanted: EventFilter) -> None:
        """Begin a filter anew."""
        self._restrict(matcher(pattern), wanted)

    def advance(self) -> bool:
        """Look on for a moment; True: there is more to look at."""
        until_s = time.monotonic() + _LOOK_S
        while self.is_filtered and self._looked_upto < self.log.stop:
            self._look_at_slice()
            if time.monotonic() >= until_s:
                break
        self._forget_dropped()
        return self.is_filtered and self._looked_upto < self.log.stop

    def __len__(self) -> int:
        return len(self._found) if self.is_filtered else len(self.log)

    def key(self, index: int) -> Hashable:
        """Return the number of the event, which never changes."""
        return self.number(index)

    def find(self, key: Hashable) -> int | None:
        """Return where an event is now."""
        if not isinstance(key, int):
            return None
        if not self.is_filtered:
            return (
                key - self.log.first if self.log.first <= key < self.log.stop else None
            )
        place = bisect_left(self._found, key)
        is_here = place < len(self._found) and self._found[place] == key
        return place if is_here else None

    def row(self, index: int) -> Sequence[Cell]:
        """Return the cells of an event."""
        number = self.number(index)
        row = self.log.row(number)
        tone = _TONES.get(row.severity, "")
        return (
            Cell(units.clock_time(row.time_ns or None), "dim"),
            Cell(_LETTERS.get(row.severity, ""), tone),
            Cell(row.node),
            Cell(_when(row), "dim"),
            Cell(row.kind, tone),
            Cell(self.words(number, row), "" if tone == "dim" else tone),
        )

    def words(self, number: int, row: EventRow) -> str:
        """Return an event in words; a frequent one is read from its line again."""
        if row.text is not None:
            return row.text
        said = self._said.get(number)
        if said is None:
            said = self._say_again(row)
            if len(self._said) > _MAX_SAID:
                self._said.clear()
            self._said[number] = said
        return said

    def line(self, number: int) -> str:
        """Return an event's line as it stands on disk; empty: it is gone."""
        row = self.log.row(number)
        try:
            found = read_line(self.run, row.file, row.offset)
        except OSError:
            return ""
        return found.decode("utf-8", "replace")

    def number(self, index: int) -> int:
        """Return the number of the event in a row."""
        return self._found[index] if self.is_filtered else self.log.first + index

    def numbers(self) -> Sequence[int]:
        """Return the numbers of all rows as they are now."""
        if self.is_filtered:
            return array("q", self._found)
        return range(self.log.first, self.log.stop)

    def _look_at_slice(self) -> None:
        start = max(self._looked_upto, self.log.first)
        stop = min(self.log.stop, start + _SLICE)
        numbers = self.log.select(self._wanted, start, stop)
        try:
            with patience(_PATIENCE_S):
                self._found.extend(self._matching(numbers))
        except OutOfPatienceError:
            literally = matcher(self._pattern.pattern, is_literal=True)
            self._restrict(literally, self._wanted)
            return
        self._looked_upto = stop

    def _forget_dropped(self) -> None:
        """Let go of events that the log has dropped."""
        del self._found[: bisect_left(self._found, self.log.first)]

    def _matching(self, numbers: list[int]) -> list[int]:
        text, matches = self.log.search_text, self._pattern
        return [number for number in numbers if matches(text(number))]

    def _restrict(self, pattern: Matcher, wanted: EventFilter) -> None:
        self._pattern, self._wanted = pattern, wanted
        self._found, self._looked_upto = array("q"), self.log.first

    def _say_again(self, row: EventRow) -> str:
        try:
            event = decode(read_line(self.run, row.file, row.offset))
        except OSError as error:
            return f"its line cannot be read: {error.strerror}"
        return "" if isinstance(event, Undecodable) else describe(event)


def _when(row: EventRow) -> str:
    return f"r {row.round_num}" if row.round_num is not None else units.count(row.step)
