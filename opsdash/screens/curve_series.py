"""Bring a projection's curves into the series that charts draw.

A curve is joined anew for every look; a series keeps a pyramid that must not be
rebuilt for every look. This remembers how much of which attempt is already
there, and starts over only when history changed: a resume from further back, or
a projection that thinned its older points.
"""

from itertools import islice

from opsdash.projections.series import Curve, Span
from opsdash.widgets.series import Series


class CurveSeries:
    """One drawn series that follows one curve."""

    def __init__(self, name: str) -> None:
        self.series = Series(name)
        self._taken: list[tuple[int, int, int]] = []
        """(attempt, thinnings, stop) of each joined span."""

    def follow(self, curve: Curve) -> Series:
        """Take over what is new; return the series to draw."""
        spans = [(s.attempt, s.series.num_thinnings, s.stop) for s in curve.joined]
        if not self._only_grew(spans):
            self.series = Series(self.series.name)
            self._taken = []
        for index, span in enumerate(curve.joined):
            done = self._taken[index][2] if index < len(self._taken) else span.start
            self.series.extend(_points(span, done))
        self._taken = spans
        return self.series

    def _only_grew(self, spans: list[tuple[int, int, int]]) -> bool:
        old = self._taken
        if len(spans) < len(old):
            return False
        *before, last = old or [(0, 0, 0)]
        if not old:
            return True
        now = spans[len(old) - 1]
        grew = now[:2] == last[:2] and now[2] >= last[2]
        return spans[: len(before)] == before and grew


def _points(span: Span, start: int) -> "list[tuple[float, float]]":
    steps = islice(span.series.steps, start, span.stop)
    values = islice(span.series.values, start, span.stop)
    return list(zip(steps, values, strict=True))
