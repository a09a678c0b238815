"""The events of a run as rows of a table, or those that a filter lets through.

A filter over a long log is worked off in slices, so that keys are answered in
between; the count beside the filter says how far it is. An expression that
takes too long is taken literally. Nothing here reads a file.
"""

import time
from array import array
from bisect import bisect_left
from collections.abc import Hashable, Iterator, Sequence

from opsdash import units
from opsdash.projections.event_words import Severity
from opsdash.projections.events_log import EventFilter, EventRow, EventsLog
from opsdash.projections.match import Matcher, matcher
from opsdash.screens.event_lines import PAGE_ROWS, EventLines
from opsdash.screens.row_order import Order, RowOrder
from opsdash.widgets.patience import OutOfPatienceError, patience
from opsdash.widgets.rows import Cell, Column

COLUMNS = (
    Column("time", 8),
    Column("!", 1),
    Column("who", 10),
    Column("step", 7, align_right=True),
    Column("kind", 20),
    Column("what", 20, flex=1, sortable=False),
)
_SLICE = 250
_LOOK_S = 0.005
"""Of each call of `advance`: a key waits no longer."""
_PATIENCE_S = 0.25
_REST = 10
"""An order is made anew after so many times as long as that takes."""
_LEAST_REST_S = 1.0
AS_TOLD = ("time", False)
"""The order in which events came: the only one that can be followed."""
READING = "reading"
"""Stands where words will be."""
_KEYS = {"!": "severity"}
_TONES = {Severity.ERROR: "bad", Severity.WARNING: "warn", Severity.DETAIL: "dim"}
_LETTERS = {Severity.ERROR: "E", Severity.WARNING: "W", Severity.INFO: " "}


class EventRows:
    """A row model over the log; `advance` looks at the next slice of a filter."""

    def __init__(self, log: EventsLog, lines: EventLines) -> None:
        self.log = log
        self.lines = lines
        self._pattern: Matcher = matcher("")
        self._wanted = EventFilter()
        self._found = array("q")
        self._looked_upto = 0
        self.sort = AS_TOLD
        self._order: Order | None = None
        self._ordering: RowOrder | None = None
        self._seen: tuple[int, int] = (0, 0)
        """First row and end of what the newest order was made of."""
        self._began_s = self._rests_until_s = 0.0

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

    def order_by(self, column: str, *, is_descending: bool) -> None:
        """Have the rows put in another order; `advance` goes on with it."""
        self.sort = (column, is_descending)
        self._forget_order()

    def advance(self) -> bool:
        """Look on for a moment; True: there is more to look at."""
        until_s = time.monotonic() + _LOOK_S
        while self.is_filtered and self._looked_upto < self.log.stop:
            self._look_at_slice()
            if time.monotonic() >= until_s:
                break
        self._forget_dropped()
        is_more = self.is_filtered and self._looked_upto < self.log.stop
        if not is_more and self.sort != AS_TOLD:
            self._go_on_ordering()
        return is_more or self._ordering is not None

    def __len__(self) -> int:
        if self._order is not None:
            return len(self._order.ids)
        return len(self._found) if self.is_filtered else len(self.log)

    def key(self, index: int) -> Hashable:
        """Return the number of the event, which never changes."""
        return self.number(index)

    def find(self, key: Hashable) -> int | None:
        """Return where an event is now."""
        if not isinstance(key, int):
            return None
        if self._order is not None:
            return self._order.find(key)
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
        if number < self.log.first:  # dropped since this order was made
            return (Cell("-", "dim"),)
        row = self.log.row(number)
        tone, words = _TONES.get(row.severity, ""), self.words(number, row)
        return (
            Cell(units.clock_time(row.time_ns or None), "dim"),
            Cell(_LETTERS.get(row.severity, ""), tone),
            Cell(row.node),
            Cell(_when(row), "dim"),
            Cell(row.kind, tone),
            Cell(READING, "dim")
            if words is None
            else Cell(words, "" if tone == "dim" else tone),
        )

    def words(self, number: int, row: EventRow) -> str | None:
        """Return an event in words; None: its line is being read."""
        return self.lines.words(number, row, lambda: self._page(number))

    def number(self, index: int) -> int:
        """Return the number of the event in a row."""
        if self._order is not None:
            return self._order.ids[index]
        return self._found[index] if self.is_filtered else self.log.first + index

    def numbers(self) -> Sequence[int]:
        """Return the numbers of all rows as they are now."""
        if self._order is not None:
            return self._order.ids
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

    def _go_on_ordering(self) -> None:
        """Take over an order that is made, or begin one where there is news."""
        now_s = time.monotonic()
        if self._ordering is not None:
            made = self._ordering.take()
            if made is not None:
                self._order, self._ordering = made, None
                rest_s = max(_LEAST_REST_S, _REST * (now_s - self._began_s))
                self._rests_until_s = now_s + rest_s
            return
        seen = (self.log.first, self.log.stop)
        if self._order is not None and (
            seen == self._seen or now_s < self._rests_until_s
        ):
            return
        column, is_descending = self.sort
        self._seen, self._began_s = seen, now_s
        self._ordering = RowOrder(
            array("q", self._found) if self.is_filtered else range(*seen),
            self.log.order_keys(_KEYS.get(column, column)),
            is_descending=is_descending,
            first=self.log.first,
        )

    def _forget_order(self) -> None:
        if self._ordering is not None:
            self._ordering.stop()
        self._order = self._ordering = None

    def _restrict(self, pattern: Matcher, wanted: EventFilter) -> None:
        self._forget_order()
        self._pattern, self._wanted = pattern, wanted
        self._found, self._looked_upto = array("q"), self.log.first

    def _page(self, number: int) -> Iterator[tuple[int, EventRow]]:
        """Yield the rows from an event's on that are drawn together with it."""
        start = self.find(number)
        if start is None:
            return
        for index in range(start, min(start + PAGE_ROWS, len(self))):
            other = self.number(index)
            if self.log.first <= other < self.log.stop:
                yield other, self.log.row(other)


def _when(row: EventRow) -> str:
    return f"r {row.round_num}" if row.round_num is not None else units.count(row.step)
