"""Bring a projection's curves into the series that charts draw.

A curve is joined anew for every look; a series keeps a pyramid that must not be
rebuilt for every look. This remembers how much of which attempt is already
there, and starts over only when history changed: a resume from further back, a
projection that thinned its older points, or one that took another's place.
"""

from collections.abc import Iterator
from typing import NamedTuple

from opsdash.projections.series import Curve, Span
from opsdash.projections.series import Series as Points
from opsdash.widgets.series import Series


class _Taken(NamedTuple):
    """How much of one attempt's series was taken over."""

    series: Points
    thinned: int
    stop: int


class CurveSeries:
    """One drawn series that follows one curve."""

    def __init__(self, name: str) -> None:
        self.series = Series(name)
        self._taken: list[_Taken] = []

    def follow(self, curve: Curve) -> Series:
        """Take over what is new; return the series to draw."""
        spans = [_Taken(s.series, s.series.num_thinnings, s.stop) for s in curve.joined]
        if not self._only_grew(spans):
            self.series = Series(self.series.name)
            self._taken = []
        for index, span in enumerate(curve.joined):
            done = self._taken[index].stop if index < len(self._taken) else span.start
            self.series.extend(_points(span, done))
        self._taken = spans
        return self.series

    def _only_grew(self, spans: list[_Taken]) -> bool:
        """Whether what was taken is still there, and only the last span is longer."""
        old = self._taken
        if len(spans) < len(old):
            return False
        for index, (before, now) in enumerate(zip(old, spans, strict=False)):
            is_same = before.series is now.series and before.thinned == now.thinned
            is_last = index == len(old) - 1
            if not is_same or now.stop < before.stop:
                return False
            if now.stop > before.stop and not is_last:
                return False
        return True


def _points(span: Span, start: int) -> Iterator[tuple[float, float]]:
    # One by one: a list of a long history would be a hundred bytes a point.
    part = slice(start, span.stop)
    return zip(span.series.steps[part], span.series.values[part], strict=True)
