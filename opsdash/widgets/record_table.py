"""RecordTable: a table of records that sorts and filters itself.

For lists that are all there, up to some ten thousand rows; a million rows that
exist nowhere have a model of their own. The owner hands over records and reads
keys; order and filter are the table's and stay while records change.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input

from opsdash.projections.match import Matcher, matcher
from opsdash.widgets.filter_bar import FilterBar, no_match, quoted
from opsdash.widgets.patience import OutOfPatienceError, patience
from opsdash.widgets.rows import Cell, Column, FixedRows
from opsdash.widgets.table import VirtualTable
from opsdash.widgets.table_messages import SortRequested

Record = TypeVar("Record")

_PATIENCE_S = 0.1


class Field(NamedTuple, Generic[Record]):
    """One column: how it is set, what it shows of a record, how it sorts."""

    column: Column
    cell: Callable[[Record], Cell]
    order: Callable[[Record], Any] | None
    """None: nobody sorts by it."""


class RecordTable(Vertical, Generic[Record]):
    """A `VirtualTable` under a filter that appears when it is asked for."""

    DEFAULT_CSS = """
    RecordTable {
        height: 1fr;
        background: $background;
        & > FilterBar { display: none; }
        &.-filtered > FilterBar { display: block; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "clear_filter", "Clear filter", show=False)
    ]

    def __init__(
        self,
        fields: Sequence[Field[Record]],
        *,
        key: Callable[[Record], Hashable],
        empty: str = "nothing here yet",
        sort: tuple[str, bool] | None = None,
        id: str | None = None,  # noqa: A002 - Textual's name for it
        classes: str | None = None,
    ) -> None:
        """Make a table.

        Args:
            fields: The columns.
            key: What identifies a record.
            empty: Shown where there is none.
            sort: Name of a column and whether descending; None: as handed over.
            id: Of the widget.
            classes: Of the widget.
        """
        super().__init__(id=id, classes=classes)
        self._fields = tuple(fields)
        self._key = key
        self._empty = empty
        self._sort = sort
        self._matcher: Matcher = matcher("")
        self._records: list[Record] = []

    def compose(self) -> ComposeResult:
        """Lay out filter and rows."""
        yield FilterBar()
        columns = [
            replace(field.column, sortable=field.order is not None)
            for field in self._fields
        ]
        yield VirtualTable(columns, empty=self._empty)

    @property
    def table(self) -> VirtualTable:
        """The rows themselves."""
        return self.query_one(VirtualTable)

    @property
    def cursor_key(self) -> Hashable | None:
        """The key under the cursor; None: there is no row."""
        return self.table.cursor_key

    @property
    def marked(self) -> frozenset[Hashable]:
        """The keys that the operator marked."""
        return self.table.marked

    def show(self, records: Iterable[Record]) -> None:
        """Replace the records."""
        self._records = list(records)
        self._show()

    def filter_rows(self) -> None:
        """Begin to type a filter, before the next key is read."""
        self.add_class("-filtered")
        self.screen.set_focus(self.query_one(Input))

    def check_action(
        self,
        action: str,
        parameters: tuple[object, ...],  # noqa: ARG002 - Textual's signature
    ) -> bool | None:
        """Leave a key to what is around, where there is no filter to clear."""
        return action != "clear_filter" or not self._matcher.is_everything

    def action_clear_filter(self) -> None:
        """Show all rows again."""
        self.query_one(FilterBar).show_pattern("")

    def on_filter_bar_filter_changed(self, event: FilterBar.FilterChanged) -> None:
        """Filter by what is typed so far."""
        event.stop()
        self._matcher = matcher(event.pattern)
        if self._matcher.is_everything and self.screen.focused is self.table:
            self.remove_class("-filtered")
        self._show()

    def on_filter_bar_left(self, event: FilterBar.Left) -> None:
        """Go to the rows; a filter that lets everything through goes away."""
        event.stop()
        self.screen.set_focus(self.table)
        if self._matcher.is_everything:
            self.remove_class("-filtered")

    def on_virtual_table_sort_requested(self, event: SortRequested) -> None:
        """Put the records in another order."""
        event.stop()
        self._sort = (event.column, event.descending)
        self._show()

    def _show(self) -> None:
        if not self.is_attached:
            return
        records = self._sorted()
        rows = [(self._key(one), self._cells(one)) for one in records]
        rows = self._kept(rows)
        is_emptied = bool(records) and not rows
        named = quoted(self._matcher.pattern)
        self.table.empty = no_match(named) if is_emptied else self._empty
        self.table.show(FixedRows(rows), sort=self._sort)
        self.query_one(FilterBar).show_count(
            len(rows), len(records), is_literal=self._matcher.is_literal
        )

    def _cells(self, record: Record) -> tuple[Cell, ...]:
        return tuple(field.cell(record) for field in self._fields)

    def _sorted(self) -> list[Record]:
        if self._sort is None:
            return self._records
        name, is_descending = self._sort
        order = next(
            (f.order for f in self._fields if f.column.name == name and f.order), None
        )
        if order is None:
            return self._records
        return sorted(self._records, key=order, reverse=is_descending)

    def _kept(
        self, rows: list[tuple[Hashable, tuple[Cell, ...]]]
    ) -> list[tuple[Hashable, tuple[Cell, ...]]]:
        if self._matcher.is_everything:
            return rows
        try:
            with patience(_PATIENCE_S):
                return [row for row in rows if self._matcher(_text(row[1]))]
        except OutOfPatienceError:
            self._matcher = matcher(self._matcher.pattern, is_literal=True)
            return [row for row in rows if self._matcher(_text(row[1]))]


def _text(cells: Sequence[Cell]) -> str:
    return " ".join(cell.text for cell in cells)
