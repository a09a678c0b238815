"""Which steps a heat map shows, what it asks its model, what densities mean.

Pure. Columns begin at multiples of the zoom and the view moves on by a quarter
of its width at a time, so that live columns stand still in between.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from opsdash.glyphs import Glyphs
from opsdash.widgets.spans import Line, Span, within

ZOOMS = tuple(
    digit * power
    for power in (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)
    for digit in (1, 2, 5)
)
"""Steps per column that can be chosen, unless the owner knows better."""


_HOT = 4
"""From this density on a cell is hot."""


class Peak(NamedTuple):
    """The greatest value in some steps."""

    value: float
    step: int


class HeatModel(Protocol):
    """A value per rank and step, summed up on demand."""

    @property
    def ranks(self) -> Sequence[int]:
        """The rows, from the top."""

    @property
    def span(self) -> tuple[int, int] | None:
        """The first and last step with a value."""

    def label(self, rank: int) -> str:
        """Return what a row is called."""

    def peak(self, rank: int, start: int, stop: int) -> Peak | None:
        """Return the greatest value with `start <= step < stop`; None without any."""


class NoHeat:
    """A model without rows, until there is another."""

    ranks: Sequence[int] = ()
    span: tuple[int, int] | None = None

    def label(self, rank: int) -> str:
        """Return what a row is called."""
        return f"rank {rank}"

    def peak(self, rank: int, start: int, stop: int) -> Peak | None:  # noqa: ARG002 - a HeatModel
        """Return None: there is nothing."""
        return None


def tone_of(level: int | None) -> str:
    """Return the tone of a density, 0 to 5; None is: no data."""
    if level is None:
        return "dim"
    return "hot" if level >= _HOT else "cool"


def heat_legend(
    heading: str,
    bounds: Sequence[float],
    say: Callable[[float], str],
    glyphs: Glyphs,
    width: int,
) -> Line:
    """Return the title and from which value on each density stands."""
    spans = [Span(heading, "title")] if heading else []
    for level, bound in enumerate(bounds, start=1):
        spans.append(Span(f"  {glyphs.heat[level]} ", tone_of(level)))
        spans.append(Span(say(bound), "dim"))
    spans.append(Span(f"  {glyphs.dot} no data", "dim"))
    return within(spans, width, glyphs.ellipsis)


def first_row(top: int, rows: int, num_ranks: int, cursor: int | None) -> int:
    """Return the first row to show, near `top`, with the cursor's row in sight."""
    top = max(0, min(top, num_ranks - rows))
    if cursor is None:
        return top
    row = min(cursor, num_ranks - 1)
    return min(max(top, row - rows + 1), row)


@dataclass
class HeatView:
    """A window of columns over the steps."""

    zoom: int = 0
    """Index into `zooms`."""
    start: int = 0
    """The step at which the first column begins."""
    num_columns: int = 0
    zooms: Sequence[int] = ZOOMS
    """Steps per column to choose from, ascending."""

    @property
    def per_column(self) -> int:
        """Steps in one column."""
        return self.zooms[self.zoom]

    @property
    def stop(self) -> int:
        """The step after the last column."""
        return self.start + self.num_columns * self.per_column

    def column_start(self, step: int) -> int:
        """Return the step at which the column of `step` begins."""
        return step // self.per_column * self.per_column

    def resize(self, num_columns: int, span: tuple[int, int]) -> None:
        """Show as many columns as there is room for, the newest at the right."""
        if num_columns != self.num_columns:
            self.num_columns = max(1, num_columns)
            self._show_until(span)

    def follow(self, span: tuple[int, int]) -> None:
        """Bring the newest step into sight."""
        if not self.start <= span[1] < self.stop:
            self._show_until(span, spare=self.num_columns // 4)

    def reveal(self, step: int) -> None:
        """Bring a step into sight, by half a width."""
        half = max(1, self.num_columns // 2) * self.per_column
        if step < self.start:
            self.start = max(0, self.column_start(step) - half)
        elif step >= self.stop:
            self.start = self.column_start(step) - half

    def set_zoom(self, zoom: int, step: int) -> None:
        """Change the steps per column; the column of `step` stays where it is."""
        before = (step - self.start) // self.per_column
        self.zoom = max(0, min(zoom, len(self.zooms) - 1))
        self.start = max(0, self.column_start(step) - before * self.per_column)

    def fit(self, span: tuple[int, int]) -> None:
        """Choose the least zoom that shows everything."""
        needed = span[1] - span[0] + 1
        fitting = (
            index
            for index, steps in enumerate(self.zooms)
            if needed + steps <= self.num_columns * steps
        )
        self.zoom = next(fitting, len(self.zooms) - 1)
        self.start = self.column_start(span[0])

    def _show_until(self, span: tuple[int, int], spare: int = 0) -> None:
        first, last = self.column_start(span[0]), self.column_start(span[1])
        columns_before = max(1, self.num_columns - spare) - 1
        self.start = max(first, last - columns_before * self.per_column)
