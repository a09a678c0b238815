"""Dots in a grid of cells: braille where the terminal has it, else characters.

Pure. A layer of dots keeps, per cell, which dots are set and who set one last;
a cell has one tone. Row 0 is at the top, dot 0 at the bottom.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from opsdash.widgets.spans import PAINTED, Line, Span

_BRAILLE = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))
_WHOLE = ((1,),)

NOBODY = -1
"""The owner of a cell without dots."""


class Reach(NamedTuple):
    """The dots that a curve covers in one column."""

    low: int
    high: int
    last: int
    """Where the curve leaves the column."""


class Layer:
    """Dots in `width` x `height` cells."""

    def __init__(self, width: int, height: int, *, ascii_only: bool) -> None:
        self.width, self.height = width, height
        self._ascii_only = ascii_only
        self._dots = _WHOLE if ascii_only else _BRAILLE
        self._bits = [bytearray(width) for _ in range(height)]
        self._owners = [[NOBODY] * width for _ in range(height)]

    @property
    def num_columns(self) -> int:
        """Dot columns: two per cell in braille."""
        return self.width * len(self._dots)

    @property
    def num_dots(self) -> int:
        """Dots per column: four per cell in braille."""
        return self.height * len(self._dots[0])

    def cell_of(self, column: int) -> int:
        """Return the cell in which a dot column lies."""
        return column // len(self._dots)

    def row_of(self, dot: int) -> int:
        """Return the row in which a dot lies."""
        return self.height - 1 - dot // len(self._dots[0])

    def fill(self, column: int, low: int, high: int, owner: int) -> None:
        """Set the dots from `low` to `high`, both included, in one column."""
        per_cell = len(self._dots[0])
        cell, side = divmod(column, len(self._dots))
        pattern = self._dots[side]
        for dot in range(max(0, low), min(self.num_dots - 1, high) + 1):
            row = self.height - 1 - dot // per_cell
            self._bits[row][cell] |= pattern[dot % per_cell]
            self._owners[row][cell] = owner

    def trace(
        self, reaches: Sequence[Reach | None], breaks: set[int], owner: int
    ) -> int:
        """Draw a curve; return the last column drawn, or -1.

        None is a column without a point: the curve runs straight over it,
        unless it is one of `breaks`, where the curve ends and begins anew.
        """
        before: int | None = None
        before_column, last_break = -1, -1
        for column, reach in enumerate(reaches):
            if column in breaks:
                last_break = column
            if reach is None:
                continue
            low, high = reach.low, reach.high
            if before is not None and last_break <= before_column:
                near = self._bridge(before_column, before, column, reach.last, owner)
                low, high = _reaching(near, low, high)
            self.fill(column, low, high, owner)
            before, before_column = reach.last, column
        return before_column

    def _bridge(self, start: int, height: int, end: int, goal: int, owner: int) -> int:
        """Draw straight over the columns in between; return the last height."""
        near = height
        for column in range(start + 1, end):
            dot = height + (goal - height) * (column - start) // (end - start)
            self.fill(column, *_reaching(near, dot, dot), owner)
            near = dot
        return near

    def cells(self, row: int, characters: str) -> Iterator[tuple[str, int]]:
        """Yield character and owner of each cell; ASCII draws the owner's own."""
        for bits, owner in zip(self._bits[row], self._owners[row], strict=True):
            if not bits:
                yield " ", NOBODY
            elif self._ascii_only:
                yield characters[owner % len(characters)], owner
            else:
                yield chr(0x2800 + bits), owner


def _reaching(near: int, low: int, high: int) -> tuple[int, int]:
    """Extend a run of dots to just short of `near`, where its neighbour is."""
    return min(low, near + 1), max(high, near - 1)


def joined(cells: Sequence[tuple[str, str]]) -> Line:
    """Join cells of equal tone into spans; a blank takes the tone before it.

    Every change of tone costs some forty bytes on the wire, a blank shows none.
    """
    line: list[Span] = []
    for character, tone in cells:
        last = line[-1] if line else None
        hidden = character == " " and tone not in PAINTED
        if last and (last.tone == tone or (hidden and last.tone not in PAINTED)):
            line[-1] = Span(last.text + character, last.tone)
        else:
            line.append(Span(character, tone))
    return tuple(line)
