"""Bound what a peer can cause by asking often, and count what is held back.

Pure: the caller has the clock, and says when to look again. Times are
nanoseconds of a monotonic clock.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Rate:
    """So many at once, then one per interval."""

    at_once: int
    every_ns: int


class Allowance:
    """A token bucket: full at first, and again after a while without a call."""

    def __init__(self, rate: Rate) -> None:
        """Begin with a full one."""
        self._rate = rate
        self._full_ns: int | None = None
        """When it would be full again; None: nothing was ever taken."""

    def take(self, now_ns: int) -> bool:
        """Whether this one is within the rate; if so, it counts."""
        rate = self._rate
        full_ns = max(now_ns, self._full_ns or now_ns) + rate.every_ns
        if full_ns - now_ns > rate.at_once * rate.every_ns:
            return False
        self._full_ns = full_ns
        return True

    def is_full(self, now_ns: int) -> bool:
        """Whether it is as if nothing had ever been taken."""
        return self._full_ns is None or self._full_ns <= now_ns


class Allowances:
    """An allowance of the same rate for each name."""

    def __init__(self, rate: Rate) -> None:
        """Begin with nothing taken."""
        self._rate = rate
        self._allowances: dict[str, Allowance] = {}

    def take(self, name: str, now_ns: int) -> bool:
        """Whether one more of this name is within the rate; if so, it counts."""
        known = self._allowances.setdefault(name, Allowance(self._rate))
        return known.take(now_ns)

    def look(self, now_ns: int) -> None:
        """Forget names that have been quiet."""
        for name, allowance in list(self._allowances.items()):
            if allowance.is_full(now_ns):
                del self._allowances[name]


@dataclass
class _Source:
    """What is known of one source of events."""

    allowance: Allowance
    held: Mapping[str, Any] | None = None
    """The newest that was not told; None: all was."""
    num_held: int = 0


class Sparing:
    """Tells of many sources, of each no oftener than a rate.

    Of what is held back the newest is told as soon as it may be, with the
    number of those before it: the last word of a source is never lost.
    """

    def __init__(self, rate: Rate, tell: Callable[..., object]) -> None:
        """Begin with nothing told.

        Args:
            rate: Of each source.
            tell: Is given the fields of an event, and `num_untold`: how many
                like it came before it and were not told.
        """
        self._rate = rate
        self._tell = tell
        self._sources: dict[str, _Source] = {}

    def add(self, name: str, fields: Mapping[str, Any], now_ns: int) -> None:
        """Tell of a source, or hold it back."""
        source = self._sources.setdefault(name, _Source(Allowance(self._rate)))
        source.held, source.num_held = fields, source.num_held + 1
        if source.allowance.take(now_ns):
            self._let_go(source)

    def look(self, now_ns: int) -> None:
        """Tell what may be told by now; forget sources that have been quiet."""
        for name, source in list(self._sources.items()):
            if source.held is None:
                if source.allowance.is_full(now_ns):
                    del self._sources[name]
            elif source.allowance.take(now_ns):
                self._let_go(source)

    def close(self) -> None:
        """Tell all that is held back."""
        for source in self._sources.values():
            self._let_go(source)

    def _let_go(self, source: _Source) -> None:
        fields, num_untold = source.held, source.num_held - 1
        source.held, source.num_held = None, 0
        if fields is not None:
            self._tell(num_untold=num_untold, **fields)
