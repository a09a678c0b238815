"""Leaving the dashboard while it reads, shows and works."""

import asyncio

from textual.events import Unmount

from agent.rundir.layout import RunDir
from opsdash.widgets.progress import JobState
from tests.run_states import STATES
from tests.watched import WatchedApp, until


async def test_nothing_is_shown_on_a_screen_that_is_taken_down(tmp_path):
    writer = STATES["live"](tmp_path / "run")
    app = WatchedApp(RunDir(writer.path))
    shows = []

    async def show():
        await app.watch.show_job("late", JobState("late"))
        app._show()

    def on_message(message):
        if isinstance(message, Unmount) and app.watch is not None:
            shows.append(asyncio.create_task(show()))
            app._show()

    async with app.run_test(message_hook=on_message) as pilot:
        await until(pilot, lambda: app.attached.folded.is_caught_up)
    await asyncio.gather(*shows)

    assert shows
