"""Every pane in every state of a run, at both sizes, as a text to be read."""

import pytest

from agent.rundir.events import RequestDone, RequestSeen, RoundStarted, StacksWritten
from agent.rundir.layout import RunDir
from agent.rundir.stacks import stacks_file
from opsdash.screens.panes import CHUNKS, EVENTS, PANES
from opsdash.widgets.record_table import RecordTable
from tests.run_states import STATES
from tests.screen_text import assert_screen, screen_text
from tests.watched import (
    WatchedApp,
    refreshed,
    stacks_read,
    still_clocks,
    stores_read,
    until,
    watching,
)

SIZES = [(120, 36), (80, 24)]


@pytest.fixture(autouse=True)
def _little_room(monkeypatch):
    """The room on this machine's disk is no part of a screen."""
    monkeypatch.setattr("opsdash.feed.directory._free_bytes", lambda path: 3 << 30)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("state", STATES)
async def test_a_run_is_shown_by_every_pane(tmp_path, monkeypatch, state, size):
    writer = STATES[state](tmp_path / "runs" / state)
    clocks = still_clocks(writer, 40.0 if state == "dead" else 1.0)
    monkeypatch.chdir(tmp_path)

    async with watching(
        writer.path.relative_to(tmp_path), size=size, clocks=clocks
    ) as (
        app,
        pilot,
    ):
        for index, pane in enumerate(PANES):
            await pilot.press(str(index + 1))
            await refreshed(app, pilot)
            if index == CHUNKS:
                await stores_read(app, pilot)

            name = f"panes/{state}-{size[0]}x{size[1]}-{index + 1}-{pane.title}"
            assert_screen(app, name)


async def test_events_have_words_also_when_they_were_looked_at_before_any_was_read(
    tmp_path,
):
    writer = STATES["live"](tmp_path / "run")
    app = WatchedApp(RunDir(writer.path))

    async with app.run_test(size=(120, 36)) as pilot:
        await app.watch.show_pane(EVENTS)
        await until(pilot, lambda: app.attached.folded.is_caught_up)
        await refreshed(app, pilot)

        assert "resident" in screen_text(app)


async def test_the_newest_round_stays_in_sight_until_the_operator_moves_away(tmp_path):
    writer = STATES["federated"](tmp_path / "run")

    def open_round(number):
        fields = {"clients": ("client-1",), "model_digest": "m", "round_num": number}
        writer.emit("server", RoundStarted, **fields)

    async with watching(writer.path) as (app, pilot):
        await pilot.press("6")
        await refreshed(app, pilot)
        rounds = app.watch.pane.query_one("#rounds", RecordTable)
        open_round(9)
        await until(pilot, lambda: app.attached.folded.rounds.current == 9)
        await refreshed(app, pilot)
        following = rounds.cursor_key
        app.set_focus(rounds.table)
        await pilot.press("down")
        open_round(10)
        await until(pilot, lambda: app.attached.folded.rounds.current == 10)
        await refreshed(app, pilot)

        assert following == 9
        assert rounds.cursor_key == 8


async def test_rounds_and_clients_that_have_no_row_are_said_to_be_left_out(
    on, monkeypatch
):
    for name, most in (("_MAX_ROUNDS", 5), ("_MAX_DETAILED", 2), ("MAX_NODES", 2)):
        monkeypatch.setattr(f"opsdash.projections.rounds.{name}", most)

    async with on("federated") as (app, pilot):
        await pilot.press("6")
        await refreshed(app, pilot)
        shown = screen_text(app)

    assert "left out  the oldest 3 rounds, clients after the first " in shown
    assert shown.count("complete; who did what is not kept") > 0


async def test_a_process_that_could_not_write_its_stacks_says_why(tmp_path):
    writer = STATES["live"](tmp_path / "run")
    reason = "none of rank 1: the process is stopped: state T"
    file = "stacks/0002/rank-00001.txt"
    writer.emit(0, StacksWritten, file=file, reason=reason)

    async with watching(writer.path, clocks=still_clocks(writer)) as (app, pilot):
        await pilot.press("enter")
        await stacks_read(app, pilot)
        unasked = screen_text(app)
        await pilot.press("escape", "down", "enter")
        await stacks_read(app, pilot)

        assert "rank-00000 wrote no stacks" in unasked
        assert "when this is closed, K asks for them" in unasked
        assert "Copy" not in unasked
        assert "rank-00001 wrote no stacks" in screen_text(app)
        assert reason in screen_text(app)


@pytest.mark.parametrize(
    ("state", "is_readonly", "said"),
    [
        ("dead", False, "its run has ended: nobody can be asked for any"),
        ("dead", True, "is kept in `stacks/`"),
        ("live", True, "this command asks for them:"),
    ],
)
async def test_stacks_that_nobody_can_be_asked_for_are_not_promised(
    on, state, is_readonly, said
):
    async with on(state, is_readonly=is_readonly) as (app, pilot):
        await pilot.press("enter")
        await stacks_read(app, pilot)

        assert said in screen_text(app)
        assert "K asks" not in screen_text(app)


async def test_a_process_that_was_asked_in_vain_says_so(tmp_path):
    writer = STATES["live"](tmp_path / "run")
    told = {"request": "r-1", "request_kind": "stacks"}
    writer.emit(0, RequestSeen, **told)
    writer.emit(0, RequestDone, **told)

    async with watching(writer.path, clocks=still_clocks(writer)) as (app, pilot):
        await pilot.press("down", "enter")
        await stacks_read(app, pilot)

        assert "it was asked and wrote none: it is stopped" in screen_text(app)
        assert "K asks for them" in screen_text(app)


async def test_stacks_of_an_earlier_attempt_say_which(tmp_path):
    writer = STATES["live"](tmp_path / "run")
    path = stacks_file(writer.run, writer.attempt - 1, "rank-00000")
    path.parent.mkdir(parents=True)
    path.write_text('# {}\n\n2026-11-20T05:00:00Z asked\n  File "a.py", line 3 in f\n')

    async with watching(writer.path, clocks=still_clocks(writer)) as (app, pilot):
        await pilot.press("enter")
        await stacks_read(app, pilot)

        assert "attempt 1, 2026-11-20T05:00:00Z asked" in screen_text(app)
        assert "line 3 in f" in screen_text(app)
