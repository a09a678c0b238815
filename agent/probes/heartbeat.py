"""The beat: once a second, what the main thread does and since when."""

import time

from agent.emitter import Emitter
from agent.probes.activity import Activity
from agent.probes.barrier import BarrierProbe
from agent.rundir.events import Heartbeat, LastingWait

_MAX_WAITS = 16
"""Inside each other, in one beat: a line has to stay short."""


class HeartbeatProbe:
    """Writes one event per beat, ahead of all others."""

    def __init__(
        self, emitter: Emitter, activity: Activity, barriers: BarrierProbe
    ) -> None:
        """Make it for one process."""
        self._emitter = emitter
        self._activity = activity
        self._barriers = barriers

    def look(self) -> None:
        """Write one beat."""
        phase, opened = self._activity.phase, self._barriers.open[-_MAX_WAITS:]
        now = time.monotonic_ns()
        waits = tuple(
            LastingWait(one.name, one.index, now - one.since_mono_ns, one.limit_ns)
            for one in opened
        )
        innermost = waits[-1] if waits else None
        self._emitter.emit_first(
            Heartbeat,
            phase=phase.name,
            phase_age_ns=now - phase.since_ns,
            limit_ns=phase.limit_ns,
            progress=self._activity.progress,
            waiting_at=innermost.name if innermost else None,
            waiting_index=innermost.index if innermost else None,
            waiting_age_ns=innermost.age_ns if innermost else None,
            waits=waits,
            backlog=self._emitter.num_waiting,
        )
