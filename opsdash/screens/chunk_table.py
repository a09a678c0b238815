"""The chunks of a round under a filter: a million rows, looked through in slices."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input

from opsdash import units
from opsdash.screens.chunk_rows import COLUMNS, ChunkRows
from opsdash.widgets.filter_bar import FilterBar, no_match, quoted
from opsdash.widgets.rows import FixedRows
from opsdash.widgets.table import VirtualTable
from opsdash.widgets.table_messages import SortRequested

_PAUSE_S = 0.03


class ChunkTable(Vertical):
    """Shows a `ChunkRows`, and drives it on while its scan goes on."""

    DEFAULT_CSS = """
    ChunkTable { height: 1fr; background: $background; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "clear_filter", "Clear filter", show=False)
    ]

    def __init__(
        self,
        *,
        id: str | None = None,  # noqa: A002 - Textual's name for it
    ) -> None:
        super().__init__(id=id)
        self._rows: ChunkRows | None = None
        self._is_driven = False

    def compose(self) -> ComposeResult:
        """Lay out filter and rows."""
        yield FilterBar()
        yield VirtualTable(COLUMNS)

    @property
    def table(self) -> VirtualTable:
        """The rows themselves."""
        return self.query_one(VirtualTable)

    def show(self, rows: ChunkRows | None) -> None:
        """Show a round's chunks; None: none is open."""
        if rows is not self._rows:
            self._rows = rows
            self.query_one(FilterBar).show_pattern("")
        self._drive()

    def check_action(
        self,
        action: str,
        parameters: tuple[object, ...],  # noqa: ARG002 - Textual's signature
    ) -> bool | None:
        """Leave a key to what is around, where there is no filter to clear."""
        is_filtered = self._rows is not None and self._rows.is_filtered
        return action != "clear_filter" or is_filtered

    def action_clear_filter(self) -> None:
        """Show all chunks again."""
        self.query_one(FilterBar).show_pattern("")

    def filter_rows(self) -> None:
        """Begin to type a filter."""
        self.screen.set_focus(self.query_one(Input))

    def on_filter_bar_filter_changed(self, event: FilterBar.FilterChanged) -> None:
        """Filter by what is typed so far."""
        event.stop()
        if self._rows is not None:
            self._rows.restrict(event.pattern)
            self._drive()

    def on_filter_bar_left(self, event: FilterBar.Left) -> None:
        """Go to the rows."""
        event.stop()
        self.screen.set_focus(self.table)

    def on_virtual_table_sort_requested(self, event: SortRequested) -> None:
        """Have the chunks put in another order, once all of them were looked at."""
        event.stop()
        rows = self._rows
        if rows is None:
            return
        if not rows.order_by(event.column, is_descending=event.descending):
            self.notify("the chunks are still being looked through")
        self._drive()

    def _drive(self) -> None:
        """Take in more of the scan, and go on in a moment where there is more."""
        if self._is_driven or not self.is_attached:
            return
        if self._rows is not None and self._rows.advance():
            self._is_driven = True
            self.set_timer(_PAUSE_S, self._drive_on)
        self._show()

    def _drive_on(self) -> None:
        self._is_driven = False
        self._drive()

    def _show(self) -> None:
        rows = self._rows
        if rows is None:
            self.table.show(FixedRows())
            return
        self.table.empty = _why_empty(rows)
        self.table.show(rows, sort=rows.sort)
        self.query_one(FilterBar).show_count(
            len(rows), rows.num_all, is_literal=rows.is_literal
        )


def _why_empty(rows: ChunkRows) -> str:
    if not rows.is_filtered:
        return "this round has no chunk"
    if not rows.is_scanned:
        return "looking through the chunks"
    return no_match(quoted(rows.pattern))


def say_scan(rows: ChunkRows) -> str:
    """Return what looking through the chunks has found so far."""
    said = [_found(rows), *_beyond(rows)]
    if rows.is_ordering:
        said.append("sorting")
    return ", ".join(said)


def _found(rows: ChunkRows) -> str:
    num_bad = rows.num_bad + rows.num_bad_beyond
    bad = f"{units.count(num_bad)} missing or damaged" if num_bad else ""
    if not rows.is_scanned:
        return f"{bad}, still looking" if bad else "looking for missing ones"
    if rows.scan_error:
        return f"{bad}, looking ended: {rows.scan_error}".removeprefix(", ")
    if rows.num_gone:
        gone = f"{units.count(rows.num_gone)} are gone since it was opened"
        return f"{bad}, {gone}" if bad else gone
    return bad or "none is missing"


def _beyond(rows: ChunkRows) -> list[str]:
    """Return that a round has more chunks than rows, if it has."""
    if not rows.num_beyond:
        return []
    bad = rows.num_bad_beyond
    which = f", {units.count(bad)} of the bad ones with them" if bad else ""
    return [f"the last {units.count(rows.num_beyond)} have no row here{which}"]
