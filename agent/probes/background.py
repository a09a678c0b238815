"""What goes on beside training in one process, from attach to its end.

The thread with its duties, the signal that asks for stacks, the inbox of the
process that acts for the run. What of it cannot begin is counted and told;
what cannot end is left behind, because training has to.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable

from agent.emitter import Emitter
from agent.probes.activity import Activity
from agent.probes.barrier import BarrierProbe
from agent.probes.documents import Documents
from agent.probes.inbox import Inbox
from agent.probes.place import Place
from agent.probes.pulse import Pulse
from agent.probes.stacks import Stacks
from agent.probes.watch import Watched, add_duties
from agent.probes.wording import in_words
from agent.rundir.errors import RunDirError

_LEAVE_PATIENCE_S = 5.0
_SHORTEST_BEAT_S, _USUAL_BEAT_S, _LONGEST_BEAT_S = 0.001, 1.0, 3_600.0


class Background:
    """Begun once, and ended once."""

    def __init__(
        self, emitter: Emitter, place: Place, inbox: Inbox | None, *, heartbeat_s: float
    ) -> None:
        """Make it; nothing runs yet.

        Args:
            emitter: Of this process.
            place: Which process of which run it is.
            inbox: None: another one has it.
            heartbeat_s: Seconds between two beats.
        """
        self._emitter = emitter
        self._place = place
        self._inbox = inbox
        self._stacks = Stacks(emitter, place.run, place.attempt)
        self._pulse = Pulse(emitter, _period_s(heartbeat_s))

    def begin(
        self, activity: Activity, barriers: BarrierProbe, *, hang_limit_s: float
    ) -> None:
        """Tell who this process is, and start the thread that watches it."""
        emitter, place = self._emitter, self._place
        place.begin(emitter)
        preparations = [self._stacks.register]
        if self._inbox is not None:
            preparations.append(self._inbox.prepare)
        for prepare in preparations:
            try:
                prepare()
            except (OSError, RunDirError) as error:
                emitter.drop(str(error))
        documents = Documents(emitter, place.run, place.attempt)
        add_duties(
            self._pulse,
            Watched(
                emitter=emitter,
                run=place.run,
                attempt=place.attempt,
                world_size=place.world_size,
                activity=activity,
                barriers=barriers,
                stacks=self._stacks,
                inbox=self._inbox,
                documents=documents if place.is_main else None,
                hang_limit_s=hang_limit_s,
            ),
        )
        self._pulse.start()

    def end(self, last: Iterable[Callable[[], object]]) -> None:
        """Stop the thread, do what comes last, and leave the signal to others.

        Nothing that fails keeps the rest from being done. Of a disk that hangs the
        end is left to a thread: the run's lock is then that of a process that is gone.
        """
        acts = [*last, self._stacks.close]
        if self._pulse.stop():
            self._do(acts)
            return
        leaving = threading.Thread(target=self._do, args=(acts,), daemon=True)
        with contextlib.suppress(RuntimeError):  # the system gives no thread any more
            leaving.start()
            leaving.join(_LEAVE_PATIENCE_S)

    def _do(self, acts: Iterable[Callable[[], object]]) -> None:
        for act in acts:
            try:
                act()
            except Exception as error:  # noqa: BLE001 - e.g. a disk that is gone says so at a close
                self._emitter.drop(in_words(error))


def _period_s(heartbeat_s: float) -> float:
    """Return a rhythm that a thread can keep, whatever a trainer gave."""
    if not heartbeat_s > 0:
        return _USUAL_BEAT_S
    return min(max(heartbeat_s, _SHORTEST_BEAT_S), _LONGEST_BEAT_S)
