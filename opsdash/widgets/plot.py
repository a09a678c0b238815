"""Draw series into a grid of cells: smoothed lines over their min/max band.

Pure: from series, axes and a size come lines of spans. Work grows with the
width of the chart, never with the length of the history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from opsdash.glyphs import Glyphs
from opsdash.widgets.axes import StepAxis, ValueAxis
from opsdash.widgets.canvas import NOBODY, Layer, Reach, joined
from opsdash.widgets.series import Mark, Series, Summary
from opsdash.widgets.spans import Line

SMOOTHING = 0.3
"""Share of a new column in the smoothed line; the rest is what was before."""

Columns = list[Summary | None]


@dataclass(frozen=True)
class Plot:
    """What to draw, and where."""

    series: Sequence[Series]
    steps: StepAxis
    """One column per dot column: twice `width`, or `width` in ASCII."""
    width: int
    height: int
    log: bool
    glyphs: Glyphs
    marks: Sequence[Mark] = ()
    cursor_x: float | None = None
    smoothing: float = SMOOTHING
    """1.0: the line is the mean of each column."""

    def columns(self) -> list[Columns]:
        """Sum up each series by column; some passes need it, so keep it."""
        edges = [self.steps.edge(c) for c in range(self.steps.num_columns + 1)]
        return [[one.summary(a, b) for a, b in pairwise(edges)] for one in self.series]

    def value_axis(self, columns: Sequence[Columns]) -> ValueAxis | None:
        """Return limits that hold every column; None without any value."""
        found = [summary for each in columns for summary in each if summary]
        if not found:
            return None
        low = min(summary.low for summary in found)
        high = max(summary.high for summary in found)
        if self.log and low <= 0:
            positive = [v for s in found for v in s if v > 0]
            low, high = min(positive, default=1.0), max(high, 1e-290)
        return ValueAxis.around(low, max(low, high), log=self.log)

    def rows(self, columns: Sequence[Columns], axis: ValueAxis) -> list[Line]:
        """Return the grid, top row first, `width` cells each."""
        band, line = self._layer(), self._layer()
        overlay = self._broken_columns()
        for index, (one, summaries) in enumerate(
            zip(self.series, columns, strict=True)
        ):
            breaks = self._breaks(one)
            heights = _heights(summaries, axis, line.num_dots)
            band.trace(heights, breaks, 0)
            smooth = self._smoothed(summaries, breaks, axis, line.num_dots)
            last = line.trace(smooth, breaks, index)
            if last >= 0 and len(self.series) > 1 and (reach := smooth[last]):
                place = (line.row_of(reach.last), line.cell_of(last))
                overlay[place] = (self._head(index), f"series-{index % 6 + 1}")
        rules = self._rules()
        return [
            self._row(row, band, line, rules, overlay) for row in range(self.height)
        ]

    def _smoothed(
        self, columns: Columns, breaks: set[int], axis: ValueAxis, num_dots: int
    ) -> list[Reach | None]:
        """Average over the columns so far, newest first, anew after a break.

        Only earlier columns count, so that a finished column stands still. The older
        they are the less: a few points that lie far apart are drawn where they are.
        """
        fraction, top = axis.fraction, num_dots - 1
        smooth: list[Reach | None] = []
        level: float | None = None
        before = 0
        for column, each in enumerate(columns):
            if column in breaks:
                level = None
            if each is None:
                smooth.append(None)
                continue
            height = fraction(each.mean)
            share = 1 - (1 - self.smoothing) ** (column - before)
            level = height if level is None else level + share * (height - level)
            before = column
            dot = round(level * top)
            smooth.append(Reach(dot, dot, dot))
        return smooth

    def _layer(self) -> Layer:
        return Layer(self.width, self.height, ascii_only=self.glyphs.ascii_only)

    def _head(self, index: int) -> str:
        return self.glyphs.heads[index % len(self.glyphs.heads)]

    def _breaks(self, series: Series) -> set[int]:
        """Columns with a value that is not finite."""
        edge = self.steps.edge
        columns: set[int] = set()
        column = 0
        while column < self.steps.num_columns:
            x = series.next_nonfinite(edge(column))
            if x is None or x >= edge(self.steps.num_columns):
                break
            column = max(column, self.steps.column(x))
            columns.add(column)
            column += 1
        return columns

    def _broken_columns(self) -> dict[tuple[int, int], tuple[str, str]]:
        cell_of = self._layer().cell_of
        return {
            (self.height - 1, cell_of(column)): (self.glyphs.dead, "bad")
            for series in self.series
            for column in self._breaks(series)
        }

    def _rules(self) -> dict[int, tuple[str, str, str]]:
        """Cells with a vertical line: what is at its top, its glyph, its tone."""
        rules: dict[int, tuple[str, str, str]] = {}
        for mark in self.marks:
            if (cell := self._cell(mark.x)) is not None:
                rules[cell] = (mark.letter[:1], self.glyphs.rule, "mark")
        if self.cursor_x is not None:
            cell = self._cell(self.cursor_x)
            if cell is not None:
                top = rules[cell][0] if cell in rules else self.glyphs.cursor
                rules[cell] = (top, self.glyphs.cursor, "inspected")
        return rules

    def _cell(self, x: float) -> int | None:
        column = self.steps.column(x)
        if not 0 <= column < self.steps.num_columns:
            return None
        return self._layer().cell_of(column)

    def _row(
        self,
        row: int,
        band: Layer,
        line: Layer,
        rules: dict[int, tuple[str, str, str]],
        overlay: dict[tuple[int, int], tuple[str, str]],
    ) -> Line:
        cells: list[tuple[str, str]] = []
        behind = band.cells(row, ".")
        for cell, (front, owner) in enumerate(line.cells(row, self.glyphs.heads)):
            shade, _ = next(behind)
            if (row, cell) in overlay:
                cells.append(overlay[row, cell])
            elif row == 0 and cell in rules:
                cells.append((rules[cell][0], rules[cell][2]))
            elif owner != NOBODY:
                cells.append((front, f"series-{owner % 6 + 1}"))
            elif cell in rules:
                cells.append(rules[cell][1:])
            else:
                cells.append((shade, "band"))
        return joined(cells)


def _heights(columns: Columns, axis: ValueAxis, num_dots: int) -> list[Reach | None]:
    fraction, top = axis.fraction, num_dots - 1
    return [
        None
        if each is None
        else Reach(
            round(fraction(each.low) * top),
            round(fraction(each.high) * top),
            round(fraction(each.last) * top),
        )
        for each in columns
    ]
