"""Say who waits where, before the waiting begins.

The probe calls no collective and knows no process group: it wraps whatever the
trainer waits with. `barrier` writes *arrived* first, so that a hang is on disk
while it lasts; `wait` is for waits that come with every step and travel in the
step's own line, visible in heartbeats meanwhile. One wait may stand inside
another: beats tell all of them.
"""

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from agent.emitter import Emitter
from agent.probes.wording import as_name, in_words
from agent.rundir.events import BarrierArrived, BarrierReleased, Wait

_MAX_PENDING_WAITS = 64
_MAX_NAMES = 4_096
"""Some loops name a barrier by its step: of those passed longest ago none is kept."""


@dataclass(frozen=True, eq=False)
class OpenWait:
    """Where a thread waits now; no two are the same."""

    name: str
    index: int
    since_mono_ns: int
    limit_ns: int | None


@dataclass
class BarrierProbe:
    """The waits of one process."""

    emitter: Emitter
    _open: list[OpenWait] = field(default_factory=list)
    """Those that began last at the end. Changed by single operations, because
    the agent's thread reads it."""
    _pending: list[Wait] = field(default_factory=list)
    _counts: dict[str, int] = field(default_factory=dict)

    @property
    def open(self) -> list[OpenWait]:
        """Where this process waits, each wait inside those before it."""
        return self._open[:]

    @contextmanager
    def barrier(self, name: str, *, limit_ns: int | None = None) -> Iterator[None]:
        """Wrap a wait that may block: arrived before, released after."""
        opened = self._numbered(name, limit_ns)
        error: str | None = None
        try:
            self._open.append(opened)
            self.emitter.emit(
                BarrierArrived,
                name=opened.name,
                index=opened.index,
                limit_ns=limit_ns,
            )
            yield
        except BaseException as raised:
            error = in_words(raised)
            raise
        finally:
            self._close(opened)
            self.emitter.emit(
                BarrierReleased,
                name=opened.name,
                index=opened.index,
                wait_ns=time.monotonic_ns() - opened.since_mono_ns,
                error=error,
            )

    @contextmanager
    def wait(self, name: str, *, limit_ns: int | None = None) -> Iterator[None]:
        """Wrap a wait that every step has; reported with the next step."""
        opened = self._numbered(name, limit_ns)
        try:
            self._open.append(opened)
            yield
        finally:
            self._close(opened)
            if len(self._pending) < _MAX_PENDING_WAITS:
                waited = time.monotonic_ns() - opened.since_mono_ns
                self._pending.append(
                    Wait(opened.name, opened.index, opened.since_mono_ns, waited)
                )

    def take_pending(self) -> tuple[Wait, ...]:
        """Return the waits since the last call, and forget them."""
        pending, self._pending = tuple(self._pending), []
        return pending

    def _numbered(self, name: str, limit_ns: int | None) -> OpenWait:
        counts, name = self._counts, as_name(name)
        index = counts.pop(name, 0)
        counts[name] = index + 1
        if len(counts) > _MAX_NAMES:
            # Another thread may be just as far.
            with contextlib.suppress(KeyError, RuntimeError):
                del counts[next(iter(counts))]
        return OpenWait(name, index, time.monotonic_ns(), limit_ns)

    def _close(self, opened: OpenWait) -> None:
        # An interrupt may have come before it was noted.
        if opened in self._open:
            self._open.remove(opened)
