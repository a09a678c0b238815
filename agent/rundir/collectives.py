"""How late each rank started its collectives, from samples of all ranks.

A sample holds starts on the wall clock of one host. Ranks of one host share
it; those of others are told on the monotonic clock by the sample's own pair of
times, and aligned on the releases of barriers, without which they are not
compared at all. A rank that is late inside backward is late at every later
bucket of that step, so a step counts once: by its widest collective. Who is a
member of a group nobody says: those who tell of it, once the others have told
some samples without it.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import NamedTuple

from agent.rundir.events import CollectivesSampled
from agent.rundir.lateness import Alignment

_MAX_STARTS = 1_024
_MAX_STEPS = 64
"""Steps that one sample may tell of."""
_CLOCK_PAIRS = 5
_MAX_SAMPLES = 8
_OUTSIDE_SAMPLES = 3
"""A rank that tells so many samples without a group is no member of it."""
_MAX_GROUPS = 64
"""Some trainers make new groups for ever."""


class StepStarts(NamedTuple):
    """The widest collective of about one step."""

    step: int
    lateness_ns: dict[int, int]
    """By rank, after the first start."""
    step_ns: int


class _Sample(NamedTuple):
    """Where the reference rank stood at one of its samples."""

    last_id: int
    step: int
    started_ns: int


class _Latest(NamedTuple):
    """The last start that a rank has told."""

    id: int
    started_ns: int


class _Pace(NamedTuple):
    per_step: int
    """Collectives in a step."""
    step_ns: int
    last: _Sample

    def step_of(self, number: int) -> int:
        """Return about which step a collective belongs to."""
        return max(0, self.last.step - (self.last.last_id - number) // self.per_step)


@dataclass
class _Ring:
    """What is known of one group."""

    born: dict[int, int]
    """By rank: how many samples it had told when the group was first heard of."""
    starts: dict[int, dict[int, int]] = field(default_factory=dict)
    """By rank, then by sequence number."""
    samples: deque[_Sample] = field(default_factory=lambda: deque(maxlen=_MAX_SAMPLES))
    reference: int = -1
    """Whose samples those are: the lowest member."""
    next_id: int = 0
    _latest: dict[int, _Latest] = field(default_factory=dict)
    """By rank."""
    _behind: set[int] = field(default_factory=set)
    """Ranks that speak of a group that others have destroyed and made again."""

    def is_settled(self, num_samples: Mapping[int, int]) -> bool:
        """Whether all members are known, and have told.

        Args:
            num_samples: By rank, how many it has told.
        """
        members = self._latest.keys()
        return (
            len(members) > 1
            and self.starts.keys() == members
            and all(
                rank in members or num - self.born.get(rank, 0) >= _OUTSIDE_SAMPLES
                for rank, num in num_samples.items()
            )
        )

    def sampled(self, rank: int, sample: _Sample) -> None:
        """Note where a group stood; one rank's clock and steps are enough."""
        lowest = min(self.starts)
        if lowest != self.reference:
            self.samples.clear()
            self.reference = lowest
        if rank == lowest:
            self.samples.append(sample)

    def admits(self, rank: int, event: CollectivesSampled) -> bool:
        """Whether a rank's numbers mean the same collectives as those of the others.

        A group that is destroyed and made again under its old name counts from
        1 again; ranks tell so one after the other.
        """
        first_id, started_ns = event.first_id, event.started_ns
        known = self._latest.get(rank, _Latest(-1, 0))
        self._latest[rank] = _Latest(first_id + len(started_ns) - 1, started_ns[-1])
        is_back = first_id <= known.id and started_ns[0] > known.started_ns
        if is_back and rank not in self._behind:
            self.starts.clear()
            self.samples.clear()
            self.next_id = 0
            self._behind = set(self._latest)
        if first_id != known.id + 1:
            self._behind.discard(rank)
        return rank not in self._behind

    def pace(self) -> _Pace | None:
        """Return how steps and numbers go together; None: one sample is too few.

        A sample is taken somewhere inside a step, so one interval is too short
        to count the collectives of a step by; several are not.
        """
        if len(self.samples) < 2:
            return None
        first, last = self.samples[0], self.samples[-1]
        num_steps = last.step - first.step
        if num_steps <= 0:
            return None
        per_step = max(1, round((last.last_id - first.last_id) / num_steps))
        recent = self.samples[-2]
        num_recent = max(1, last.last_id - recent.last_id)
        step_ns = (last.started_ns - recent.started_ns) * per_step // num_recent
        return _Pace(per_step, step_ns, last)


class CollectiveFold:
    """Folds the samples of all ranks of one attempt."""

    def __init__(self, hosts: Mapping[int, str], alignment: Alignment) -> None:
        """Take all ranks with their host and boot, and what aligns their clocks."""
        self._hosts = dict(hosts)
        self._alignment = alignment
        self._rings: dict[str, _Ring] = {}
        self._num_samples = dict.fromkeys(hosts, 0)
        self._sampled_step: dict[int, int | None] = {}
        self._pairs: dict[int, deque[int]] = {
            rank: deque(maxlen=_CLOCK_PAIRS) for rank in hosts
        }

    def observe(self, rank: int, event: CollectivesSampled) -> list[StepStarts]:
        """Take in one rank's sample; return the steps that all ranks have told."""
        if rank not in self._hosts or not event.started_ns:
            return []
        self._pairs[rank].append(event.time_ns - event.mono_ns)
        if self._sampled_step.get(rank, -1) != event.step:
            # One sample is several events: one for each group.
            self._sampled_step[rank] = event.step
            self._num_samples[rank] += 1
        ring = self._ring_of(event.group)
        if not ring.admits(rank, event):
            return []
        starts = ring.starts.setdefault(rank, {})
        for place, started_ns in enumerate(event.started_ns):
            starts[event.first_id + place] = started_ns
        if event.step is not None:
            last_id = event.first_id + len(event.started_ns) - 1
            ring.sampled(rank, _Sample(last_id, event.step, event.started_ns[-1]))
        found = self._settle(ring)
        for one in ring.starts.values():
            _forget(one, ring.next_id)
        return found

    def _ring_of(self, group: str) -> _Ring:
        """Return what is known of a group, and forget the one heard of longest ago."""
        known = self._rings.pop(group, None)
        ring = self._rings[group] = known or _Ring(dict(self._num_samples))
        if len(self._rings) > _MAX_GROUPS:
            del self._rings[next(iter(self._rings))]
        return ring

    def _settle(self, ring: _Ring) -> list[StepStarts]:
        """Return the steps whose collectives every member has told."""
        pace = ring.pace()
        if pace is None or not ring.is_settled(self._num_samples):
            return []
        hosts = {self._hosts[rank] for rank in ring.starts}
        if len(hosts) > 1 and not self._alignment.num_releases:
            return []
        common = set.intersection(*(set(starts) for starts in ring.starts.values()))
        ids = sorted(one for one in common if one >= ring.next_id)
        num_steps = min(len(ids) // pace.per_step, _MAX_STEPS)
        if num_steps == 0:
            return []
        ids = ids[-num_steps * pace.per_step :]
        ring.next_id = ids[-1] + 1
        return [
            self._widest(ring, ids[begin : begin + pace.per_step], pace)
            for begin in range(0, len(ids), pace.per_step)
        ]

    def _widest(self, ring: _Ring, ids: Sequence[int], pace: _Pace) -> StepStarts:
        starts = [
            {
                rank: self._aligned_ns(rank, mine[one])
                for rank, mine in ring.starts.items()
            }
            for one in ids
        ]
        widest = max(starts, key=_spread)
        first = min(widest.values())
        lateness_ns = {rank: then - first for rank, then in widest.items()}
        return StepStarts(pace.step_of(ids[-1]), lateness_ns, pace.step_ns)

    def _aligned_ns(self, rank: int, started_ns: int) -> int:
        if len(set(self._hosts.values())) == 1:
            return started_ns
        own_ns = started_ns - median_low(self._pairs[rank])
        line = self._alignment.lines.get(rank)
        return own_ns if line is None else line.to_reference(own_ns)


def _spread(starts: Mapping[int, int]) -> int:
    return max(starts.values()) - min(starts.values())


def _forget(starts: dict[int, int], next_id: int) -> None:
    """Drop what is settled, and the oldest of what some rank never told."""
    for one in sorted(starts)[:-_MAX_STARTS]:
        del starts[one]
    for one in [one for one in starts if one < next_id]:
        del starts[one]
