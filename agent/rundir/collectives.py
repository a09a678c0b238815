"""How late each rank started its collectives, from samples of all ranks.

A sample holds starts on the wall clock of one host. Ranks of one host share
it; those of others are told on the monotonic clock by the sample's own pair of
times, and aligned on the releases of barriers, without which they are not
compared at all. A rank that is late inside backward is late at every later
bucket of that step, so a step counts once: by its widest collective.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from typing import NamedTuple

from agent.rundir.events import CollectivesSampled
from agent.rundir.lateness import Alignment

_MAX_STARTS = 4_096
_MAX_STEPS = 64
"""Steps that one sample may tell of."""
_CLOCK_PAIRS = 5


class StepStarts(NamedTuple):
    """The widest collective of about one step."""

    step: int
    lateness_ns: dict[int, int]
    """By rank, after the first start."""
    step_ns: int


@dataclass
class _Ring:
    """What is known of one group."""

    starts: dict[int, dict[int, int]] = field(default_factory=dict)
    """By rank, then by sequence number."""
    pace: tuple[int, int] | None = None
    """Sequence number and step at the reference rank's sample before."""
    per_step: int | None = None
    """Collectives in a step; None: one sample is too few to tell."""
    next_id: int = 0


class CollectiveFold:
    """Folds the samples of all ranks of one attempt."""

    def __init__(self, hosts: Mapping[int, str], alignment: Alignment) -> None:
        """Take all ranks with their host and boot, and what aligns their clocks."""
        self._hosts = dict(hosts)
        self._alignment = alignment
        self._rings: dict[str, _Ring] = {}
        self._pairs: dict[int, deque[int]] = {
            rank: deque(maxlen=_CLOCK_PAIRS) for rank in hosts
        }

    def observe(self, rank: int, event: CollectivesSampled) -> list[StepStarts]:
        """Take in one rank's sample; return the steps that all ranks have told."""
        if rank not in self._hosts or not event.started_ns:
            return []
        self._pairs[rank].append(event.time_ns - event.mono_ns)
        ring = self._rings.setdefault(event.group, _Ring())
        starts = ring.starts.setdefault(rank, {})
        for place, started_ns in enumerate(event.started_ns):
            starts[event.first_id + place] = started_ns
        if rank == min(self._hosts):
            self._set_pace(ring, event)
        found = self._settle(ring)
        for one in ring.starts.values():
            _forget(one, ring.next_id)
        return found

    def _set_pace(self, ring: _Ring, event: CollectivesSampled) -> None:
        last_id = event.first_id + len(event.started_ns) - 1
        if event.step is None:
            return
        if ring.pace is not None and event.step > ring.pace[1]:
            num_ids, num_steps = last_id - ring.pace[0], event.step - ring.pace[1]
            ring.per_step = max(1, round(num_ids / num_steps))
        ring.pace = (last_id, event.step)

    def _settle(self, ring: _Ring) -> list[StepStarts]:
        """Return the steps whose collectives every rank has told."""
        if ring.per_step is None or len(ring.starts) < len(self._hosts):
            return []
        if len(set(self._hosts.values())) > 1 and not self._alignment.num_releases:
            return []
        common = set.intersection(*(set(starts) for starts in ring.starts.values()))
        ids = sorted(one for one in common if one >= ring.next_id)
        num_steps = min(len(ids) // ring.per_step, _MAX_STEPS)
        if num_steps == 0:
            return []
        ids = ids[-num_steps * ring.per_step :]
        ring.next_id = ids[-1] + 1
        return self._steps(ring, ids, num_steps)

    def _steps(
        self, ring: _Ring, ids: Sequence[int], num_steps: int
    ) -> list[StepStarts]:
        assert ring.per_step is not None
        assert ring.pace is not None
        starts = [
            {
                rank: self._aligned_ns(rank, mine[one])
                for rank, mine in ring.starts.items()
            }
            for one in ids
        ]
        span_ns = min(starts[-1].values()) - min(starts[0].values())
        per_step = ring.per_step
        step_ns = span_ns * per_step // max(1, len(ids) - 1)
        found = []
        for number in range(num_steps):
            widest = max(starts[number * per_step :][:per_step], key=_spread)
            first = min(widest.values())
            lateness_ns = {rank: then - first for rank, then in widest.items()}
            step = max(0, ring.pace[1] - num_steps + 1 + number)
            found.append(StepStarts(step, lateness_ns, step_ns))
        return found

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
