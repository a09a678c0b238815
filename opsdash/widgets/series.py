"""A growing line of numbers of which any stretch can be summed up at once.

Finite values lie in `array('d')` with a pyramid of lowest, highest and total
over blocks of 16, 256, 4096 … points, so appending is cheap and a summary of
any window reads about a hundred numbers, whatever the history. Values that
are not finite never enter the pyramid: only where they were is kept.
"""

import math
from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from typing import NamedTuple

FAN_OUT = 16
"""Points or blocks under one block of the next level."""


class Mark(NamedTuple):
    """Something that happened at a step, drawn as a vertical line."""

    x: float
    letter: str
    """One character: `r` resume, `R` restore, `x` reset."""
    text: str = ""
    """Shown while the cursor is there."""


class Summary(NamedTuple):
    """The finite values in a window."""

    low: float
    high: float
    mean: float
    last: float


class _Level(NamedTuple):
    """One value per block; at the bottom, all three are the values themselves."""

    lows: "array[float]"
    highs: "array[float]"
    totals: "array[float]"


class Series:
    """Values over steps, in the order of the steps."""

    __slots__ = ("_levels", "_nonfinite", "_xs", "_ys", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._xs = array("d")
        self._ys = array("d")
        self._nonfinite = array("d")
        self._levels = [_Level(self._ys, self._ys, self._ys)]

    def __len__(self) -> int:
        return len(self._ys) + len(self._nonfinite)

    @property
    def span(self) -> tuple[float, float] | None:
        """The first and last step with a value, finite or not."""
        ends = [
            end for xs in (self._xs, self._nonfinite) if xs for end in (xs[0], xs[-1])
        ]
        return (min(ends), max(ends)) if ends else None

    @property
    def latest(self) -> float | None:
        """The value at the last step; NaN if it is not finite, None without any."""
        span = self.span
        return None if span is None else self.at(span[1])

    def append(self, x: float, y: float | None) -> None:
        """Add one value; None, like NaN and infinity, means: not finite."""
        self.extend(((x, y),))

    def extend(self, points: Iterable[tuple[float, float | None]]) -> None:
        """Add values. Steps that come late are put in their place, at a cost."""
        xs, ys = self._xs, self._ys
        for x, y in points:
            if y is None or not math.isfinite(y):
                insort(self._nonfinite, x)
            elif not xs or x >= xs[-1]:
                xs.append(x)
                ys.append(y)
            else:
                self._insert(x, y)
        self._grow()

    def cut(self, x: float) -> None:
        """Forget every value at step `x` and after it, as a rollback does."""
        index = bisect_left(self._xs, x)
        self._forget_blocks(index)
        del self._xs[index:]
        del self._ys[index:]
        del self._nonfinite[bisect_left(self._nonfinite, x) :]

    def summary(self, start: float, stop: float) -> Summary | None:
        """Sum up the finite values with `start <= x < stop`; None without any."""
        first, end = bisect_left(self._xs, start), bisect_left(self._xs, stop)
        if first == end:
            return None
        last = self._ys[end - 1]
        if end - first == 1:
            return Summary(last, last, last, last)
        low, high, total = self._fold(first, end)
        mean = total / (end - first)
        # The total of huge values may have left the range of a double.
        return Summary(low, high, min(max(low, mean), high), last)

    def next_nonfinite(self, start: float) -> float | None:
        """Return the first step at or after `start` whose value is not finite."""
        index = bisect_left(self._nonfinite, start)
        return self._nonfinite[index] if index < len(self._nonfinite) else None

    def at(self, x: float) -> float | None:
        """Return the newest value at or before step `x`; NaN if not finite."""
        index = bisect_right(self._xs, x) - 1
        bad = bisect_right(self._nonfinite, x) - 1
        if bad >= 0 and (index < 0 or self._nonfinite[bad] >= self._xs[index]):
            return math.nan
        return self._ys[index] if index >= 0 else None

    def step_before(self, x: float) -> float | None:
        """Return the last step before `x` that has a value."""
        found = [
            xs[index - 1]
            for xs in (self._xs, self._nonfinite)
            if (index := bisect_left(xs, x))
        ]
        return max(found, default=None)

    def step_from(self, x: float) -> float | None:
        """Return the first step at or after `x` that has a value."""
        found = [
            xs[index]
            for xs in (self._xs, self._nonfinite)
            if (index := bisect_left(xs, x)) < len(xs)
        ]
        return min(found, default=None)

    def _insert(self, x: float, y: float) -> None:
        index = bisect_right(self._xs, x)
        self._forget_blocks(index)
        self._xs.insert(index, x)
        self._ys.insert(index, y)

    def _forget_blocks(self, index: int) -> None:
        """Drop the blocks that contain point `index` or a later one."""
        for level in self._levels[1:]:
            index //= FAN_OUT
            for blocks in level:
                del blocks[index:]

    def _grow(self) -> None:
        """Build the blocks that became complete."""
        depth = 0
        while len(self._levels[depth].lows) >= FAN_OUT:
            if depth + 1 == len(self._levels):
                self._levels.append(_Level(array("d"), array("d"), array("d")))
            below, level = self._levels[depth], self._levels[depth + 1]
            for block in range(len(level.lows), len(below.lows) // FAN_OUT):
                part = slice(block * FAN_OUT, (block + 1) * FAN_OUT)
                level.lows.append(min(below.lows[part]))
                level.highs.append(max(below.highs[part]))
                level.totals.append(sum(below.totals[part]))
            depth += 1

    def _fold(self, first: int, end: int) -> tuple[float, float, float]:
        """Lowest, highest and total of the points `[first, end)`."""
        low, high, total = math.inf, -math.inf, 0.0
        for depth, level in enumerate(self._levels):
            inner, inner_end = -(-first // FAN_OUT), end // FAN_OUT
            is_last = inner >= inner_end or depth + 1 == len(self._levels)
            head_end = end if is_last else inner * FAN_OUT
            tail = end if is_last else inner_end * FAN_OUT
            for part in (slice(first, head_end), slice(tail, end)):
                if part.start < part.stop:
                    low = min(low, *level.lows[part])
                    high = max(high, *level.highs[part])
                    total += sum(level.totals[part])
            if is_last:
                break
            first, end = inner, inner_end
        return low, high, total
