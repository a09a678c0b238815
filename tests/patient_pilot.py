"""A pilot that goes on when the app has nothing left to do, however long it takes.

Textual's own takes a process that uses no processor for one that is idle, so on
a loaded machine it goes on while keys, messages and layouts still wait. This
one asks what is left. How Textual keeps that is private to it: the pinned version
is what is known here.
"""

import asyncio
import time

from textual.app import App
from textual.message_pump import MessagePump
from textual.pilot import Pilot
from textual.screen import Screen

DEADLINE_S = 120
_QUIET_TURNS = 3
"""Turns of the loop: a timer's callback goes on in the one after a mount."""


class PatientPilot(Pilot[object]):
    """Every key has had its effect, on the screen too, before the next one."""

    async def press(self, *keys: str) -> None:
        """Press keys, each when the one before has been answered."""
        for key in keys:
            await self.app._press_keys([key])
            await settled(self.app)

    async def pause(self, delay: float | None = None) -> None:
        """Wait until the app rests; `delay` seconds before, if given."""
        await asyncio.sleep(delay or 0)
        await settled(self.app)


async def settled(app: App[object]) -> None:
    """Return when nothing waits to be handled or drawn; fail if it never ends."""
    deadline_s = time.monotonic() + DEADLINE_S
    num_quiet = 0
    while num_quiet < _QUIET_TURNS and _can_go_on(app):
        await asyncio.sleep(0)
        if _can_go_on(app):
            num_quiet = num_quiet + 1 if _is_quiet(app) else 0
            app.screen._on_timer_update()
        assert time.monotonic() < deadline_s, f"no rest in {DEADLINE_S} s"


def _can_go_on(app: App[object]) -> bool:
    return app.is_running and app._exception is None and bool(app._screen_stack)


def _is_quiet(app: App[object]) -> bool:
    pumps: list[MessagePump] = [app, *app._registry]
    return _is_drawn(app.screen) and all(_is_waiting(pump) for pump in pumps)


def _is_drawn(screen: Screen[object]) -> bool:
    return not (
        screen._layout_required
        or screen._scroll_required
        or screen._repaint_required
        or screen._recompose_required
        or screen._dirty_widgets
        or screen._callbacks
    )


def _is_waiting(pump: MessagePump) -> bool:
    """Whether it waits for a message; one that handles something does not."""
    waiters = pump._message_queue.ready_event._waiters  # type: ignore[attr-defined]
    return not pump._next_callbacks and any(not one.done() for one in waiters)
