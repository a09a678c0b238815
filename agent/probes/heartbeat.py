"""The beat: once a second, what the main thread does and since when."""

import time

from agent.emitter import Emitter
from agent.probes.activity import Activity
from agent.probes.barrier import BarrierProbe
from agent.rundir.events import Heartbeat


class HeartbeatProbe:
    """Writes one event per beat, ahead of all others; then sees to the files."""

    def __init__(
        self, emitter: Emitter, activity: Activity, barriers: BarrierProbe
    ) -> None:
        """Make it for one process."""
        self._emitter = emitter
        self._activity = activity
        self._barriers = barriers

    def look(self) -> None:
        """Write one beat."""
        phase, waiting = self._activity.phase, self._barriers.current
        now = time.monotonic_ns()
        self._emitter.emit_first(
            Heartbeat,
            phase=phase.name,
            phase_age_ns=now - phase.since_ns,
            limit_ns=phase.limit_ns,
            progress=self._activity.progress,
            waiting_at=waiting.name if waiting else None,
            waiting_index=waiting.index if waiting else None,
            waiting_age_ns=now - waiting.since_mono_ns if waiting else None,
            backlog=self._emitter.num_waiting,
        )
        self._emitter.tend()
