"""What every event carries: two clocks, a number, who wrote it and when in training.

A wall clock is for display; intervals are told by the monotonic one.
"""

import msgspec


# Plain values all the way down form no cycles: the collector need not visit
# hundreds of thousands of them while a log is read.
class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What every event carries."""

    time_ns: int
    """Wall clock at emission, Unix ns. For display; never for intervals."""
    mono_ns: int
    """Monotonic clock of the writer's host, ns. Comparable within a host only."""
    node: str
    """Who wrote it: `rank-3`, `server`, or a client's key."""
    seq: int = 0
    """Counts the events of one file from 0; a gap is a dropped event."""
    rank: int | None = None
    step: int | None = None
    """Optimizer steps completed by this node, across attempts."""
    round_num: int | None = None
