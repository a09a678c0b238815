"""A filter that lets nothing through says so, is named, and has a way out."""

from opsdash.screens.chunk_browser import Level
from opsdash.screens.picker import PickerScreen
from opsdash.widgets.record_table import RecordTable
from tests.run_states import STATES
from tests.screen_text import screen_text
from tests.watched import WatchedApp, open_store, opened, until

_WAY_OUT = "escape clears the filter"


def words(app):
    return " ".join(screen_text(app).split())


async def test_events_of_which_none_matches_are_not_said_to_be_none(on):
    async with on("live") as (app, pilot):
        pane = await app.watch.show_pane(6)
        await pilot.press("n", "w", "w", "slash", *"zulu", "enter")
        await until(pilot, lambda: "looking through" not in screen_text(app))
        filtered = words(app)
        await pilot.press("escape")
        await pilot.pause()

        said = "nothing matches `zulu`, warning and worse, rank-00003"
        assert f"{said}: {_WAY_OUT}" in filtered
        assert "no event" not in filtered
        assert "nothing matches" not in screen_text(app)
        assert len(pane._rows) == len(pane._rows.log)


async def test_events_that_are_still_looked_through_are_not_denied(on, monkeypatch):
    monkeypatch.setattr("opsdash.screens.event_rows._LOOK_S", 0.0)
    monkeypatch.setattr("opsdash.screens.event_rows._SLICE", 1)
    async with on("live") as (app, _):
        pane = await app.watch.show_pane(6)
        pane._restrict("zulu", pane._wanted)

        assert "looking through" in pane.query_one("VirtualTable").empty


async def test_chunks_of_which_none_matches_name_the_filter_and_escape_clears_it(on):
    async with on("federated") as (app, pilot):
        pane = await open_store(app, pilot)
        await pilot.press("enter")
        await until(pilot, lambda: pane.browser.level is Level.CHUNKS)
        await pilot.press("slash", *"zulu", "enter")
        await until(pilot, lambda: _WAY_OUT in screen_text(app), "the way out")
        filtered = words(app)
        await pilot.press("escape")
        await until(pilot, lambda: _WAY_OUT not in screen_text(app), "every chunk")
        level = pane.browser.level
        await pilot.press("escape")

        assert f"nothing matches `zulu`: {_WAY_OUT}" in filtered
        assert level is Level.CHUNKS
        assert pane.browser.level is Level.ROUNDS


async def test_a_filter_of_stores_is_cleared_before_escape_goes_up(on):
    async with on("federated") as (app, pilot):
        pane = await open_store(app, pilot)
        await pilot.press("slash", *"zulu", "enter")
        await until(pilot, lambda: _WAY_OUT in screen_text(app), "the way out")
        await pilot.press("escape")
        await until(pilot, lambda: _WAY_OUT not in screen_text(app), "every round")
        level = pane.browser.level
        await pilot.press("escape")

        assert level is Level.ROUNDS
        assert pane.browser.level is Level.STORES


async def test_a_filter_of_runs_is_cleared_before_escape_leaves(tmp_path):
    STATES["live"](tmp_path / "runs" / "live")
    app = WatchedApp(None, runs=tmp_path / "runs")
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, PickerScreen)
        await until(pilot, lambda: "1 run below" in screen_text(app), "the run")
        table = app.screen.query_one(RecordTable)
        await pilot.press("slash", *"zulu", "enter")
        await until(pilot, lambda: _WAY_OUT in screen_text(app), "the way out")
        await pilot.press("escape")
        await until(pilot, lambda: len(table.table.model) == 1, "the run again")

        assert isinstance(app.screen, PickerScreen)
