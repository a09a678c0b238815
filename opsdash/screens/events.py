"""Pane 7: everything that was told, filtered as it is typed."""

from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from agent.rundir.layout import RunDir, rank_stem
from opsdash.projections.event_words import Severity
from opsdash.projections.events_log import EventFilter
from opsdash.screens.event_rows import COLUMNS, EventRows
from opsdash.screens.pane import Pane, View
from opsdash.widgets.facts import Fact, Facts
from opsdash.widgets.filter_bar import FilterBar
from opsdash.widgets.table import VirtualTable

_SLICE_PAUSE_S = 0.02
_LEVELS = (Severity.DETAIL, Severity.INFO, Severity.WARNING, Severity.ERROR)


class EventsPane(Pane):
    """A list that follows the newest event until the operator moves away."""

    TITLE: ClassVar[str] = "events"
    DEFAULT_CSS = """
    EventsPane {
        & > VirtualTable { height: 1fr; }
        & > Facts { height: auto; max-height: 6; border-top: solid $panel; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s", "severity", "Severity"),
        Binding("escape", "clear", "Clear filter", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._rows: EventRows | None = None
        self._pattern = ""
        self._wanted = EventFilter()

    def compose(self) -> ComposeResult:
        """Lay out filter, list and the line in full."""
        yield FilterBar()
        yield VirtualTable(COLUMNS, empty="no event", follows=True)
        yield Facts()

    def show(self, view: View) -> None:
        """Show the run as it is now."""
        if self._rows is None or self._rows.log is not view.run.events:
            run = RunDir(Path(view.run.directory.path))
            self._rows = EventRows(view.run.events, run)
            self._rows.restrict(self._pattern, self._wanted)
        self._advance()

    def show_step(self, step: int, rank: int | None) -> None:
        """Keep to the events of one step, of one rank if one is given."""
        node = None if rank is None else rank_stem(rank)
        self._restrict(self._pattern, EventFilter(step=step, node=node))

    def filter_rows(self) -> bool:
        """Begin to type a filter."""
        self.focus_now(self.query_one(FilterBar).query_one(Input))
        return True

    def focus_first(self) -> None:
        """The list is what is read."""
        self.focus_now(self.query_one(VirtualTable))

    def text_to_copy(self) -> tuple[str, str] | None:
        """Return the line of the event under the cursor, as it stands on disk."""
        key = self.query_one(VirtualTable).cursor_key
        if self._rows is None or not isinstance(key, int):
            return None
        line = self._rows.line(key)
        return (line, "event") if line else None

    def action_severity(self) -> None:
        """Show only what matters at least so much; once more: more strictly."""
        now = _LEVELS.index(self._wanted.min_severity)
        level = _LEVELS[(now + 1) % len(_LEVELS)]
        wanted = EventFilter(
            min_severity=level, step=self._wanted.step, node=self._wanted.node
        )
        self._restrict(self._pattern, wanted)

    def action_clear(self) -> None:
        """Show everything again."""
        self.query_one(FilterBar).show_pattern("")
        self._restrict("", EventFilter())

    def on_filter_bar_filter_changed(self, event: FilterBar.FilterChanged) -> None:
        """Filter by what is typed so far."""
        self._restrict(event.pattern, self._wanted)

    def on_filter_bar_left(self) -> None:
        """Go to the rows."""
        self.focus_first()

    def on_virtual_table_highlighted(self) -> None:
        """Show the event under the cursor in full."""
        self._show_details()

    def _restrict(self, pattern: str, wanted: EventFilter) -> None:
        self._pattern, self._wanted = pattern, wanted
        if self._rows is not None:
            self._rows.restrict(pattern, wanted)
            self._advance()

    def _advance(self) -> None:
        """Filter the next slice, and go on in a moment where there is more."""
        rows = self._rows
        if rows is None or not self.is_attached:
            return
        if rows.advance():
            self.set_timer(_SLICE_PAUSE_S, self._advance)
        self.query_one(VirtualTable).show(rows)
        self.query_one(FilterBar).show_count(len(rows), len(rows.log))

    def _show_details(self) -> None:
        rows, key = self._rows, self.query_one(VirtualTable).cursor_key
        if rows is None or not isinstance(key, int):
            self.query_one(Facts).show([])
            return
        row = rows.log.row(key)
        restricted = self._restriction()
        facts = [
            Fact(row.kind, rows.words(key, row) or "-"),
            Fact("at", f"{row.file} byte {row.offset}, attempt {row.attempt}", "dim"),
        ]
        self.query_one(Facts).show([*restricted, *facts])

    def _restriction(self) -> list[Fact]:
        parts = []
        if self._wanted.min_severity is not Severity.DETAIL:
            parts.append(f"{self._wanted.min_severity.name.lower()} and worse")
        if self._wanted.step is not None:
            parts.append(f"step {self._wanted.step}")
        if self._wanted.node is not None:
            parts.append(self._wanted.node)
        return [Fact("only", f"{', '.join(parts)} (escape clears)")] if parts else []
