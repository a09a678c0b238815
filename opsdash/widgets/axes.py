"""Where a value lies in a chart: round limits, fixed columns, readable labels.

Pure. Limits are round numbers and columns begin at multiples of a round number
of steps, so a new point moves nothing that is already drawn until one of them
is outgrown; that is what keeps a live chart cheap over ssh.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from opsdash.units import count, number

_ROUND = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
_ROUNDER = (1.0, 2.0, 5.0, 10.0)
_HUGE = 1e300
_TINY = 1e-290


def round_up(value: float, ladder: tuple[float, ...] = _ROUNDER) -> float:
    """Return the least of `ladder` times a power of ten that is not below `value`.

    `value` is positive. One that is round but for its last digits is round.
    """
    magnitude = 10.0 ** math.floor(math.log10(value))
    least = value * (1 - 1e-9)
    return next(
        (step * magnitude for step in ladder if step * magnitude >= least),
        10 * magnitude,
    )


class StepAxis(NamedTuple):
    """Columns of equally many steps; finished ones never change their meaning."""

    start: float
    """The step at which the first column begins."""
    per_column: float
    num_columns: int

    @classmethod
    def over(
        cls, first: float, last: float, num_columns: int, window: float | None = None
    ) -> "StepAxis":
        """Cover `first` to `last`, or the last `window` steps of it.

        A window moves on by a quarter of the chart at a time, so that columns
        stand still in between.
        """
        if window is not None and last - first > window:
            per_column = round_up(max(window, _TINY) / (0.75 * num_columns), _ROUND)
            hop = per_column * max(1, num_columns // 4)
            return cls(math.floor((last - window) / hop) * hop, per_column, num_columns)
        span = max(last - first, abs(last) * 1e-12, _TINY) if last > first else 1.0
        per_column = round_up(span / num_columns, _ROUND)
        axis = cls.aligned(first, per_column, num_columns)
        while axis.column(last) >= num_columns:
            per_column = round_up(per_column * 1.01, _ROUND)
            axis = cls.aligned(first, per_column, num_columns)
        return axis

    @classmethod
    def aligned(cls, first: float, per_column: float, num_columns: int) -> "StepAxis":
        """Begin at the multiple of `per_column` at or before `first`."""
        start = math.floor(first / per_column) * per_column
        return cls(start, per_column, num_columns)

    def edge(self, column: float) -> float:
        """Return the step at which a column begins."""
        return self.start + column * self.per_column

    def column(self, x: float) -> int:
        """Return the column of step `x`, which may lie outside."""
        column = math.floor((x - self.start) / self.per_column)
        # The division rounds: the edges decide, as they do for the points.
        if x < self.edge(column):
            return column - 1
        return column + 1 if x >= self.edge(column + 1) else column

    def ticks(self, columns_apart: int) -> list[tuple[int, str]]:
        """Return round steps at least `columns_apart` apart: column and label."""
        apart = round_up(self.per_column * columns_apart)
        first = math.ceil(self.start / apart)
        stop = self.edge(self.num_columns)
        # Far from zero a step may be less than what a double can tell apart.
        most = self.num_columns // max(1, columns_apart) + 2
        steps = (apart * index for index in range(first, first + most))
        return [(self.column(x), step_label(x)) for x in steps if x < stop]


def step_label(x: float) -> str:
    """Return a step as an axis says it: `1,200`, `1.2M`, `0.5`."""
    if abs(x) < 999_999 and x == round(x):
        return count(round(x))
    return number(x)


class ValueAxis(NamedTuple):
    """Round limits around the values, linear or logarithmic."""

    bottom: float
    top: float
    step: float
    """The distance of round values; its digits are worth showing."""
    is_log: bool

    @classmethod
    def around(cls, low: float, high: float, *, log: bool) -> "ValueAxis":
        """Cover `low` to `high`; on a logarithmic axis both are positive."""
        if log:
            low, high = max(low, _TINY), min(max(high, _TINY), _HUGE)
            bottom, top = _round_down_log(low), round_up(high)
            return cls(bottom, top if top > bottom else 10 * bottom, 0.0, is_log=True)
        low, high = (max(-_HUGE, min(value, _HUGE)) for value in (low, high))
        size = max(abs(low), abs(high))
        if high - low <= max(size * 1e-12, _TINY):
            # From 0 to twice the value: labels that are as short as its own.
            step = size if size > _TINY else 1.0
            return cls(low - step, high + step, step, is_log=False)
        step = round_up((high - low) / 8)
        # A value that is round but for the last digit of a double is round.
        bottom = math.floor(low / step + 1e-6) * step
        top = math.ceil(high / step - 1e-6) * step
        return cls(bottom, top, step, is_log=False)

    @property
    def fraction(self) -> Callable[[float], float]:
        """A function from a value to its height, 0 at the bottom, 1 at the top."""
        if self.is_log:
            floor = math.log10(self.bottom)
            scale = 1 / (math.log10(self.top) - floor)

            def log_height(value: float) -> float:
                if value <= self.bottom:
                    return 0.0
                return min(1.0, (math.log10(value) - floor) * scale)

            return log_height

        bottom, scale = self.bottom, 1 / (self.top - self.bottom)

        def height(value: float) -> float:
            return min(1.0, max(0.0, (value - bottom) * scale))

        return height

    def label(self, fraction: float, most: int = 7) -> str:
        """Return the value at a height, with the digits that tell it apart.

        In at most `most` characters; empty where no form of it is so short.
        """
        if self.is_log:
            floor, ceiling = math.log10(self.bottom), math.log10(self.top)
            return _short(10 ** (floor + (ceiling - floor) * fraction), most)
        value = self.bottom + (self.top - self.bottom) * fraction
        decimals = max(0, 1 - math.floor(math.log10(self.step)))
        text = f"{value:.{decimals}f}" if decimals <= 6 and abs(value) < 1e6 else ""
        text = text.rstrip("0").rstrip(".") if "." in text else text
        if not text or len(text) > most:
            return _short(value, most)
        return "0" if text == "-0" else text


def _short(value: float, most: int) -> str:
    """Return a number with as many digits as there is room, plain ones if they fit."""
    texts = [number(value)]
    for digits in (1, 0) if math.isfinite(value) else ():
        cut = f"{value:.{digits}e}"
        mantissa, _, exponent = cut.partition("e")
        texts += [number(float(cut)), f"{mantissa}e{int(exponent)}"]
    return next((text for text in texts if len(text) <= most), "")


def _round_down_log(value: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(value))
    return max(
        (k * magnitude for k in (2.0, 5.0) if k * magnitude <= value), default=magnitude
    )
