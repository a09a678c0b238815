"""Say who waits where, before the waiting begins.

The probe calls no collective and knows no process group: it wraps whatever the
trainer waits with. `barrier` writes *arrived* first, so that a hang is on disk
while it lasts; `wait` is for waits that come with every step and travel in the
step's own line, visible in heartbeats meanwhile.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.emitter import Emitter
from agent.rundir.events import BarrierArrived, BarrierReleased, Wait

_MAX_PENDING_WAITS = 64
_MAX_NAMES = 4_096
"""Some loops name a barrier by its step: of those passed longest ago none is kept."""


@dataclass(frozen=True)
class OpenWait:
    """Where the main thread waits now."""

    name: str
    index: int
    since_mono_ns: int
    limit_ns: int | None


@dataclass
class BarrierProbe:
    """The waits of one process."""

    emitter: Emitter
    current: OpenWait | None = None
    """Read by the heartbeat's thread; replaced whole, never changed."""
    _pending: list[Wait] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def barrier(self, name: str, *, limit_ns: int | None = None) -> Iterator[None]:
        """Wrap a wait that may block: arrived before, released after."""
        opened = self._open(name, limit_ns)
        self.emitter.emit(
            BarrierArrived, name=name, index=opened.index, limit_ns=limit_ns
        )
        error: str | None = None
        try:
            yield
        except BaseException as raised:
            error = f"{type(raised).__name__}: {raised}"
            raise
        finally:
            self.current = None
            self.emitter.emit(
                BarrierReleased,
                name=name,
                index=opened.index,
                wait_ns=time.monotonic_ns() - opened.since_mono_ns,
                error=error,
            )

    @contextmanager
    def wait(self, name: str, *, limit_ns: int | None = None) -> Iterator[None]:
        """Wrap a wait that every step has; reported with the next step."""
        opened = self._open(name, limit_ns)
        try:
            yield
        finally:
            self.current = None
            if len(self._pending) < _MAX_PENDING_WAITS:
                waited = time.monotonic_ns() - opened.since_mono_ns
                self._pending.append(
                    Wait(name, opened.index, opened.since_mono_ns, waited)
                )

    def take_pending(self) -> tuple[Wait, ...]:
        """Return the waits since the last call, and forget them."""
        pending, self._pending = tuple(self._pending), []
        return pending

    def _open(self, name: str, limit_ns: int | None) -> OpenWait:
        counts = self._counts
        index = counts.pop(name, 0)
        counts[name] = index + 1
        if len(counts) > _MAX_NAMES:
            del counts[next(iter(counts))]
        self.current = OpenWait(name, index, time.monotonic_ns(), limit_ns)
        return self.current
