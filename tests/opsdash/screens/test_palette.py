"""The palette holds every pane, every key that works and every checkpoint."""

import pytest

from opsdash.screens.events import EventsPane
from opsdash.screens.panes import PANES
from tests.run_states import STATES
from tests.screen_text import screen_text
from tests.watched import WatchedApp, refreshed, still_clocks, until, watching


@pytest.fixture
def live(tmp_path):
    return STATES["live"](tmp_path / "live")


def offered(app):
    return {c.title: c.help for c in app.get_system_commands(app.screen)}


async def test_panes_actions_and_checkpoints_are_offered_with_their_keys(live):
    async with watching(live.path, clocks=still_clocks(live)) as (app, pilot):
        await pilot.press("3")
        await refreshed(app, pilot)
        found = offered(app)

        for index, pane in enumerate(PANES, start=1):
            assert found[f"show {pane.title}"] == f"key {index}"
        assert found["checkpoints: compare"] == "key ="
        assert found["filter"] == "key /"
        assert found["stop the run"] == "key S"
        names = [row.directory for row in app.attached.folded.checkpoints.rows()]
        assert names
        for name in names:
            assert f"verify {name}" in found
            assert f"resume from {name}" in found
        assert "Screenshot" not in found


async def test_what_another_pane_does_is_done_there(live):
    async with watching(live.path, clocks=still_clocks(live)) as (app, pilot):
        commands = {c.title: c for c in app.get_system_commands(app.screen)}

        commands["events: worse only"].callback()
        await until(pilot, lambda: isinstance(app.watch.pane, EventsPane))
        await until(pilot, lambda: "info and worse" in screen_text(app))

        assert commands["checkpoints: verify all"].help == "keys 3 V"
        assert "show events" in commands
        titles = [c.title for c in app.get_system_commands(app.screen)]
        assert len(titles) == len(set(titles))


async def test_who_only_reads_is_offered_nothing_that_acts(live):
    clocks = still_clocks(live)
    async with watching(live.path, clocks=clocks, is_readonly=True) as (app, pilot):
        await pilot.press("3")
        await refreshed(app, pilot)
        found = " ".join(offered(app))

        assert "verify step-" in found
        for word in ("resume", "stop the run", "save", "pin", "profile", "restore"):
            assert word not in found


async def test_a_directory_of_runs_offers_what_can_be_done_there(live):
    app = WatchedApp(None, runs=live.path.parent)

    async with app.run_test() as pilot:
        await pilot.pause()
        found = offered(app)

        assert found["filter"] == "key /"
        assert found["quit"] == "key q"
        assert "save" not in found
        assert "attach another run" not in found
