"""Where this rank waits now, for how long, and how long it may.

Waits that the trainer wrapped come first, each inside those before it; then the
collective that the main thread seems to stand in. One that nobody wrapped is
found by a main thread that tells nothing.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

from agent.probes.activity import Activity, limit_in_ns
from agent.probes.barrier import BarrierProbe, OpenWait
from agent.probes.collectives import Collective

_SPACING = 4
"""A collective that was seen for so long is looked for again after a quarter of it:
else a long hang would cost more samples than may be spent afterwards."""
_SURE_SAMPLES = 2
"""A thread that was seen in another one each time does not stand still."""
_STEPS_OF_LIMIT = 10
"""A step that takes so many times the median is stuck, however long that is."""


class Waiting(NamedTuple):
    """What this rank waits for."""

    name: str
    number: int
    """Index of the barrier, or sequence number of the collective."""
    age_ns: int
    limit_ns: int
    collective: Collective | None = None

    @property
    def place(self) -> tuple[str, int]:
        """What tells this wait from any other of this rank."""
        return self.name, self.number

    @property
    def is_overdue(self) -> bool:
        """Whether it has lasted longer than it may."""
        return self.age_ns >= self.limit_ns


class _Seen(NamedTuple):
    """The collective that the main thread started last."""

    collective: Collective | None = None
    since_ns: int = 0
    """When it was seen first, on the monotonic clock."""
    inside: tuple[OpenWait, ...] = ()
    """The wrapped waits in which it was seen."""
    num_samples: int = 0
    """How often in a row."""


class OwnWaits:
    """Asked at every beat, by the agent's thread."""

    def __init__(
        self,
        activity: Activity,
        barriers: BarrierProbe,
        sample_collectives: Callable[[], Collective | None],
        *,
        limit_s: float,
        lead_ns: int,
    ) -> None:
        """Watch one rank.

        Args:
            activity: What its main thread does.
            barriers: The waits that it wrapped.
            sample_collectives: Returns the collective that it started last.
            limit_s: Of waits and steps that have no limit of their own.
            lead_ns: So early before a limit a wait is looked at; what stands inside
                another one has lasted so long before it is called overdue.
        """
        self._activity = activity
        self._barriers = barriers
        self._sample = sample_collectives
        self._seen = _Seen()
        self._sampled_ns = 0
        self._limit_ns = limit_in_ns(limit_s) or 0
        self._lead_ns = lead_ns
        self._still: tuple[int, int] = (-1, 0)
        """The last count of progress, and when it was first seen."""
        self._sampled = self._still
        """For which of them collectives were sampled last."""
        self._looked_ns = time.monotonic_ns()

    def look(self) -> list[Waiting]:
        """Return where this rank waits, the outermost first."""
        now = time.monotonic_ns()
        opened = self._barriers.open
        if not opened:
            unnamed = self._unnamed(now)
            return [] if unnamed is None else [unnamed]
        waits = self._wrapped(opened, now)
        if not self.is_near(waits):
            self._seen = _Seen()
            return waits
        seen = self._look_for_collective(now, tuple(opened))
        if seen.collective is None or not any(wait.is_overdue for wait in waits):
            return waits
        age_ns = now - seen.since_ns
        return [*waits, _waiting_in(seen.collective, age_ns, self._lead_ns)]

    def is_near(self, waits: list[Waiting]) -> bool:
        """Whether one of them is overdue, or soon will be."""
        return any(wait.age_ns >= wait.limit_ns - self._lead_ns for wait in waits)

    def _wrapped(self, opened: list[OpenWait], now: int) -> list[Waiting]:
        """Return them with limits that agree with each other.

        A wait may not last longer than the one around it; one without a limit of
        its own may last as long as what it surrounds.
        """
        default_ns = self._default_limit_ns()
        ends = [one.since_mono_ns + (one.limit_ns or default_ns) for one in opened]
        for place in reversed(range(len(opened) - 1)):
            if not opened[place].limit_ns:
                ends[place] = max(ends[place], ends[place + 1])
        waits = []
        for place, one in enumerate(opened):
            since_ns = one.since_mono_ns
            if place:
                # Many may follow one upon the other in it: each is given a while.
                last_ns = max(ends[place - 1], since_ns + self._lead_ns)
                ends[place] = min(ends[place], last_ns)
            age_ns, limit_ns = now - since_ns, ends[place] - since_ns
            waits.append(Waiting(one.name, one.index, age_ns, limit_ns))
        return waits

    def _unnamed(self, now: int) -> Waiting | None:
        """Return the collective that a main thread without progress may be in."""
        activity = self._activity
        # While this thread was frozen too nothing is known of the main one.
        was_frozen = now - self._looked_ns > self._lead_ns
        self._looked_ns = now
        if self._still[0] != activity.progress or was_frozen:
            self._still, self._seen = (activity.progress, now), _Seen()
            return None
        phase, default_ns = activity.phase, self._default_limit_ns()
        limit_ns = phase.limit_ns
        if limit_ns is None and phase.name == "training":
            limit_ns = default_ns
        age_ns = now - self._still[1] + self._lead_ns
        if age_ns < min(default_ns, limit_ns or default_ns):
            return None
        is_wait = limit_ns is not None and age_ns >= limit_ns
        if not is_wait and self._sampled == self._still:
            return None
        # Also where this rank may take longer: the others may wait for it by now.
        seen, self._sampled = self._look_for_collective(now, ()), self._still
        if seen.collective is None or limit_ns is None or not is_wait:
            return None
        age_ns -= self._lead_ns
        if seen.num_samples < _SURE_SAMPLES:
            age_ns = min(age_ns, limit_ns - 1)
        return _waiting_in(seen.collective, age_ns, limit_ns)

    def _look_for_collective(self, now: int, inside: tuple[OpenWait, ...]) -> _Seen:
        """Sample, the more rarely the longer the last sample has been the same.

        Once one of the waits around it is over, the main thread has gone on.
        """
        seen = self._seen
        if seen.inside != inside:
            seen = _Seen()
        num, age_ns = seen.num_samples, now - seen.since_ns
        if not num or now - self._sampled_ns >= age_ns // _SPACING:
            last, self._sampled_ns = self._sample(), now
            is_same = num > 0 and last == seen.collective
            since_ns = seen.since_ns if is_same else now
            seen = _Seen(last, since_ns, inside, num + 1 if is_same else 1)
            self._seen = seen
        return seen

    def _default_limit_ns(self) -> int:
        step_ns = self._activity.step_ns() or 0
        return max(self._limit_ns, _STEPS_OF_LIMIT * step_ns)


def _waiting_in(last: Collective, age_ns: int, limit_ns: int) -> Waiting:
    name = f"{last.name} {last.id} of group {last.group}"
    return Waiting(name, last.id, age_ns, limit_ns, last)
