"""Numbers by (attempt, step), joined over restarts, in bounded memory.

Each attempt keeps its own points. The joined history takes the highest attempt
for each step: where a later attempt went back, the earlier one's points above
that step are superseded, still there to be shown, never deleted.
"""

import math
from array import array
from bisect import bisect_right
from typing import NamedTuple

from opsdash.projections.plausible import whole

MAX_POINTS = 1 << 14
"""Of one series of one attempt; then its older half is thinned. The widest terminal
has some hundred columns, and each chart on it keeps a copy."""
_MAX_SERIES = 512
_MAX_BRANCHES = 4_096
_MAX_GIVEN_UP = 256
_GROUP = 4


class Series:
    """Points of one attempt, steps ascending."""

    __slots__ = ("num_thinnings", "steps", "values")

    def __init__(self) -> None:
        self.steps = array("q")
        self.values = array("d")
        """NaN where the number was not finite."""
        self.num_thinnings = 0
        """How often points were taken out: a cache of them is stale then."""

    def append(self, step: int, value: float | None) -> bool:
        """Add a point; False: its step is not above the last one."""
        if self.steps and step <= self.steps[-1]:
            return False
        self.steps.append(step)
        self.values.append(math.nan if value is None else value)
        if len(self.steps) > MAX_POINTS:
            self._thin()
        return True

    def take_above(self, step: int) -> "Series":
        """Take the points above a step out, and return them."""
        cut, taken = bisect_right(self.steps, step), Series()
        taken.steps, taken.values = self.steps[cut:], self.values[cut:]
        del self.steps[cut:], self.values[cut:]
        self.num_thinnings += 1
        return taken

    def _thin(self) -> None:
        """Of four old points keep the least and the greatest: peaks survive."""
        half = len(self.steps) // 2 // _GROUP * _GROUP
        steps, values = array("q"), array("d")
        for first in range(0, half, _GROUP):
            for index in self._extremes(first):
                steps.append(self.steps[index])
                values.append(self.values[index])
        self.steps = steps + self.steps[half:]
        self.values = values + self.values[half:]
        self.num_thinnings += 1

    def _extremes(self, first: int) -> tuple[int, int]:
        indexes = range(first, first + _GROUP)
        finite = [i for i in indexes if not math.isnan(self.values[i])] or list(indexes)
        low = min(finite, key=self.values.__getitem__)
        high = max(finite, key=self.values.__getitem__)
        if low == high:
            high = first + _GROUP - 1 if low != first + _GROUP - 1 else first
        return min(low, high), max(low, high)


class Span(NamedTuple):
    """A part of one attempt's series: points `start` up to `stop`, without `stop`."""

    attempt: int
    series: Series
    start: int
    stop: int

    def points(self) -> list[tuple[int, float]]:
        """Return (step, value) of each point; NaN is a number that was not finite."""
        part = slice(self.start, self.stop)
        return list(zip(self.series.steps[part], self.series.values[part], strict=True))


class Curve(NamedTuple):
    """One number over the life of a run."""

    joined: tuple[Span, ...]
    superseded: tuple[Span, ...]

    def points(self) -> list[tuple[int, float]]:
        """Return the joined history's (step, value), steps ascending."""
        return [point for span in self.joined for point in span.points()]

    def newest(self, num_points: int) -> list[tuple[int, float]]:
        """Return the newest points of the joined history, steps ascending."""
        found: list[tuple[int, float]] = []
        for span in reversed(self.joined):
            missing = num_points - len(found)
            if missing <= 0:
                break
            start = max(span.start, span.stop - missing)
            found = span._replace(start=start).points() + found
        return found

    def last(self) -> tuple[int, float] | None:
        """Return the newest point of the joined history."""
        for span in reversed(self.joined):
            if span.stop > span.start:
                return span.series.steps[span.stop - 1], span.series.values[
                    span.stop - 1
                ]
        return None


class _Branch:
    """One attempt's series and the step that it went on from."""

    def __init__(self, base: int | None = None) -> None:
        self.base = base
        self.series: dict[str, Series] = {}
        self.given_up: list[tuple[str, Series]] = []
        """What a rollback without a new attempt left behind."""


class Curves:
    """Several named series over all attempts."""

    def __init__(self) -> None:
        self._branches: dict[int, _Branch] = {}
        self._names: dict[str, None] = {}

    @property
    def names(self) -> list[str]:
        """Names in the order in which they first came."""
        return list(self._names)

    @property
    def attempts(self) -> list[int]:
        """Attempts that have a point or a base, ascending."""
        return sorted(self._branches)

    def begin(self, attempt: int, base: int | None) -> None:
        """Say from which step an attempt goes on: what lies above it is given up.

        That holds for the attempts before it, and for its own points after a
        rollback within it.
        """
        branch, base = self._branch(attempt), whole(base)
        if branch is None or base is None:
            return
        branch.base = base if branch.base is None else min(branch.base, base)
        for name, series in branch.series.items():
            if series.steps and series.steps[-1] > base:
                branch.given_up.append((name, series.take_above(base)))
        del branch.given_up[:-_MAX_GIVEN_UP]

    def append(
        self, attempt: int, name: str, step: int | None, value: float | None
    ) -> bool:
        """Add a point; False where it is no step, or not above the last one."""
        step, branch = whole(step), self._branch(attempt)
        if step is None or branch is None or not self._is_known(name):
            return False
        if branch.base is None:
            branch.base = step - 1
        series = branch.series.get(name)
        if series is None:
            series = branch.series[name] = Series()
        return series.append(step, value)

    def last_step(self, attempt: int, name: str) -> int | None:
        """Return the newest step of one attempt's series."""
        branch = self._branches.get(attempt)
        series = branch.series.get(name) if branch else None
        return series.steps[-1] if series and series.steps else None

    def curve(self, name: str) -> Curve:
        """Return one series over all attempts."""
        joined: list[Span] = []
        superseded: list[Span] = []
        ceiling: float = math.inf
        for attempt in reversed(self.attempts):
            branch = self._branches[attempt]
            superseded += [
                Span(attempt, old, 0, len(old.steps))
                for of, old in reversed(branch.given_up)
                if of == name
            ]
            series = branch.series.get(name)
            if series is not None and series.steps:
                cut = bisect_right(series.steps, ceiling)
                joined.append(Span(attempt, series, 0, cut))
                superseded.append(Span(attempt, series, cut, len(series.steps)))
            if branch.base is not None:
                ceiling = min(ceiling, branch.base)
        return Curve(
            tuple(span for span in reversed(joined) if span.stop > span.start),
            tuple(span for span in reversed(superseded) if span.stop > span.start),
        )

    def _branch(self, attempt: int) -> _Branch | None:
        branch = self._branches.get(attempt)
        if branch is None and len(self._branches) < _MAX_BRANCHES:
            branch = self._branches[attempt] = _Branch()
        return branch

    def _is_known(self, name: str) -> bool:
        if name not in self._names:
            if len(self._names) >= _MAX_SERIES:
                return False
            self._names[name] = None
        return True
