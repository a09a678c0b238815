"""Lateness by rank and step, as the heat map widget asks for it."""

from collections.abc import Sequence

from opsdash.projections.heat import HeatMap
from opsdash.widgets.heat_view import Peak

BOUNDS_NS = (200_000, 1_000_000, 5_000_000, 25_000_000, 100_000_000)
"""The least lateness of each density, ns: below the first nobody is late."""
_MAX_COLUMNS = 2_048


class LatenessHeat:
    """Answers with the worst lateness, ns; columns are asked for only once."""

    def __init__(self, heat: HeatMap, first_step: int) -> None:
        self._heat = heat
        self._first_step = first_step
        self._columns: dict[tuple[int, int], dict[int, float]] = {}

    @property
    def ranks(self) -> Sequence[int]:
        """The ranks that were measured."""
        return self._heat.window(0).ranks

    @property
    def span(self) -> tuple[int, int] | None:
        """The first and last step with a value."""
        last = self._heat.last_step
        return None if last < 0 else (min(self._first_step, last), last)

    def label(self, rank: int) -> str:
        """Return what a row is called."""
        return f"rank {rank}"

    def peak(self, rank: int, start: int, stop: int) -> Peak | None:
        """Return the worst lateness with `start <= step < stop`."""
        value = self._column(start, stop).get(rank)
        return None if value is None else Peak(value, min(stop - 1, self._last(start)))

    def _last(self, start: int) -> int:
        return max(start, self._heat.last_step)

    def _column(self, start: int, stop: int) -> dict[int, float]:
        found = self._columns.get((start, stop))
        if found is None:
            width = stop - start
            heat = self._heat.window(1, steps_per_column=width, last_step=stop - 1)
            is_it = heat.first_step == start
            found = {
                rank: cells[0]
                for rank, cells in zip(heat.ranks, heat.cells, strict=True)
                if is_it and cells and cells[0] is not None
            }
            if len(self._columns) > _MAX_COLUMNS:
                self._columns.clear()
            if stop - 1 < self._heat.last_step:
                self._columns[start, stop] = found
        return found
