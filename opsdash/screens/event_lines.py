"""What stands in the lines of events, read beside the screen a page at a time.

Of what comes with every step the log keeps no words. A page is read when a row
of it is drawn; it is there a moment later, or as late as the disk lets it.
"""

from collections.abc import Callable, Iterable

from agent.rundir.events import Undecodable, decode
from agent.rundir.layout import RunDir
from opsdash.feed.cursor import read_line
from opsdash.operations.beside import Beside
from opsdash.operations.export import ExportedEvent
from opsdash.projections.event_words import describe
from opsdash.projections.events_log import EventRow

PAGE_ROWS = 64
_MAX_SAID = 4_096
_COPY_S = 0.2
"""A key that copies a line waits so long for it."""


class EventLines:
    """The lines of one run's events, by the events' numbers."""

    def __init__(self, run: RunDir, on_answer: Callable[[], None]) -> None:
        """Prepare; `on_answer` is called in the reading thread."""
        self.run = run
        self._beside = Beside("opsdash-lines", on_answer)
        self._said: dict[int, str] = {}
        self._asked: frozenset[int] = frozenset()
        """Of the newest page that is being read: they need no other."""

    def words(
        self,
        number: int,
        row: EventRow,
        page: Callable[[], Iterable[tuple[int, EventRow]]],
    ) -> str | None:
        """Return an event in words; None: they are being read.

        Args:
            number: Of the event.
            row: The event.
            page: Returns the rows that are to be read together with it.
        """
        if row.text is not None:
            return row.text
        if number not in self._said and number not in self._asked:
            self._ask(number, row, page())
        return self._said.get(number)

    def line(self, number: int, row: EventRow) -> str:
        """Return an event's line as it stands on disk; empty: it is gone, or late."""
        what = ("line", number)
        self._beside.ask(what, lambda: _line_of(self.run, row))
        self._beside.wait(what, _COPY_S)
        answers = self._beside.take()
        self._keep(answers.values())
        found = answers.get(what)
        return found if isinstance(found, str) else ""

    def take(self) -> bool:
        """Keep what was read since the last call; True: there was something."""
        return self._keep(self._beside.take().values())

    def stop(self) -> None:
        """Read nothing more."""
        self._beside.stop()

    def _ask(
        self, number: int, row: EventRow, page: Iterable[tuple[int, EventRow]]
    ) -> None:
        wanted = {
            other: its_row
            for other, its_row in page
            if its_row.text is None and other not in self._said
        }
        wanted[number] = row
        self._asked = frozenset(wanted)
        what = ("words", number)
        self._beside.ask(
            what, lambda: {n: _words_of(self.run, one) for n, one in wanted.items()}
        )
        if self._beside.wait(what):
            self.take()

    def _keep(self, answers: Iterable[object]) -> bool:
        is_news = False
        for answer in answers:
            if isinstance(answer, dict):
                if len(self._said) > _MAX_SAID:
                    self._said.clear()
                self._said.update(answer)
                self._asked -= answer.keys()
                is_news = True
        return is_news


def exported(run: RunDir, row: EventRow) -> ExportedEvent:
    """Return a row as it is exported, its line read now."""
    return ExportedEvent(
        time_ns=row.time_ns,
        attempt=row.attempt,
        node=row.node,
        kind=row.kind,
        severity=row.severity,
        step=row.step,
        round_num=row.round_num,
        text=_words_of(run, row),
        file=row.file,
        offset=row.offset,
        line=_line_of(run, row),
    )


def _line_of(run: RunDir, row: EventRow) -> str:
    """Return a row's line as it stands on disk; empty: it is gone."""
    return read_line(run, row.file, row.offset).decode("utf-8", "replace")


def _words_of(run: RunDir, row: EventRow) -> str:
    """Return a row in words, said again from its line where none were kept."""
    if row.text is not None:
        return row.text
    event = decode(read_line(run, row.file, row.offset))
    return "" if isinstance(event, Undecodable) else describe(event)
