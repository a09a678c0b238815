"""How ranks wait for each other, and whom the agent names for it.

Clocks of two hosts are never compared raw: readers align them first.
"""

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
    """When this rank's host started the latest collectives."""

    group: str
    first_id: int
    """Sequence number of the first entry; the others follow without gaps."""
    started_ns: tuple[int, ...]
    """Wall clock of this host: align ranks before comparing."""


class StragglerNamed(Event, frozen=True, tag_field="kind", tag="straggler_named"):
    """The rank that costs the others most changed."""

    straggler: int | None
    """A rank; None when nobody stands out any more."""
    lost_frac: float
    """Share of the window's time that the other ranks waited."""
    is_persistent: bool
    since_step: int


class HangNamed(Event, frozen=True, tag_field="kind", tag="hang_named"):
    """A barrier passed its limit; who had not arrived."""

    barrier: str
    missing: tuple[int, ...]
    waited_ns: int
