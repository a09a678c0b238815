"""Pane 7: everything that was told, filtered as it is typed."""

import contextlib
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input

from agent.rundir.layout import RunDir, rank_stem
from opsdash import units
from opsdash.messages import ExportRequested
from opsdash.operations.export import check_ending
from opsdash.projections.event_words import Severity
from opsdash.projections.events_log import EventFilter, EventRow
from opsdash.screens.ask_text import AskScreen, path_of
from opsdash.screens.event_lines import EventLines, exported
from opsdash.screens.event_rows import AS_TOLD, COLUMNS, READING, EventRows
from opsdash.screens.pane import Pane, View
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.filter_bar import FilterBar, no_match, quoted
from opsdash.widgets.table import VirtualTable
from opsdash.widgets.table_messages import SortRequested

_SLICE_PAUSE_S = 0.008
_DRAW_S = 0.15
"""From one picture to the next while a filter is worked off: drawing is half of it."""
_LEVELS = (Severity.DETAIL, Severity.INFO, Severity.WARNING, Severity.ERROR)


class EventsPane(Pane):
    """A list that follows the newest event until the operator moves away."""

    DEFAULT_CSS = """
    EventsPane {
        & > VirtualTable { height: 1fr; }
        & > Facts { height: auto; max-height: 6; border-top: solid $panel; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("w", "severity", "Worse only"),
        Binding("n", "only_node", "This process", show=False),
        Binding("e", "only_kind", "This kind", show=False),
        Binding("E", "export", "Export"),
        Binding("escape", "clear", "Clear filter", show=False),
    ]

    class Answered(Message):
        """Lines that were asked for were read."""

        def can_replace(self, message: Message) -> bool:
            """One look takes all answers."""
            return isinstance(message, EventsPane.Answered)

    def __init__(self) -> None:
        super().__init__()
        self._rows: EventRows | None = None
        self._timer: Timer | None = None
        """Goes on with a filter that has not seen every event."""
        self._drawn_s = 0.0
        self._pattern = ""
        self._wanted = EventFilter()

    def compose(self) -> ComposeResult:
        """Lay out filter, list and the line in full."""
        yield FilterBar()
        yield VirtualTable(COLUMNS, follows=True)
        yield Facts()

    def on_unmount(self) -> None:
        """Read nothing more."""
        self._let_go()

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        run, log = RunDir(Path(view.run.directory.path)), view.run.events
        # Before the first batch nobody knows where the run lies.
        old = self._rows
        if old is None or (old.log, old.lines.run) != (log, run):
            self._let_go()
            self._rows = EventRows(log, EventLines(run, self._answered))
            self._rows.restrict(self._pattern, self._wanted)
        self._advance()

    def show_step(self, step: int, rank: int | None) -> None:
        """Keep to the events of one step, of one rank if one is given."""
        node = None if rank is None else rank_stem(rank)
        self._restrict(self._pattern, EventFilter(step=step, node=node))

    def show_process(self, stem: str) -> None:
        """Keep to the events of one process."""
        self._restrict(self._pattern, EventFilter(node=stem))

    def show_round(self, round_num: int) -> None:
        """Keep to the events of one federated round."""
        self._restrict(self._pattern, EventFilter(round_num=round_num))

    @property
    def opens_rows(self) -> bool:
        """An event is told in full below the list."""
        return False

    @property
    def has_filter(self) -> bool:
        """The events."""
        return True

    def filter_rows(self) -> bool:
        """Begin to type a filter."""
        self.focus_now(self.query_one(FilterBar).query_one(Input))
        return True

    def focus_first(self) -> None:
        """The list is what is read."""
        self.focus_now(self.query_one(VirtualTable))

    def text_to_copy(self) -> tuple[str, str] | None:
        """Return the line of the event under the cursor, as it stands on disk."""
        found = self._highlighted()
        if self._rows is None or found is None:
            return None
        line = self._rows.lines.line(*found)
        return (line, "event") if line else None

    def action_severity(self) -> None:
        """Show only what matters at least so much; once more: more strictly."""
        now = _LEVELS.index(self._wanted.min_severity)
        level = _LEVELS[(now + 1) % len(_LEVELS)]
        self._restrict(self._pattern, replace(self._wanted, min_severity=level))

    def action_only_node(self) -> None:
        """Keep to the process under the cursor; once more: to all again."""
        found = self._highlighted()
        if self._wanted.node is not None:
            self._restrict(self._pattern, replace(self._wanted, node=None))
        elif found is not None:
            self._restrict(self._pattern, replace(self._wanted, node=found[1].node))

    def action_only_kind(self) -> None:
        """Keep to the kind under the cursor; once more: to all again."""
        found = self._highlighted()
        if self._wanted.kinds is not None:
            self._restrict(self._pattern, replace(self._wanted, kinds=None))
        elif found is not None:
            kinds = frozenset({found[1].kind})
            self._restrict(self._pattern, replace(self._wanted, kinds=kinds))

    def action_export(self) -> None:
        """Ask for a file, and write what is shown into it."""
        rows = self._rows
        if rows is None:
            return

        def answered(fields: list[str] | None) -> None:
            if fields is not None:
                path = path_of(fields[0])
                told = partial(exported, rows.lines.run)
                wish = ExportRequested(path, rows.numbers(), self._row, told)
                self.post_message(wish)

        title = f"write {units.count(len(rows))} events to a file"
        label = "file, .jsonl or .csv"
        asked = AskScreen(
            title,
            {label: "events.jsonl"},
            check=lambda fields: check_ending(path_of(fields[0])),
        )
        self.app.push_screen(asked, answered)

    def action_clear(self) -> None:
        """Show everything again."""
        self.query_one(FilterBar).show_pattern("")
        self._restrict("", EventFilter())

    def on_filter_bar_filter_changed(self, event: FilterBar.FilterChanged) -> None:
        """Filter by what is typed so far, after the letter itself is on the screen."""
        self._restrict(event.pattern, self._wanted, is_typed=True)

    def on_filter_bar_left(self) -> None:
        """Go to the rows."""
        self.focus_first()

    def on_virtual_table_sort_requested(self, event: SortRequested) -> None:
        """Put the events in another order; only as they came they are followed."""
        event.stop()
        if self._rows is None:
            return
        self._rows.order_by(event.column, is_descending=event.descending)
        self.query_one(VirtualTable).following = self._rows.sort == AS_TOLD
        self._drawn_s = 0.0
        self._advance()

    def on_events_pane_answered(self) -> None:
        """Draw what was read."""
        if self._rows is not None and self._rows.lines.take():
            self.query_one(VirtualTable).changed()
            self._show_details()

    def on_virtual_table_highlighted(self) -> None:
        """Show the event under the cursor in full."""
        self._show_details()

    def _restrict(
        self, pattern: str, wanted: EventFilter, *, is_typed: bool = False
    ) -> None:
        self._pattern, self._wanted = pattern, wanted
        if self._rows is None:
            return
        self._rows.restrict(pattern, wanted)
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if is_typed:
            self._drawn_s = time.monotonic()
            self._timer = self.set_timer(_SLICE_PAUSE_S, self._go_on)
        else:
            self._drawn_s = 0.0  # a key is answered at once
            self._advance()
        self._show_details()

    def _advance(self) -> None:
        """Filter the next slice, and go on in a moment where there is more."""
        rows = self._rows
        if rows is None or not self.is_attached or self._timer is not None:
            return
        is_more, now_s = rows.advance(), time.monotonic()
        if is_more:
            self._timer = self.set_timer(_SLICE_PAUSE_S, self._go_on)
            if now_s - self._drawn_s < _DRAW_S:
                return
        self._drawn_s = now_s
        table = self.query_one(VirtualTable)
        table.empty = self._why_empty(rows, is_more=is_more)
        table.show(rows, sort=rows.sort)
        self.query_one(FilterBar).show_count(
            len(rows), len(rows.log), is_literal=rows.is_literal
        )

    def _go_on(self) -> None:
        self._timer = None
        self._advance()

    def _let_go(self) -> None:
        if self._rows is not None:
            self._rows.lines.stop()

    def _answered(self) -> None:
        """Say so from the reading thread; there may be no loop to hear it any more."""
        with contextlib.suppress(RuntimeError):
            self.post_message(self.Answered())

    def _highlighted(self) -> tuple[int, EventRow] | None:
        key = self.query_one(VirtualTable).cursor_key
        row = self._row(key) if isinstance(key, int) else None
        return (key, row) if isinstance(key, int) and row is not None else None

    def _row(self, number: int) -> EventRow | None:
        """Return what the log has of an event; None: it was dropped meanwhile."""
        try:
            return self._rows.log.row(number) if self._rows is not None else None
        except IndexError:
            return None

    def _show_details(self) -> None:
        found, facts = self._highlighted(), self._restriction()
        if self._rows is not None and found is not None:
            number, row = found
            words = self._rows.words(number, row)
            place = f"{row.file} byte {row.offset}, attempt {row.attempt}"
            facts += [
                Fact(row.kind, READING if words is None else words or "-"),
                Fact("at", place, "dim"),
            ]
        self.query_one(Facts).show(facts)

    def _why_empty(self, rows: EventRows, *, is_more: bool) -> str:
        if not (rows.is_filtered and len(rows.log)):
            return "no event yet"
        if is_more:
            return f"looking through {units.count(len(rows.log))} events"
        pattern = [quoted(self._pattern)] if self._pattern else []
        return no_match(*pattern, *self._restrictions())

    def _restriction(self) -> list[Fact]:
        parts = self._restrictions()
        return [Fact("only", f"{', '.join(parts)} (escape clears)")] if parts else []

    def _restrictions(self) -> list[str]:
        """Return what keeps events out, besides the pattern."""
        wanted, parts = self._wanted, []
        if wanted.min_severity is not Severity.DETAIL:
            parts.append(f"{wanted.min_severity.name.lower()} and worse")
        if wanted.step is not None:
            parts.append(f"step {wanted.step}")
        if wanted.round_num is not None:
            parts.append(f"round {wanted.round_num}")
        parts += [wanted.node] if wanted.node is not None else []
        parts += sorted(wanted.kinds or ())
        return parts
