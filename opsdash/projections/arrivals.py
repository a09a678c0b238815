"""Match the waits of all ranks at one barrier, and tell how late each arrived.

All ranks leave a barrier together, so aligning every rank's clock on its
releases gives each rank's arrival without a shared clock: the offset between
two clocks is the median difference of their last releases. Processes of one
host and boot share a monotonic clock and need no offset. Wall clocks are never
compared.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

from agent.rundir.events import Wait
from opsdash.projections.plausible import MAX_NS, MAX_RANKS, clip, nanoseconds, whole

_MAX_OPEN = 8_192
"""Barriers that some ranks have not reported yet."""
_OFFSET_SAMPLES = 31


class Settled(NamedTuple):
    """A barrier that every rank has reported."""

    name: str
    step: int
    lateness_ns: dict[int, int]
    """By rank, counted from the first arrival."""
    wait_ns: int
    """Summed over the ranks."""


class Arrivals:
    """The barriers of one attempt that some ranks have reported."""

    def __init__(self) -> None:
        self._world_size: int | None = None
        self._clocks: dict[int, str] = {}
        self._open: OrderedDict[tuple[str, int], dict[int, tuple[int, Wait]]]
        self._open = OrderedDict()
        self._releases: dict[int, deque[int]] = {}

    def expect(self, world_size: int | None) -> None:
        """Say how many ranks report each barrier."""
        self._world_size = whole(world_size, MAX_RANKS) or self._world_size

    def set_clock(self, rank: int, clock: str) -> None:
        """Say whose monotonic clock a rank reads; ranks that share one agree."""
        self._clocks[rank] = clip(clock, 160)

    def add(self, step: int, rank: int, wait: Wait) -> list[Settled]:
        """Take in one rank's wait; return the barriers that are settled by it."""
        index, wait_ns = whole(wait.index), nanoseconds(wait.wait_ns)
        if index is None or wait_ns is None or not 0 <= wait.arrived_mono_ns <= MAX_NS:
            return []
        key = (clip(wait.name, 80), index)
        settled = []
        waits = self._open.get(key)
        if waits is None:
            if len(self._open) >= _MAX_OPEN:
                settled += self._settle(*self._open.popitem(last=False))
            waits = self._open[key] = {}
        waits[rank] = (step, wait)
        if self._world_size is not None and len(waits) >= self._world_size:
            del self._open[key]
            settled += self._settle(key, waits)
        return settled

    def _settle(
        self, key: tuple[str, int], waits: Mapping[int, tuple[int, Wait]]
    ) -> list[Settled]:
        if len(waits) < 2:
            return []
        found = lateness_of(
            {rank: wait for rank, (_, wait) in waits.items()}, self._offsets(waits)
        )
        step = max(step for step, _ in waits.values())
        return [
            Settled(
                key[0], step, found, sum(wait.wait_ns for _, wait in waits.values())
            )
        ]

    def _offsets(self, waits: Mapping[int, tuple[int, Wait]]) -> dict[int, int]:
        """Return each rank's clock minus the lowest rank's, ns."""
        reference = min(waits)
        released_ns = _released_ns(waits[reference][1])
        offsets = {reference: 0}
        for rank, (_, wait) in waits.items():
            clock = self._clocks.get(rank)
            if clock is not None and clock == self._clocks.get(reference):
                offsets[rank] = 0
                continue
            samples = self._releases.setdefault(rank, deque(maxlen=_OFFSET_SAMPLES))
            samples.append(_released_ns(wait) - released_ns)
            offsets[rank] = int(median(samples))
        return offsets


def lateness_of(
    waits: Mapping[int, Wait], offsets: Mapping[int, int]
) -> dict[int, int]:
    """Return how long after the first arrival each rank arrived at one barrier, ns.

    Nobody can be later than the longest wait: the first to arrive waited for
    the last. That bounds what a wrong clock can say.

    Args:
        waits: By rank, of one barrier.
        offsets: By rank, its monotonic clock minus a common one, ns.
    """
    longest = max(wait.wait_ns for wait in waits.values())
    arrived = {
        rank: wait.arrived_mono_ns - offsets.get(rank, 0)
        for rank, wait in waits.items()
    }
    first = min(arrived.values())
    return {rank: min(then - first, longest) for rank, then in arrived.items()}


def _released_ns(wait: Wait) -> int:
    return wait.arrived_mono_ns + wait.wait_ns
