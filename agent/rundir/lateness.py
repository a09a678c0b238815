"""How late each rank arrived at a barrier, without a clock that they share.

All ranks leave a barrier together, so its release is an instant that every
host's monotonic clock has recorded. One release is not simultaneous to better
than some milliseconds (its spread has a p99 of 5-8 ms on two busy cores); a
robust line of offset and drift through many of them is, to a fraction of one.
Ranks of one host share its clock and need no line. Pure integer arithmetic on
nanoseconds; raw wall clocks are never compared.
"""

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from statistics import median, median_low
from typing import NamedTuple

MAX_DRIFT = 500e-6
"""Quartz is good to 100 ppm; a steeper line is noise over a short window."""

_WINDOW = 256
"""Barriers that a line is drawn through."""
_REFIT_EVERY = 8
_MAX_OPEN = 1_024
"""Barriers that some rank has not told yet; the oldest is given up."""


class Passage(NamedTuple):
    """One rank's passage through one barrier, on its own monotonic clock."""

    arrived_ns: int
    wait_ns: int

    @property
    def released_ns(self) -> int:
        """When the rank went on."""
        return self.arrived_ns + self.wait_ns


class ClockLine(NamedTuple):
    """Tells a host's monotonic clock in the reference host's."""

    origin_ns: int = 0
    offset_ns: int = 0
    """Reference minus own, at the origin."""
    drift: float = 0.0
    """How much faster the reference runs, e.g. 50e-6."""

    def to_reference(self, own_ns: int) -> int:
        """Return the reference's time at `own_ns`."""
        return own_ns + self.offset_ns + round(self.drift * (own_ns - self.origin_ns))


class BarrierLateness(NamedTuple):
    """A barrier that every rank has passed."""

    name: str
    number: int
    """How often the ranks had passed it before."""
    lateness_ns: dict[int, int]
    """By rank, after the first arrival."""
    num_releases: int
    """How many releases the clocks were aligned on; 0: one host, nothing to align."""


def fit_clock(own_ns: Sequence[int], reference_ns: Sequence[int]) -> ClockLine:
    """Return the line through releases that two clocks have seen.

    The slope is the median over pairs that lie half the window apart, the
    offset the median of what is left: half of all releases may be wrong by any
    amount. Source: Theil 1950, in its incomplete form.

    Args:
        own_ns: Releases on the clock to be told, in order; at least one.
        reference_ns: The same releases on the reference's clock.
    """
    origin_ns = own_ns[len(own_ns) // 2]
    offsets = [ref - own for own, ref in zip(own_ns, reference_ns, strict=True)]
    half = len(offsets) // 2
    slopes = [
        (offsets[i + half] - offsets[i]) / (own_ns[i + half] - own_ns[i])
        for i in range(len(offsets) - half)
        if half and own_ns[i + half] != own_ns[i]
    ]
    drift = max(-MAX_DRIFT, min(MAX_DRIFT, median(slopes))) if slopes else 0.0
    level = [
        offset - round(drift * (own - origin_ns))
        for own, offset in zip(own_ns, offsets, strict=True)
    ]
    return ClockLine(origin_ns, median_low(level), drift)


def lateness(
    passages: Mapping[int, Passage], lines: Mapping[int, ClockLine]
) -> dict[int, int]:
    """Return how long after the first arrival each rank arrived, ns.

    Nobody is later than the longest wait, because the first to arrive waited
    for the last: that bounds what a wrong line can say.

    Args:
        passages: By rank, of one barrier; not empty.
        lines: By rank; one that is missing reads the reference's clock.
    """
    here = ClockLine()
    arrived = {
        rank: lines.get(rank, here).to_reference(passage.arrived_ns)
        for rank, passage in passages.items()
    }
    first = min(arrived.values())
    longest = max(passage.wait_ns for passage in passages.values())
    return {rank: min(then - first, longest) for rank, then in arrived.items()}


class Alignment:
    """The clocks of all hosts, from the releases that they have in common."""

    def __init__(self, hosts: Mapping[int, str], *, window: int = _WINDOW) -> None:
        """Take which host and boot each rank is on; the lowest rank's is the reference.

        Args:
            hosts: By rank; ranks with equal text share a monotonic clock.
            window: How many of the last releases count.
        """
        self._hosts = dict(hosts)
        self._reference = self._hosts[min(self._hosts)]
        self._releases: dict[str, deque[int]] = {
            host: deque(maxlen=window) for host in set(self._hosts.values())
        }
        self._num_observed = 0
        self.lines: dict[int, ClockLine] = {}

    @property
    def num_releases(self) -> int:
        """How many releases the lines are drawn through; 0: there is one clock."""
        is_one = len(self._releases) == 1
        return 0 if is_one else len(self._releases[self._reference])

    def observe(self, passages: Mapping[int, Passage]) -> None:
        """Take in a barrier that every rank has passed."""
        if len(self._releases) == 1:
            return
        for host, released in self._releases.items():
            # Waking up can only be late: the first on a host is nearest the truth.
            released.append(
                min(
                    passage.released_ns
                    for rank, passage in passages.items()
                    if self._hosts[rank] == host
                )
            )
        self._num_observed += 1
        if self._num_observed < 4 * _REFIT_EVERY or not (
            self._num_observed % _REFIT_EVERY
        ):
            self.fit()

    def fit(self) -> None:
        """Draw the lines through all releases that are known now."""
        reference = self._releases[self._reference]
        by_host = {
            host: fit_clock(released, reference)
            for host, released in self._releases.items()
            if host != self._reference
        }
        self.lines = {
            rank: by_host[host] for rank, host in self._hosts.items() if host in by_host
        }


class LatenessFold:
    """Matches the ranks' passages and tells each barrier once all have told it."""

    def __init__(self, hosts: Mapping[int, str]) -> None:
        """Take all ranks that pass each barrier, and which host and boot each is on."""
        self._num_ranks = len(hosts)
        self._open: OrderedDict[tuple[str, int], dict[int, Passage]] = OrderedDict()
        self.alignment = Alignment(hosts)

    def observe(
        self, rank: int, name: str, number: int, passage: Passage
    ) -> BarrierLateness | None:
        """Take in one rank's passage; None: some rank has not told its own yet."""
        waiting = self._open.setdefault((name, number), {})
        waiting[rank] = passage
        if len(waiting) < self._num_ranks:
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
            return None
        del self._open[name, number]
        self.alignment.observe(waiting)
        found = lateness(waiting, self.alignment.lines)
        return BarrierLateness(name, number, found, self.alignment.num_releases)


def lateness_of_all(
    barriers: Sequence[Mapping[int, Passage]],
    hosts: Mapping[int, str],
    *,
    window: int = _WINDOW,
) -> list[dict[int, int]]:
    """Return the lateness at each of many past barriers, ns, each by rank.

    Looking back, a line can be drawn through what came after a barrier too.
    """
    found: list[dict[int, int]] = []
    for begin in range(0, len(barriers), window):
        block = barriers[begin : begin + window]
        alignment = Alignment(hosts, window=window)
        for passages in barriers[max(0, begin + len(block) - window) :][:window]:
            alignment.observe(passages)
        alignment.fit()
        found += [lateness(passages, alignment.lines) for passages in block]
    return found
