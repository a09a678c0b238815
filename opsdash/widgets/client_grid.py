"""ClientGrid: what every client did in every round, a letter per cell.

Clients downwards, rounds to the right, the newest at the right edge. Letters
mean the same without colour, and the line below says what the cell under the
cursor is.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from opsdash.glyphs import glyphs_of
from opsdash.widgets.canvas import joined
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.spans import Line, Span, fit, within


class GridCell(NamedTuple):
    """One client in one round."""

    letter: str
    """One character."""
    tone: str = ""
    text: str = ""
    """In words, for the line below."""


class GridLegend(NamedTuple):
    """What a letter means."""

    letter: str
    tone: str
    text: str


class ClientGrid(LineWidget, can_focus=True):
    """A cursor walks over it; `enter` opens a cell."""

    DEFAULT_CSS = """
    ClientGrid {
        height: 1fr;
        & > .tone--spot { background: $foreground; color: $background; }
        &:ansi > .tone--spot { color: ansi_default; text-style: reverse; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(0, -1)", "Earlier", show=False),
        Binding("right,l", "move(0, 1)", "Later", show=False),
        Binding("up,k", "move(-1, 0)", "Up", show=False),
        Binding("down,j", "move(1, 0)", "Down", show=False),
        Binding("home,g", "move(0, -1000000)", "First round", show=False),
        Binding("end,G", "move(0, 1000000)", "Last round", show=False),
        Binding("enter", "select", "Open"),
        Binding("escape", "leave", "Clear cursor", show=False),
    ]

    class CellSelected(Message):
        """The operator opened a cell."""

        def __init__(self, grid: "ClientGrid", client: str, round_num: int) -> None:
            super().__init__()
            self.grid = grid
            self.client = client
            self.round_num = round_num

        @property
        def control(self) -> "ClientGrid":
            """The grid, for `@on` selectors."""
            return self.grid

    def __init__(
        self,
        legend: Sequence[GridLegend],
        *,
        id: str | None = None,  # noqa: A002 - Textual's name for it
        classes: str | None = None,
    ) -> None:
        super().__init__(id=id, classes=classes)
        self.legend = tuple(legend)
        self.clients: tuple[str, ...] = ()
        self.rounds: tuple[int, ...] = ()
        """Oldest first."""
        self.cursor: tuple[int, int] | None = None
        """Index of the client, and the round."""
        self._cells: dict[tuple[str, int], GridCell] = {}
        self._top = 0
        self._first = 0
        self._margin = 0

    def show(
        self,
        clients: Sequence[str],
        rounds: Sequence[int],
        cells: dict[tuple[str, int], GridCell],
    ) -> None:
        """Replace everything; a cell that is not there is blank."""
        self.clients, self.rounds, self._cells = tuple(clients), tuple(rounds), cells
        self.changed()

    def lines(self, width: int, height: int) -> list[Line]:
        """Return the legend, a line per client, and what the cursor is on."""
        legend = within(self._legend(), width, glyphs_of(self.app).ellipsis)
        if not self.clients or not self.rounds:
            return [legend, (Span("no round was opened yet", "dim"),)]
        longest = max(map(len, self.clients))
        self._margin = min(longest + 1, max(8, width // 4))
        rows = max(1, height - 2)
        self._scroll(rows, max(1, width - self._margin))
        shown = self.clients[self._top : self._top + rows]
        stop = self._first + max(1, width - self._margin)
        lines = [self._row(client, self.rounds[self._first : stop]) for client in shown]
        return [legend, *lines, self._footer(width, stop)]

    def action_move(self, rows: int, columns: int) -> None:
        """Move the cursor; the first move puts it at the newest round."""
        if not self.clients or not self.rounds:
            return
        row, place = self._place() or (0, len(self.rounds) - 1)
        if self.cursor is not None:
            row = max(0, min(row + rows, len(self.clients) - 1))
            place = max(0, min(place + columns, len(self.rounds) - 1))
        self.cursor = (row, self.rounds[place])
        self.changed()

    def action_select(self) -> None:
        """Open the cell under the cursor."""
        place = self._place()
        if place is not None:
            client, round_num = self.clients[place[0]], self.rounds[place[1]]
            self.post_message(self.CellSelected(self, client, round_num))

    def action_leave(self) -> None:
        """Take the cursor away and follow the newest round."""
        self.cursor = None
        self.changed()

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the cell under the mouse; twice opens it."""
        where = event.get_content_offset(self)
        if where is None or not self.rounds:
            return
        row, place = self._top + where.y - 1, self._first + where.x - self._margin
        if 0 <= row < len(self.clients) and self._first <= place < len(self.rounds):
            self.cursor = (row, self.rounds[place])
            self.changed()
            if event.chain == 2:
                self.action_select()

    def _place(self) -> tuple[int, int] | None:
        """Return the cursor as two positions; None: there is none any more."""
        if self.cursor is None or self.cursor[1] not in self.rounds:
            return None
        row = min(self.cursor[0], len(self.clients) - 1)
        return row, self.rounds.index(self.cursor[1])

    def _scroll(self, rows: int, columns: int) -> None:
        """Keep the cursor in sight; without one, the newest round."""
        place = self._place()
        last = max(0, len(self.rounds) - columns)
        self._top = max(0, min(self._top, len(self.clients) - rows))
        if place is None:
            # By a quarter at a time, so that cells stand still in between.
            hop = max(1, columns // 4)
            self._first = min(len(self.rounds) - 1, -(-last // hop) * hop)
            return
        row, column = place
        self._top = min(max(self._top, row - rows + 1), row)
        self._first = min(max(self._first, column - columns + 1), column)

    def _row(self, client: str, rounds: Sequence[int]) -> Line:
        place = self._place()
        is_here = place is not None and self.clients[place[0]] == client
        cells = []
        for round_num in rounds:
            cell = self._cells.get((client, round_num), GridCell(" "))
            is_spot = is_here and self.cursor is not None
            is_spot = (
                is_spot and self.cursor is not None and self.cursor[1] == round_num
            )
            cells.append((cell.letter, "spot" if is_spot else cell.tone))
        ellipsis = glyphs_of(self.app).ellipsis
        name = fit(client, self._margin - 1, ellipsis=ellipsis)
        return (Span(f"{name} ", "strong" if is_here else "dim"), *joined(cells))

    def _legend(self) -> list[Span]:
        spans = [Span("clients", "title")]
        for letter, tone, text in self.legend:
            spans += [Span(f"  {letter} ", tone), Span(text, "dim")]
        return spans

    def _footer(self, width: int, stop: int) -> Line:
        place, dot = self._place(), glyphs_of(self.app).dot
        if place is None:
            last = self.rounds[min(stop, len(self.rounds)) - 1]
            text = f"rounds {self.rounds[self._first]}-{last}"
            return (Span(fit(text, width), "dim"),)
        client, round_num = self.clients[place[0]], self.rounds[place[1]]
        cell = self._cells.get((client, round_num), GridCell(" ", "", "nothing known"))
        text = f"{client} {dot} round {round_num} {dot} {cell.text}"
        return (Span(fit(text, width), "strong"),)
