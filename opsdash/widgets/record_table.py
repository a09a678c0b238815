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
from opsdash.widgets.rows import Cell, Column
from opsdash.widgets.table import VirtualTable
from opsdash.widgets.table_messages import SortRequested

Record = TypeVar("Record")

_PATIENCE_S = 0.1
_TURN_ROWS = 250
"""Rows that a filter looks at anew whenever records are shown, besides new ones."""


class Field(NamedTuple, Generic[Record]):
    """One column: how it is set, what it shows of a record, how it sorts."""

    column: Column
    cell: Callable[[Record], Cell]
    order: Callable[[Record], Any] | None
    """None: nobody sorts by it."""


class _Records(Generic[Record]):
    """Records as rows: the cells of one are made when it is drawn."""

    def __init__(
        self,
        records: Sequence[Record],
        key: Callable[[Record], Hashable],
        cells: Callable[[Record], Sequence[Cell]],
    ) -> None:
        self._records, self._key, self._cells = records, key, cells
        self._places: dict[Hashable, int] | None = None

    def __len__(self) -> int:
        return len(self._records)

    def row(self, index: int) -> Sequence[Cell]:
        return self._cells(self._records[index])

    def key(self, index: int) -> Hashable:
        return self._key(self._records[index])

    def find(self, key: Hashable) -> int | None:
        if self._places is None:
            keys = map(self._key, self._records)
            self._places = {one: place for place, one in enumerate(keys)}
        return self._places.get(key)


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
        self.empty = empty
        """Said where there is no record."""
        self._sort = sort
        self._matcher: Matcher = matcher("")
        self._records: list[Record] = []
        self._fits: dict[Hashable, bool] = {}
        """By key: whether the filter lets a record through."""
        self._turn = 0

    def compose(self) -> ComposeResult:
        """Lay out filter and rows."""
        yield FilterBar()
        columns = [
            replace(field.column, sortable=field.order is not None)
            for field in self._fields
        ]
        yield VirtualTable(columns, empty=self.empty)

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
        self._fits, self._turn = {}, 0
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
        kept = self._sorted(self._kept())
        is_emptied = bool(self._records) and not kept
        named = quoted(self._matcher.pattern)
        self.table.empty = no_match(named) if is_emptied else self.empty
        rows = _Records(kept, self._key, self._cells)
        self.table.show(rows, sort=self._sort)
        self.query_one(FilterBar).show_count(
            len(kept), len(self._records), is_literal=self._matcher.is_literal
        )

    def _cells(self, record: Record) -> tuple[Cell, ...]:
        return tuple(field.cell(record) for field in self._fields)

    def _sorted(self, records: list[Record]) -> list[Record]:
        if self._sort is None:
            return records
        name, is_descending = self._sort
        order = next(
            (f.order for f in self._fields if f.column.name == name and f.order), None
        )
        if order is None:
            return records
        return sorted(records, key=order, reverse=is_descending)

    def _kept(self) -> list[Record]:
        """Return what the filter lets through; of many records some are looked at.

        The others stay as they were found to be: each has its turn soon.
        """
        if self._matcher.is_everything:
            return self._records
        begin, end = self._turn, self._turn + _TURN_ROWS
        self._turn = end if end < len(self._records) else 0
        known, keyed = self._fits, [(self._key(one), one) for one in self._records]
        texts = {
            key: _text(self._cells(one))
            for place, (key, one) in enumerate(keyed)
            if begin <= place < end or key not in known
        }
        self._fits = {key: known.get(key, False) for key, _ in keyed}
        self._match(texts)
        return [one for key, one in keyed if self._fits[key]]

    def _match(self, texts: dict[Hashable, str]) -> None:
        """Find which texts the filter lets through."""
        matches = self._matcher
        try:
            with patience(_PATIENCE_S):
                self._fits.update({key: matches(text) for key, text in texts.items()})
        except OutOfPatienceError:
            literally = matcher(matches.pattern, is_literal=True)
            self._matcher = literally
            self._fits.update({key: literally(text) for key, text in texts.items()})


def _text(cells: Sequence[Cell]) -> str:
    return " ".join(cell.text for cell in cells)
