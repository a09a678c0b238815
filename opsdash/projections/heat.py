"""Lateness of each rank at each step, over a run of any length, in bounded memory.

Levels of coarser and coarser columns: each keeps its newest columns, and a
column of a coarser level holds the worst of the steps in it. Columns begin at
multiples of their width, so that a finished column never moves.
"""

from array import array
from collections.abc import Mapping
from typing import NamedTuple

NUM_COLUMNS = 1_024
"""Of each level."""
FAN_OUT = 10
_NUM_LEVELS = 7
_MAX_RANKS = 1_024
_NOTHING = -1.0


class Heat(NamedTuple):
    """A window of the heat map."""

    ranks: tuple[int, ...]
    first_step: int
    """Of the first column."""
    steps_per_column: int
    cells: tuple[tuple[float | None, ...], ...]
    """(num_ranks, num_columns): worst lateness in ns; None: not measured."""


class _Level:
    """One width of column: a ring of the newest ones per rank."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._columns = array("q", [-1]) * NUM_COLUMNS
        self._cells: dict[int, array[float]] = {}

    def put(self, step: int, lateness_ns: Mapping[int, int]) -> None:
        column = step // self.width
        slot = column % NUM_COLUMNS
        if column < self._columns[slot]:
            return
        if column > self._columns[slot]:
            self._columns[slot] = column
            for cells in self._cells.values():
                cells[slot] = _NOTHING
        for rank, late_ns in lateness_ns.items():
            row = self._cells.get(rank)
            if row is None:
                row = self._cells[rank] = array("f", [_NOTHING]) * NUM_COLUMNS
            row[slot] = max(row[slot], late_ns)

    def clear_above(self, step: int) -> None:
        """Drop columns that begin above a step."""
        for slot, column in enumerate(self._columns):
            if column * self.width > step:
                self._columns[slot] = -1
                for cells in self._cells.values():
                    cells[slot] = _NOTHING

    def get(self, column: int, rank: int) -> float:
        slot = column % NUM_COLUMNS
        if self._columns[slot] != column or rank not in self._cells:
            return _NOTHING
        return self._cells[rank][slot]


class HeatMap:
    """Lateness by rank and step."""

    def __init__(self) -> None:
        self.last_step = -1
        self.num_hidden_ranks = 0
        self._ranks: set[int] = set()
        self._levels = [_Level(FAN_OUT**level) for level in range(_NUM_LEVELS)]

    def put(self, step: int, lateness_ns: Mapping[int, int]) -> None:
        """Note how late each rank was; of several in one column the worst stays."""
        if not lateness_ns.keys() <= self._ranks:
            lateness_ns = self._admit(lateness_ns)
        self.last_step = max(self.last_step, step)
        for level in self._levels:
            level.put(step, lateness_ns)

    def forget_above(self, step: int) -> None:
        """Drop what lies above a step, because a resume went back to it."""
        self.last_step = min(self.last_step, step)
        for level in self._levels:
            level.clear_above(step)

    def window(
        self,
        num_columns: int,
        *,
        steps_per_column: int = 1,
        last_step: int | None = None,
    ) -> Heat:
        """Return the columns that end with the one that holds `last_step`.

        Args:
            num_columns: At most so many.
            steps_per_column: How many steps one column shows, at least 1. Round
                ones (1, 2, 5 times a power of ten) reach back furthest.
            last_step: None: the newest.
        """
        last = self.last_step if last_step is None else min(last_step, self.last_step)
        ranks = tuple(sorted(self._ranks))
        width = max(1, steps_per_column)
        if last < 0 or num_columns < 1:
            return Heat(ranks, 0, width, tuple(() for _ in ranks))
        final = last // width
        first = max(0, final - min(num_columns, NUM_COLUMNS) + 1)
        level = self._level_for(width)
        cells = tuple(
            tuple(
                _worst(level, rank, column * width, width)
                for column in range(first, final + 1)
            )
            for rank in ranks
        )
        return Heat(ranks, first * width, width, cells)

    def _admit(self, lateness_ns: Mapping[int, int]) -> dict[int, int]:
        """Make room for new ranks, up to a bound; return those that have it."""
        for rank in lateness_ns.keys() - self._ranks:
            if len(self._ranks) < _MAX_RANKS:
                self._ranks.add(rank)
            else:
                self.num_hidden_ranks += 1
        return {r: late for r, late in lateness_ns.items() if r in self._ranks}

    def _level_for(self, width: int) -> _Level:
        """Return the coarsest level whose columns fit whole into the one asked for."""
        return [level for level in self._levels if width % level.width == 0][-1]


def _worst(level: _Level, rank: int, first_step: int, width: int) -> float | None:
    first = first_step // level.width
    worst = max(level.get(first + i, rank) for i in range(width // level.width))
    return None if worst < 0 else worst
