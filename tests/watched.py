"""The dashboard over a run made by hand, on clocks that stand still.

Everything on the screen comes from the files of the run: no host name, no
process id and no time of this machine, so that a screen is the same wherever
it is drawn.
"""

import os
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

from agent.rundir.layout import RunDir
from opsdash.app import OpsdashApp
from opsdash.glyphs import ASCII, UNICODE
from opsdash.screens.chunk_browser import Level
from opsdash.screens.panes import CHUNKS
from opsdash.screens.stacks import StacksScreen
from opsdash.screens.watch import WatchScreen
from opsdash.theme import Appearance
from opsdash.widgets.plan import PlanDialog
from tests.patient_pilot import DEADLINE_S
from tests.runs import SECOND, HandClocks, RunWriter
from tests.screen_text import screen_text

_LOOK_S = 0.02
"""Between two looks at what a thread or a process does."""


class WatchedApp(OpsdashApp):
    """The dashboard as tests drive it."""

    def __init__(self, run, *, ascii_only=False, clocks=None, **options):
        glyphs = ASCII if ascii_only else UNICODE
        look = Appearance("dark", glyphs, ansi_color=None)
        if clocks is not None:
            options["clocks"] = clocks
        super().__init__(run, look, **options)
        self.notes = []
        """What it told the operator, newest last."""

    @property
    def watch(self) -> WatchScreen:
        """The screen that shows the run, also below a dialog."""
        return self._watch

    @property
    def attached(self):
        return self._attached

    def notify(self, message, **options):
        self.notes.append(message)
        super().notify(message, **options)


def still_clocks(writer: RunWriter, seconds: float = 1.0) -> HandClocks:
    """Clocks so many seconds after the newest line; files look written then."""
    clocks = HandClocks()
    clocks.time_ns = writer.time_ns + int(seconds * SECOND)
    for path in writer.path.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(writer.time_ns, writer.time_ns))
    return clocks


@asynccontextmanager
async def watching(run: Path | RunDir, *, size=(120, 36), toasts=False, **options):
    """Yield (app, pilot) once everything that is on disk was read and shown."""
    run = run if isinstance(run, RunDir) else RunDir(run)
    app = WatchedApp(run, **options)
    async with app.run_test(size=size, notifications=toasts) as pilot:
        await until(pilot, lambda: app.attached.folded.is_caught_up)
        app._show()
        await pilot.pause()
        yield app, pilot


async def until(pilot, is_so: Callable[[], bool], what: str = "it") -> None:
    """Wait until something is so, letting the app go on; fail if it never is."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline_s, f"no {what} in {DEADLINE_S} s"
        await pilot.pause(_LOOK_S)


async def refreshed(app, pilot) -> None:
    """Show the run anew and let every widget draw."""
    app._show()
    await pilot.pause()


def plan_title(app) -> str:
    """What the plan on the screen is about."""
    assert isinstance(app.screen, PlanDialog), app.screen
    return app.screen.plan.title


async def opened(app, pilot, kind) -> None:
    """Wait for a screen of a kind, and until it is drawn."""
    await until(pilot, lambda: isinstance(app.screen, kind), kind.__name__)
    await pilot.pause()


async def stacks_read(app, pilot) -> None:
    """Wait until a process's stacks are shown, or why there are none."""
    await opened(app, pilot, StacksScreen)
    told = ("wrote no stacks", 'File "')
    await until(
        pilot, lambda: any(words in screen_text(app) for words in told), "stacks"
    )


async def stores_read(app, pilot) -> None:
    """Wait until the pane of chunks shows what every store holds now."""
    pane = app.watch.pane
    on_disk = app.attached.folded.directory.stores

    def all_shown():
        view = app.attached.view()
        stores = {store.node: store for store in pane.browser.stores(view)}
        return all(stores[node].now or stores[node].why_unread for node in on_disk)

    await until(pilot, all_shown, "stores")
    await pilot.pause()


async def open_store(app, pilot):
    """Go to the chunks and down into the first store; return the pane."""
    pane = await app.watch.show_pane(CHUNKS)
    await pilot.press("enter")
    await until(pilot, lambda: pane.browser.level is Level.ROUNDS)
    return pane
