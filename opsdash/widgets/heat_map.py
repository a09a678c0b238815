"""HeatMap: a value per rank and step as density, from nothing to full.

Two tones and six densities, not a ramp of colours: fewer changes of tone are
fewer bytes, and the picture is the same without colour. The owner calls
`changed(since=step)` with the first step that is new or different; finished
columns are then not asked for again.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message

from opsdash.glyphs import glyphs_of
from opsdash.units import count, number
from opsdash.widgets.canvas import joined
from opsdash.widgets.heat_view import (
    ZOOMS,
    HeatModel,
    HeatView,
    NoHeat,
    Peak,
    first_row,
    heat_legend,
    tone_of,
)
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.spans import Line, Span, fit


class HeatMap(LineWidget, can_focus=True):
    """Ranks downwards, steps to the right."""

    DEFAULT_CSS = """
    HeatMap {
        height: 1fr;
        & > .tone--cool { color: $text-primary; }
        & > .tone--hot { color: $text-error; }
        & > .tone--spot { background: $foreground; color: $background; }
        &:ansi > .tone--spot { color: ansi_default; text-style: reverse; }
    }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "move(0, -1)", "Earlier", show=False),
        Binding("right,l", "move(0, 1)", "Later", show=False),
        Binding("up,k", "move(-1, 0)", "Up", show=False),
        Binding("down,j", "move(1, 0)", "Down", show=False),
        Binding("home,g", "go_to_end(True)", "First step", show=False),
        Binding("end,G", "go_to_end(False)", "Last step", show=False),
        Binding("plus,equals_sign", "zoom(-1)", "Zoom in"),
        Binding("minus", "zoom(1)", "Zoom out"),
        Binding("0", "fit", "Fit", show=False),
        Binding("enter", "select", "Open"),
        Binding("escape", "leave", "Clear cursor", show=False),
    ]

    class CellSelected(Message):
        """The operator opened a cell."""

        def __init__(
            self, heat_map: "HeatMap", rank: int, step: int, start: int, until: int
        ) -> None:
            super().__init__()
            self.heat_map = heat_map
            self.rank = rank
            self.step = step
            """Where the peak of the cell is."""
            self.start = start
            self.until = until
            """The cell's steps are `start <= step < until`."""

        @property
        def control(self) -> "HeatMap":
            """The heat map, for `@on` selectors."""
            return self.heat_map

    def __init__(
        self,
        bounds: Sequence[float],
        *,
        title: str = "",
        say: Callable[[float], str] = number,
        zooms: Sequence[int] = ZOOMS,
        id: str | None = None,  # noqa: A002 - Textual's name for it
        classes: str | None = None,
    ) -> None:
        """Make a map; `bounds`: the five least values of each density, ascending.

        `say` turns a value into words. The model is asked for columns of one of
        `zooms` steps, that begin at its multiples.
        """
        super().__init__(id=id, classes=classes)
        self.bounds = tuple(bounds)
        self.heading = title
        self.model: HeatModel = NoHeat()
        self.cursor: tuple[int, int] | None = None
        """Row and step of the cell under the cursor."""
        self._say = say
        self._view = HeatView(zooms=zooms)
        self._top = 0
        self._label_width = 0
        self._levels: dict[tuple[int, int], int | None] = {}

    def show(self, model: HeatModel) -> None:
        """Replace the values."""
        self.model = model
        self.changed()

    def changed(self, since: int | None = None) -> None:
        """Show the model as it is now; only steps from `since` on are different."""
        if since is None:
            self._levels.clear()
        else:
            finished = self._view.column_start(since)
            self._levels = {
                cell: level
                for cell, level in self._levels.items()
                if cell[1] < finished
            }
        super().changed()

    def lines(self, width: int, height: int) -> list[Line]:
        """Return the legend, a line per rank, and what the cursor is on."""
        ranks, span = self.model.ranks, self.model.span
        legend = heat_legend(
            self.heading, self.bounds, self._say, glyphs_of(self.app), width
        )
        if not ranks or span is None:
            return [legend, (Span("none was measured yet", "dim"),)]
        labels = [self.model.label(rank) for rank in ranks]
        self._label_width = min(max(map(len, labels)) + 1, max(8, width // 4))
        self._view.resize(width - self._label_width, span)
        if self.cursor is None:
            self._view.follow(span)
        rows = max(1, height - 2)
        self._top = first_row(
            self._top, rows, len(ranks), self.cursor[0] if self.cursor else None
        )
        shown = range(self._top, min(self._top + rows, len(ranks)))
        used: dict[tuple[int, int], int | None] = {}
        lines = [self._row(row, labels[row], used) for row in shown]
        self._levels = used
        return [legend, *lines, self._footer(width)]

    def action_move(self, rows: int, columns: int) -> None:
        """Move the cursor by cells; the first move puts it at the newest step."""
        span = self.model.span
        if span is None or not self.model.ranks:
            return
        row, step = self.cursor or (self._top, span[1])
        if self.cursor is not None:
            row = max(0, min(row + rows, len(self.model.ranks) - 1))
            step = step + columns * self._view.per_column
        self._put_cursor(row, max(span[0], min(step, span[1])))

    def action_go_to_end(self, first: bool) -> None:  # noqa: FBT001 - an action
        """Move the cursor to the first or the last step."""
        if (span := self.model.span) and self.model.ranks:
            row = self.cursor[0] if self.cursor else self._top
            self._put_cursor(row, span[0] if first else span[1])

    def action_zoom(self, levels: int) -> None:
        """Show more steps per column, or fewer."""
        if (span := self.model.span) is not None:
            step = self.cursor[1] if self.cursor else span[1]
            self._view.set_zoom(self._view.zoom + levels, step)
            self.changed()

    def action_fit(self) -> None:
        """Show every step."""
        if (span := self.model.span) is not None:
            self._view.fit(span)
            self.changed()

    def action_select(self) -> None:
        """Open the cell under the cursor."""
        if self.cursor is None or self.cursor[0] >= len(self.model.ranks):
            return
        rank, peak, start = self._under_cursor(*self.cursor)
        step, until = peak.step if peak else start, start + self._view.per_column
        self.post_message(self.CellSelected(self, rank, step, start, until))

    def action_leave(self) -> None:
        """Take the cursor away and follow the newest step."""
        self.cursor = None
        super().changed()

    def on_click(self, event: events.Click) -> None:
        """Put the cursor on the cell under the mouse; twice opens it."""
        where, span = event.get_content_offset(self), self.model.span
        if where is None or span is None:
            return
        row, column = self._top + where.y - 1, where.x - self._label_width
        step = self._view.start + column * self._view.per_column
        if self._top <= row < len(self.model.ranks) and column >= 0:
            self._put_cursor(row, max(span[0], min(step, span[1])))
            if event.chain == 2:
                self.action_select()

    def _put_cursor(self, row: int, step: int) -> None:
        self.cursor = (row, step)
        self._view.reveal(step)
        super().changed()

    def _under_cursor(self, row: int, step: int) -> tuple[int, Peak | None, int]:
        rank, start = self.model.ranks[row], self._view.column_start(step)
        return rank, self.model.peak(rank, start, start + self._view.per_column), start

    def _row(
        self, row: int, label: str, used: dict[tuple[int, int], int | None]
    ) -> Line:
        glyphs, view, rank = glyphs_of(self.app), self._view, self.model.ranks[row]
        here = None
        if self.cursor is not None and self.cursor[0] == row:
            here = view.column_start(self.cursor[1])
        cells: list[tuple[str, str]] = []
        last = self.model.span[1] if self.model.span else -1
        for start in range(view.start, view.stop, view.per_column):
            if start > last:
                break
            level = used[rank, start] = self._level(rank, start)
            glyph = glyphs.dot if level is None else glyphs.heat[level]
            cells.append(("+", "spot") if start == here else (glyph, tone_of(level)))
        name = fit(label, self._label_width - 1, ellipsis=glyphs.ellipsis)
        tone = "strong" if here is not None else "dim"
        return (Span(f"{name} ", tone), *joined(cells))

    def _level(self, rank: int, start: int) -> int | None:
        cell = (rank, start)
        if cell in self._levels:
            return self._levels[cell]
        peak = self.model.peak(rank, start, start + self._view.per_column)
        return None if peak is None else bisect_right(self.bounds, peak.value)

    def _footer(self, width: int) -> Line:
        view, dot = self._view, glyphs_of(self.app).dot
        each = "1 step" if view.per_column == 1 else f"{count(view.per_column)} steps"
        newest = self.model.span[1] if self.model.span else view.start
        last = max(view.start, min(view.stop - 1, newest))
        span = f"{count(view.start)}-{count(last)}"
        if self.cursor is None or self.cursor[0] >= len(self.model.ranks):
            text = f"steps {span} {dot} {each} per column"
            return (Span(fit(text, width), "dim"),)
        rank, peak, start = self._under_cursor(*self.cursor)
        value, step = (self._say(peak.value), peak.step) if peak else ("no data", start)
        text = f"{self.model.label(rank)} {dot} step {count(step)} {dot} {value}"
        return (Span(fit(f"{text} {dot} {each} per column", width), "strong"),)
