"""How ranks wait for each other, and whom the agent names for it.

Clocks of two hosts are never compared raw: readers align them first.
"""

import msgspec

from agent.rundir.vocabulary.event import Event


class BarrierArrived(Event, frozen=True, tag_field="kind", tag="barrier_arrived"):
    """A rank is about to wait. Written before, so that a hang is visible."""

    name: str
    index: int
    limit_ns: int | None = None
    """How long the wait may last before the barrier counts as hung."""


class BarrierReleased(Event, frozen=True, tag_field="kind", tag="barrier_released"):
    """A rank that had arrived goes on."""

    name: str
    index: int
    wait_ns: int
    error: str | None = None
    """Why it was released without everybody, e.g. a time-out."""


class CollectivesSampled(
    Event, frozen=True, tag_field="kind", tag="collectives_sampled"
):
    """When this rank's host started the latest collectives, or why nobody can tell."""

    group: str
    """Empty where they cannot be sampled."""
    first_id: int
    """Sequence number of the first entry; the others follow without gaps."""
    started_ns: tuple[int, ...]
    """Wall clock of this host: align ranks before comparing."""
    unavailable: str | None = None
    """Why there are no samples from this process, and will be none."""
    is_still: bool = False
    """The main thread stood still, so these are the latest it has started."""


class StragglerNamed(Event, frozen=True, tag_field="kind", tag="straggler_named"):
    """The rank that costs the others most changed."""

    straggler: int | None
    """A rank; None when nobody stands out any more."""
    lost_frac: float
    """Share of the window's time that the other ranks waited."""
    is_persistent: bool
    since_step: int
    is_rotating: bool = False
    """Much is lost, but to ever another rank."""
    run_frac: float | None = None
    """Share of the attempt so far that was lost: to that rank, or to all of them."""
    lost_rank_ns: int | None = None
    """Rank-seconds, in ns, that the others waited in the attempt so far."""


class LastSeen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a missing rank had told when it was missed."""

    rank: int
    phase: str | None = None
    """None: it has told nothing."""
    step: int | None = None
    waiting_at: str | None = None
    """Another barrier, where its last beat saw it wait."""
    stacks: str | None = None
    """Path in the run directory where its stacks stand, once they were taken."""


class HangNamed(Event, frozen=True, tag_field="kind", tag="hang_named"):
    """A barrier passed its limit and who had not arrived, or that the wait is over."""

    barrier: str
    """Name of the barrier; of a collective that nobody wrapped, what torch calls it."""
    missing: tuple[int, ...]
    """Empty: nobody is missing any more."""
    waited_ns: int
    index: int | None = None
    """How often the waiting ranks had come there before; a collective's number."""
    group: str | None = None
    """Process group of a collective; None: it is a barrier with a name."""
    limit_ns: int | None = None
    last_seen: tuple[LastSeen, ...] = ()
    """Of those who are missing."""
