"""The newest events of a run as rows of a list that never outgrows its bound.

Columns are arrays and interned strings: 200,000 rows take about 5 MB. What
comes with every step keeps no text; its line is found again by file and
offset. Heartbeats are no rows: they are state, and the overview shows it.
"""

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from agent.rundir.events import Event, Heartbeat, kind
from opsdash.projections.batch import Batch, Lines
from opsdash.projections.columns import Ranked, appended
from opsdash.projections.event_words import Severity, describe, severity
from opsdash.projections.plausible import MAX_COUNT, clip, whole

MAX_ROWS = 200_000
_BLOCK = 8_192
"""Rows are dropped by the block."""
_MAX_TEXTS = 50_000
_MAX_NAMES = 65_000
_NO_STEP = -1
_FIRST_ROUND = -2
"""A round is kept where a step would be, counted downwards from here."""
UNREADABLE, NEWER = "unreadable", "newer"
"""Kinds of rows that are lines and no events."""


class EventRow(NamedTuple):
    """One event."""

    time_ns: int
    """Writer's wall clock, Unix ns; of a line that is no event, its neighbour's."""
    kind: str
    node: str
    """The process: `rank-00003`, `server`, or a client's key."""
    attempt: int
    step: int | None
    round_num: int | None
    """Of an event that has no step of its own."""
    severity: Severity
    text: str | None
    """In words; None: say it again from its line, at `file` and `offset`."""
    file: str
    """Below `telemetry/`."""
    offset: int
    """Where its line begins, bytes."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which rows are meant; what is None does not restrict."""

    kinds: frozenset[str] | None = None
    node: str | None = None
    min_severity: Severity = Severity.DETAIL
    step: int | None = None
    attempt: int | None = None
    round_num: int | None = None


class _File(NamedTuple):
    attempt: int
    stem: str
    file: str


class EventsLog:
    """Folds everything into a ring of rows, numbered from 0 since attaching."""

    def __init__(self) -> None:
        self.first = 0
        """Number of the oldest row that is still kept."""
        self.num_undecodable = 0
        self.num_newer = 0
        self.num_overlong = 0
        self._times = array("q")
        self._offsets = array("I")
        self._steps = array("i")
        self._kinds = array("B")
        self._files = array("H")
        self._severities = array("B")
        self._texts: dict[int, str] = {}
        self._text_order: deque[int] = deque()
        self._kind_names: list[str] = []
        self._kind_ids: dict[str, int] = {}
        self._ids_of_types: dict[type[Event], int] = {}
        self._file_names: list[_File] = []
        self._file_ids: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._times)

    @property
    def stop(self) -> int:
        """Number that the next row will have."""
        return self.first + len(self)

    def on_batch(self, batch: Batch) -> None:
        """Take in what could not be read as lines at all."""
        self.num_overlong = batch.num_overlong

    def on_lines(self, lines: Lines, start: int = 0, stop: int | None = None) -> None:
        """Take in consecutive lines of one file.

        Args:
            lines: Of that file.
            start: The first of their events that is meant.
            stop: The first that is not meant any more; None: all of them. What
                is no event goes with the last one.
        """
        events, offsets = lines.events, lines.offsets
        file_id = self._file_id(lines)
        stop = len(events) if stop is None else stop
        for index in range(start, stop):
            event = events[index]
            if type(event) is Heartbeat:
                continue
            weight = severity(event)
            text = describe(event) if weight > Severity.DETAIL else None
            kind_id = self._ids_of_types.get(type(event))
            if kind_id is None:
                kind_id = self._ids_of_types[type(event)] = self._kind_id(kind(event))
            when = _when(event)
            self._append(
                event.time_ns, kind_id, file_id, offsets[index], when, weight, text
            )
        if stop == len(events):
            self._take_unreadable(lines, file_id)

    def row(self, number: int) -> EventRow:
        """Return a row by its number.

        Raises:
            IndexError: it was dropped, or does not exist yet.
        """
        index = number - self.first
        if not 0 <= index < len(self):
            raise IndexError(number)
        file = self._file_names[self._files[index]]
        step = self._steps[index]
        return EventRow(
            time_ns=self._times[index],
            kind=self._kind_names[self._kinds[index]],
            node=file.stem,
            attempt=file.attempt,
            step=step if step >= 0 else None,
            round_num=_FIRST_ROUND - step if step <= _FIRST_ROUND else None,
            severity=Severity(self._severities[index]),
            text=self._texts.get(number),
            file=file.file,
            offset=self._offsets[index],
        )

    def select(
        self, wanted: EventFilter, since: int = 0, before: int | None = None
    ) -> list[int]:
        """Return the numbers of the rows that a filter lets through.

        Args:
            wanted: Which rows.
            since: The first row to look at.
            before: The first row not to look at any more; None: look at all.
        """
        kinds = self._wanted_kinds(wanted)
        files = self._wanted_files(wanted)
        when = wanted.step
        if when is None and wanted.round_num is not None:
            when = _FIRST_ROUND - wanted.round_num
        start = max(since, self.first)
        stop = self.stop if before is None else min(before, self.stop)
        return [
            number
            for number in range(start, stop)
            if self._severities[number - self.first] >= wanted.min_severity
            and (kinds is None or self._kinds[number - self.first] in kinds)
            and (files is None or self._files[number - self.first] in files)
            and (when is None or self._steps[number - self.first] == when)
        ]

    def newest_with_words(self, num: int, *, among: int) -> list[int]:
        """Return the numbers of the newest rows that matter, newest first.

        Args:
            num: At most so many.
            among: Only the so many newest of all rows are looked at.
        """
        since = max(self.first, self.stop - among)
        newest = islice(reversed(self._text_order), num)
        return [number for number in newest if number >= since]

    def order_keys(self, column: str) -> Sequence[int]:
        """Return what rows are ordered by, none negative, from `first` on: a copy.

        Args:
            column: `who`, `kind`, `step` (or round) or `severity`; any other: the
                order in which rows came.
        """
        if column == "severity":
            return self._severities[:]
        if column == "step":
            return _Steps(self._steps[:])
        if column in ("who", "kind"):
            names = [file.stem for file in self._file_names]
            ids = self._files[:]
            if column == "kind":
                names, ids = self._kind_names, self._kinds[:]
            places = {name: place for place, name in enumerate(sorted(set(names)))}
            return Ranked(ids, [places[name] for name in names])
        return range(len(self))

    def by_time(self, numbers: list[int]) -> list[int]:
        """Return rows in the order of the writers' wall clocks, for reading."""
        return sorted(numbers, key=lambda number: self._times[number - self.first])

    def search_text(self, number: int) -> str:
        """Return what a search looks at: kind, process, step, and words if kept."""
        index, when = number - self.first, ""
        if not 0 <= index < len(self):
            raise IndexError(number)
        # A filter looks at every row: making one of each would take thrice as long.
        step = self._steps[index]
        if step >= 0:
            when = str(step)
        elif step <= _FIRST_ROUND:
            when = f"round {_FIRST_ROUND - step}"
        kind_name = self._kind_names[self._kinds[index]]
        stem = self._file_names[self._files[index]].stem
        return f"{kind_name} {stem} {when} {self._texts.get(number) or ''}"

    def _append(
        self,
        time_ns: int,
        kind_id: int,
        file_id: int,
        offset: int,
        when: int,
        weight: Severity,
        text: str | None,
    ) -> None:
        self._times.append(time_ns if 0 <= time_ns <= 1 << 62 else 0)
        self._offsets = appended(self._offsets, min(offset, MAX_COUNT))
        self._steps = appended(self._steps, when)
        self._kinds.append(kind_id)
        self._files.append(file_id)
        self._severities.append(weight)
        if text is not None:
            self._keep_text(self.stop - 1, text)
        if len(self._times) > MAX_ROWS:
            self._drop_block()

    def _take_unreadable(self, lines: Lines, file_id: int) -> None:
        self.num_undecodable += lines.num_undecodable
        self.num_newer += lines.num_newer
        time_ns = lines.events[-1].time_ns if lines.events else 0
        for line in lines.unreadable:
            kind_id = self._kind_id(NEWER if line.is_newer_kind else UNREADABLE)
            weight = Severity.INFO if line.is_newer_kind else Severity.WARNING
            text = clip(f"{line.reason}: {line.head}")
            self._append(time_ns, kind_id, file_id, line.offset, _NO_STEP, weight, text)

    def _keep_text(self, number: int, text: str) -> None:
        self._texts[number] = text
        self._text_order.append(number)
        if len(self._text_order) > _MAX_TEXTS:
            self._texts.pop(self._text_order.popleft(), None)

    def _drop_block(self) -> None:
        wide = (self._times, self._offsets, self._steps)
        narrow = (self._kinds, self._files, self._severities)
        for column in (*wide, *narrow):
            del column[:_BLOCK]
        self.first += _BLOCK
        while self._text_order and self._text_order[0] < self.first:
            self._texts.pop(self._text_order.popleft(), None)

    def _kind_id(self, name: str) -> int:
        found = self._kind_ids.get(name)
        if found is None:
            found = self._kind_ids[name] = len(self._kind_names)
            self._kind_names.append(name)
        return found

    def _file_id(self, lines: Lines) -> int:
        origin = lines.origin
        found = self._file_ids.get(origin.file)
        if found is None:
            if len(self._file_names) >= _MAX_NAMES:
                return len(self._file_names) - 1
            found = self._file_ids[origin.file] = len(self._file_names)
            file = _File(origin.attempt, origin.stem, origin.file)
            self._file_names.append(file)
        return found

    def _wanted_kinds(self, wanted: EventFilter) -> set[int] | None:
        if wanted.kinds is None:
            return None
        return {self._kind_ids[name] for name in wanted.kinds if name in self._kind_ids}

    def _wanted_files(self, wanted: EventFilter) -> set[int] | None:
        if wanted.node is None and wanted.attempt is None:
            return None
        return {
            number
            for number, file in enumerate(self._file_names)
            if wanted.node in (None, file.stem)
            and wanted.attempt in (None, file.attempt)
        }


class _Steps(Sequence[int]):
    """Steps, or rounds, as numbers from 1; 0: neither was told."""

    def __init__(self, steps: "array[int]") -> None:
        self._steps = steps

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> int:  # type: ignore[override]  # no slices
        step = self._steps[index]
        return step + 1 if step >= _NO_STEP else _FIRST_ROUND - step + 1


def _when(event: Event) -> int:
    """Return the step of an event, or its round as a negative number."""
    step, round_num = whole(event.step), whole(event.round_num)
    if step is not None:
        return step
    return _NO_STEP if round_num is None else _FIRST_ROUND - round_num
