"""Keys that are named lead somewhere; one that is not and is pressed tells why."""

import pytest
from textual.widgets import Input

from agent.rundir.events import (
    CheckpointPruned,
    CheckpointPublished,
    PhaseChanged,
    RunEnded,
)
from opsdash.screens.ask_text import AskScreen
from opsdash.screens.checkpoints import CheckpointsPane
from opsdash.screens.events import EventsPane
from opsdash.screens.panes import EVENTS
from opsdash.widgets.plan import PlanDialog
from opsdash.widgets.progress import JobLine
from opsdash.widgets.record_table import RecordTable
from opsdash.widgets.table import VirtualTable
from tests.run_states import STATES
from tests.screen_text import screen_text
from tests.watched import (
    open_store,
    opened,
    plan_title,
    refreshed,
    still_clocks,
    until,
    watching,
)

ROUNDS = 5


def keys_line(app):
    return screen_text(app).splitlines()[-1]


@pytest.mark.parametrize(
    ("state", "key", "offered", "unoffered"),
    [
        ("live", "1", {"s Save", "space Pause run", "enter Open", "/ Filter"}, set()),
        ("dead", "1", {"r Resume", "/ Filter"}, {"Save", "Pause"}),
        ("federated", "1", {"space Pause run"}, {"Save", "Resume"}),
        ("federated", "2", {"v Verify"}, {"Filter"}),
        ("federated", "5", {"enter Open", "/ Filter"}, set()),
        ("live", "4", {"s Save"}, {"Filter"}),
        ("live", "5", {"s Save"}, {"Filter", "Open"}),
        ("live", "6", {"s Save"}, {"Filter", "Open"}),
        ("live", "7", {"/ Filter"}, {"Open"}),
        ("live", "2", {"+ Zoom in"}, {"Take stacks"}),
        ("live", "3", {"P Pin", "= Compare", "enter Open"}, set()),
        ("dead", "3", {"P Pin", "v Verify"}, {"Compare"}),
        ("empty", "3", {"s Save"}, {"Verify", "Resume", "Pin", "Compare", "Open"}),
        ("federated", "5", {"F Repair"}, {"Restore", "Compare", "Up"}),
    ],
)
async def test_the_line_of_keys_names_what_leads_to_something(
    on, state, key, offered, unoffered
):
    async with on(state) as (app, pilot):
        await pilot.press(key)
        await refreshed(app, pilot)
        line = keys_line(app)

        assert all(words in line for words in offered), line
        assert not any(words in line for words in unoffered), line


async def test_a_key_that_is_not_named_tells_why_it_does_nothing(on):
    async with on("dead") as (app, pilot):
        await pilot.press("s")
        await opened(app, pilot, PlanDialog)
        why = app.screen.plan.why_not
        await pilot.press("escape", "6", "slash")
        await pilot.pause()

        assert "nothing runs here" in why
        assert app.notes[-1].startswith("nothing to filter here")


async def test_keys_go_from_the_line_when_the_run_ends(tmp_path):
    writer = STATES["live"](tmp_path / "run")
    async with watching(writer.path, clocks=still_clocks(writer)) as (app, pilot):
        before = keys_line(app)
        writer.emit(0, RunEnded, reason="completed")

        await until(pilot, lambda: "finished" in screen_text(app))

        assert "s Save" in before
        assert "s Save" not in keys_line(app)


async def test_the_key_that_pauses_lets_a_paused_run_go_on(tmp_path):
    writer = STATES["live"](tmp_path / "run")
    async with watching(writer.path, clocks=still_clocks(writer)) as (app, pilot):
        before = keys_line(app)
        for rank in range(writer.world_size):
            writer.emit(rank, PhaseChanged, phase="paused", previous="training")

        await until(pilot, lambda: "paused at step" in screen_text(app))
        await refreshed(app, pilot)

        assert "space Pause run" in before
        assert "space Go on" in keys_line(app)
        assert "Pause" not in keys_line(app)


async def test_keys_of_a_round_are_named_where_one_is_under_the_cursor(on):
    async with on("federated") as (app, pilot):
        await open_store(app, pilot)
        await refreshed(app, pilot)

        line = keys_line(app)
        assert "R Restore" in line
        assert "= Compare" in line
        assert "backspace Up" in line


async def test_what_retention_removed_is_neither_read_nor_pinned(tmp_path):
    writer = STATES["live"](tmp_path / "run")
    name = "step-00000005"
    writer.emit(0, CheckpointPublished, checkpoint=name, digest="d", size_bytes=1)
    writer.emit(0, CheckpointPruned, checkpoint=name, freed_bytes=1)
    async with watching(writer.path, clocks=still_clocks(writer)) as (app, pilot):
        await pilot.press("3")
        await refreshed(app, pilot)
        before = keys_line(app)
        await pilot.press("G")
        await refreshed(app, pilot)
        told = []
        for key in ("v", "d", "r", "P"):
            await pilot.press(key)
            await until(pilot, lambda: len(app.notes) > len(told), "a word")
            told.append(app.notes[-1])

        assert "v Verify" in before
        assert not {"Verify", "Resume", "Pin"} & set(keys_line(app).split())
        assert told == [f"{name} is pruned: retention removed it"] * 4
        assert not app.watch.query(JobLine)


async def test_enter_leads_from_a_row_to_what_happened(on):
    async with on("live") as (app, pilot):
        await pilot.press("3", "enter")
        await until(pilot, lambda: isinstance(app.watch.pane, EventsPane))
        step = app.watch.pane._wanted.step
    async with on("federated") as (app, pilot):
        pane = await app.watch.show_pane(ROUNDS)
        await refreshed(app, pilot)
        app.set_focus(pane.query_one("#rounds", RecordTable).table)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.watch.pane, EventsPane))
        round_num = app.watch.pane._wanted.round_num
        await app.watch.show_pane(ROUNDS)
        app.set_focus(pane.query_one("#clients", RecordTable).table)
        await pilot.press("enter")
        await until(pilot, lambda: app.watch.pane._wanted.node is not None)

        assert step == 100
        assert round_num == 8
        assert app.watch.pane._wanted.node == "client-1"


async def test_sorted_events_are_followed_no_more_until_they_are_as_told(on):
    async with on("live") as (app, pilot):
        pane = await app.watch.show_pane(EVENTS)
        table = pane.query_one(VirtualTable)
        following = [table.following]
        await pilot.press("O")
        await until(pilot, lambda: pane._rows.key(0) == pane._rows.log.stop - 1)
        await refreshed(app, pilot)
        following.append(table.following)
        header = screen_text(app).splitlines()
        await pilot.press("O")
        following.append(table.following)

        assert following == [True, False, True]
        assert any(line.startswith(" time\u25bc") for line in header)
        assert pane._rows.key(0) == pane._rows.log.first


async def test_the_home_of_somebody_unknown_is_told_and_nothing_more(on):
    async with on("federated") as (app, pilot):
        await app.watch.show_pane(EVENTS)
        await pilot.press("E")
        await opened(app, pilot, AskScreen)
        app.screen.query_one(Input).value = "~nobody-of-this-name/events.csv"
        await pilot.press("enter")
        await until(pilot, lambda: len(app.watch.query(JobLine)) == 1, "a line")
        line = app.watch.query_one(JobLine)
        await until(pilot, lambda: line.state.outcome == "failed", "a word")
        told = line.state.detail
        await open_store(app, pilot)
        await pilot.press("R")
        await opened(app, pilot, AskScreen)
        app.screen.query(Input)[0].value = "~nobody-of-this-name/round.pt"
        await pilot.press("enter")
        await opened(app, pilot, PlanDialog)

        assert "`~nobody-of-this-name/events.csv` cannot be written" in told
        assert "~nobody-of-this-name/round.pt" in plan_title(app)


async def test_enter_leads_nowhere_from_a_name_that_tells_no_step(tmp_path):
    writer = STATES["live"](tmp_path / "run")
    (writer.run.checkpoints / ".quarantine-odd").mkdir()
    async with watching(writer.path, clocks=still_clocks(writer)) as (app, pilot):
        await pilot.press("3")
        await refreshed(app, pilot)
        await pilot.press("G", "enter")
        await pilot.pause()

        assert app.watch.pane._here().number == -1
        assert isinstance(app.watch.pane, CheckpointsPane)
