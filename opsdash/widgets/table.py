"""VirtualTable: a million rows at the cost of the ones on the screen.

The cursor stays on the row with the same key when rows are added, sorted or
filtered; what rows there are and in which order is the owner's business, who
calls `show` or `changed`. While it follows, the newest row is under the cursor
and the rows stand still until the page is full; any move away stops that.
"""

from collections.abc import Hashable, Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.reactive import reactive

from opsdash.glyphs import glyphs_of
from opsdash.widgets import table_messages as messages
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.rows import Column, FixedRows, RowModel, next_order, place_near
from opsdash.widgets.spans import Line, Span, wrap
from opsdash.widgets.table_lines import Layout, with_scroll_bar
from opsdash.widgets.viewport import Viewport


class VirtualTable(LineWidget, can_focus=True):
    """Rows of a model under a fixed header."""

    DEFAULT_CSS = "VirtualTable { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home,g", "first", "First", show=False),
        Binding("end,G", "last", "Last", show=False),
        Binding("left,h", "scroll_columns(-1)", "Columns left", show=False),
        Binding("right,l", "scroll_columns(1)", "Columns right", show=False),
        Binding("enter", "select", "Open"),
        Binding("m", "mark", "Mark", show=False),
        Binding("M", "clear_marks", "Clear marks", show=False),
        Binding("o", "sort_next", "Order by", show=False),
        Binding("O", "sort_reverse", "Reverse order", show=False),
    ]

    following = reactive(default=False, repaint=False)
    """Whether the cursor stays on the newest row."""

    Highlighted = messages.Highlighted
    Selected = messages.Selected
    SortRequested = messages.SortRequested
    MarksChanged = messages.MarksChanged

    def __init__(
        self,
        columns: Sequence[Column],
        model: RowModel | None = None,
        *,
        empty: str = "nothing here yet",
        follows: bool = False,
        id: str | None = None,  # noqa: A002 - Textual's name for it
        classes: str | None = None,
    ) -> None:
        """Make a table; with `follows` it starts, and can be, at the newest row."""
        super().__init__(id=id, classes=classes)
        self.columns = tuple(columns)
        self.model: RowModel = model if model is not None else FixedRows()
        self.empty = empty
        self.follows = follows
        self.sort: tuple[str, bool] | None = None
        self.marked: frozenset[Hashable] = frozenset()
        self._cursor_key: Hashable | None = None
        self._view = Viewport()
        self._first_column = 1
        self._layout_drawn: Layout | None = None
        self.set_reactive(VirtualTable.following, follows)

    @property
    def cursor(self) -> int:
        """The position of the row under the cursor."""
        return self._view.cursor

    @property
    def cursor_key(self) -> Hashable | None:
        """The key of the row under the cursor; None if there is no row."""
        return self._cursor_key

    def on_mount(self) -> None:
        """Say which row is under the cursor first."""
        self._settle()

    def show(self, model: RowModel, *, sort: tuple[str, bool] | None = None) -> None:
        """Replace the rows; `sort`: the column they are in order of, descending."""
        self.model = model
        self.sort = sort
        self.changed()

    def changed(self) -> None:
        """Show the model as it is now, the cursor on the row it was on."""
        self._settle()
        super().changed()

    def move_to(self, key: Hashable) -> bool:
        """Put the cursor on the row with `key`; False if it is not found."""
        place = place_near(self.model, key, self.cursor)
        if place is not None:
            self._go(place)
        return place is not None

    def lines(self, width: int, height: int) -> list[Line]:
        """Return the header and the rows in sight."""
        glyphs, length = glyphs_of(self.app), len(self.model)
        self._view.settle(length, height - 1)
        room = width - (length > self._view.page)
        layout = Layout.of(self.columns, room, self._first_column, glyphs)
        self._layout_drawn = layout
        header = layout.header(self.sort)
        if not length:
            said = wrap(self.empty, max(1, width - 1))
            return [header, *((Span(f" {part}", "dim"),) for part in said)]
        top, page = self._view.top, self._view.page
        rows = [self._row(layout, i) for i in range(top, min(top + page, length))]
        return with_scroll_bar(header, rows, layout, self._view.thumb(length), page)

    def action_move(self, rows: int) -> None:
        """Move the cursor by rows."""
        self._go(self.cursor + rows)

    def action_page(self, pages: int) -> None:
        """Move the cursor by pages, one row of the old page staying in sight."""
        self._go(self.cursor + pages * max(1, self._view.page - 1))

    def action_first(self) -> None:
        """Go to the first row."""
        self._go(0)

    def action_last(self) -> None:
        """Go to the last row, and follow if this table does."""
        self._go(len(self.model) - 1)

    def action_scroll_columns(self, columns: int) -> None:
        """Scroll sideways, the first column staying."""
        layout = self._layout_drawn
        if layout is None or (columns > 0 and not layout.more_right):
            return
        self._first_column = max(1, self._first_column + columns)
        super().changed()

    def action_select(self) -> None:
        """Open the row under the cursor."""
        if self._cursor_key is not None:
            self.post_message(messages.Selected(self, self._cursor_key))

    def action_mark(self) -> None:
        """Mark or unmark the row, and go to the next."""
        if self._cursor_key is not None:
            self._mark(self.marked ^ {self._cursor_key})
            self._go(self.cursor + 1)

    def action_clear_marks(self) -> None:
        """Unmark every row."""
        self._mark(frozenset())

    def action_sort_next(self) -> None:
        """Ask for the order of the next column."""
        if name := next_order(self.columns, self.sort[0] if self.sort else None):
            self._ask_for_order(name)

    def action_sort_reverse(self) -> None:
        """Ask for the opposite order."""
        if self.sort:
            self._ask_for_order(self.sort[0])

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the row, or order by the column, under the mouse."""
        where = event.get_content_offset(self)
        if where is None or self._layout_drawn is None:
            return
        if where.y == 0:
            column = self._layout_drawn.column_at(where.x)
            if column is not None and column.sortable:
                self._ask_for_order(column.name)
        elif where.x >= self._layout_drawn.width:
            self._go((where.y - 1) * len(self.model) // self._view.page)
        elif self._view.top + where.y - 1 < len(self.model):
            self._go(self._view.top + where.y - 1)
            if event.chain == 2:
                self.action_select()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Scroll towards the last row."""
        event.stop()
        self._scroll(3)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Scroll towards the first row."""
        event.stop()
        self._scroll(-3)

    def _row(self, layout: Layout, index: int) -> Line:
        here = "cursor" if self.has_focus else "blurred"
        tone = here if index == self._view.cursor else ""
        marked = bool(self.marked) and self.model.key(index) in self.marked
        return layout.row(self.model.row(index), marked=marked, tone=tone)

    def _settle(self) -> None:
        """Find the row of the cursor again, or the newest one when following."""
        length, view = len(self.model), self._view
        view.resize(length, self.size.height - 1)
        if self.following:
            view.follow(length)
        elif self._cursor_key is not None:
            place = place_near(self.model, self._cursor_key, view.cursor)
            if place is not None:
                view.place(place)
        view.settle(length, view.page)
        self._tell_highlighted()

    def _go(self, index: int) -> None:
        self._view.move(index, len(self.model))
        self._moved()

    def _scroll(self, rows: int) -> None:
        self._view.scroll(rows, len(self.model))
        self._moved()

    def _moved(self) -> None:
        self.following = self.follows and self.cursor >= len(self.model) - 1
        self._tell_highlighted()
        super().changed()

    def _tell_highlighted(self) -> None:
        key = self.model.key(self.cursor) if len(self.model) else None
        if key != self._cursor_key:
            self._cursor_key = key
            self.post_message(messages.Highlighted(self, key))

    def _mark(self, marked: frozenset[Hashable]) -> None:
        if marked != self.marked:
            self.marked = marked
            self.post_message(messages.MarksChanged(self, marked))
            super().changed()

    def _ask_for_order(self, column: str) -> None:
        descending = self.sort == (column, False)
        self.post_message(messages.SortRequested(self, column, descending=descending))
