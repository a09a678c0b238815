"""The agent's own thread: a beat every second, and small duties beside it.

A stuck main thread is seen to be stuck because this one goes on. Each duty is
called so many ticks apart and has to return soon; one that fails is told once
and called again, because nothing here may end training.
"""

import threading
from collections.abc import Callable
from typing import NamedTuple

from agent.emitter import Emitter

TICKS_PER_BEAT = 4


class Duty(NamedTuple):
    """Something to do every so many ticks."""

    name: str
    look: Callable[[], None]
    every: int = TICKS_PER_BEAT
    """In ticks; a beat has four."""
    first: int = 0
    """The tick, from 0, that it is called at first."""
    at_end: Callable[[], None] | None = None
    """Called when the thread ends."""


class Pulse:
    """The thread, its rhythm and its duties."""

    def __init__(self, emitter: Emitter, period_s: float) -> None:
        """Make it; `start` sets it going.

        Args:
            emitter: Told of duties that fail.
            period_s: From one beat to the next.
        """
        self.period_s = period_s
        self._emitter = emitter
        self._duties: list[Duty] = []
        self._told: dict[str, str] = {}
        """By duty: how it failed when that was told last."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, duty: Duty) -> None:
        """Take on a duty; those that are added first are called first."""
        self._duties = [*self._duties, duty]

    def start(self) -> None:
        """Begin to beat; where the system gives no thread, that is told."""
        thread = threading.Thread(target=self._run, name="opsdash-agent", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._emitter.drop(f"no beats: {error}")
            return
        self._thread = thread

    def stop(self, *, timeout_s: float = 5.0) -> bool:
        """End the thread; False: it hangs in a file system and is left behind."""
        self._stopping.set()
        thread, self._thread = self._thread, None
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def _run(self) -> None:
        tick = 0
        while True:
            for duty in self._duties:
                if tick >= duty.first and (tick - duty.first) % duty.every == 0:
                    self._do(duty.name, duty.look)
            if self._stopping.wait(self.period_s / TICKS_PER_BEAT):
                break
            tick += 1
        for duty in self._duties:
            if duty.at_end is not None:
                self._do(duty.name, duty.at_end)

    def _do(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
            self._told.pop(name, None)
        except Exception as error:  # noqa: BLE001 - a duty must never end training
            reason = f"{name}: {type(error).__name__}: {error}"
            if self._told.get(name) != reason:
                self._told[name] = reason
                self._emitter.drop(reason)
