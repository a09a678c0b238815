"""Who draws reads no file of the run: a disk that does not answer freezes nothing."""

import os
import sys
import threading

import pytest

from agent.rundir.errors import RunDirError
from opsdash.jobs import acting
from opsdash.screens import event_lines, hang_facts, stacks
from opsdash.screens.comparison import ComparisonScreen
from opsdash.screens.panes import CHECKPOINTS, EVENTS, PANES
from opsdash.screens.stacks import StacksScreen
from opsdash.widgets.plan import PlanDialog
from opsdash.widgets.progress import JobLine
from tests.run_states import STATES
from tests.screen_text import screen_text
from tests.watched import (
    opened,
    plan_title,
    refreshed,
    still_clocks,
    until,
    watching,
)

LONG_S = 60
_LOOKS = ("open", "os.listdir", "os.mkdir", "os.scandir", "sqlite3.connect")


class _Ear:
    """Hears which files of a run one thread looks into; hooks stay for ever."""

    def __init__(self):
        self.root = self.thread = None
        self.heard = []
        sys.addaudithook(self._hear)

    def listen(self, root):
        self.heard = []
        self.root, self.thread = str(root), threading.get_ident()

    def stop(self):
        self.root = None

    def _hear(self, event, arguments):
        if self.root is None or event not in _LOOKS or not arguments:
            return
        path = arguments[0]
        is_mine = threading.get_ident() == self.thread
        if is_mine and isinstance(path, str | os.PathLike) and self.root in str(path):
            self.heard.append((event, str(path)))


EAR = _Ear()


@pytest.mark.parametrize("state", STATES)
async def test_no_pane_looks_into_the_run_while_it_draws(tmp_path, state):
    writer = STATES[state](tmp_path / state)
    clocks = still_clocks(writer, 40.0 if state == "dead" else 1.0)

    async with watching(writer.path, clocks=clocks) as (app, pilot):
        EAR.listen(writer.path)
        try:
            for number in range(1, len(PANES) + 1):
                await pilot.press(str(number))
                await refreshed(app, pilot)
                await pilot.press("down", "up")
            await pilot.press("2")
            await refreshed(app, pilot)
        finally:
            EAR.stop()

        assert EAR.heard == []


@pytest.fixture
def stuck(monkeypatch):
    """A disk that answers when it is let: return what lets it."""
    go_on = threading.Event()

    def late(module, name):
        read = getattr(module, name)

        def wait(*args):
            assert go_on.wait(LONG_S)
            return read(*args)

        monkeypatch.setattr(module, name, wait)

    monkeypatch.setattr("opsdash.operations.beside.PATIENCE_S", 0.01)
    late(event_lines, "read_line")
    late(hang_facts, "read_dumps")
    late(stacks, "read_newest_dumps")
    yield go_on
    go_on.set()


async def test_events_are_walked_before_their_words_are_there(tmp_path, stuck):
    writer = STATES["live"](tmp_path / "run")

    async with watching(writer.path, clocks=still_clocks(writer)) as (app, pilot):
        await pilot.press("7", "up", "up", "g", "G", "w", "w", "w", "w")
        await refreshed(app, pilot)
        before = screen_text(app)
        stuck.set()
        await until(pilot, lambda: " reading" not in screen_text(app), "words")

        assert "step_done            reading" in before
        assert "step_done            loss" in screen_text(app)


async def test_a_hang_is_told_before_the_stacks_are_read(tmp_path, stuck):
    writer = STATES["hung"](tmp_path / "run")

    async with watching(writer.path, clocks=still_clocks(writer)) as (app, pilot):
        await pilot.press("2")
        await refreshed(app, pilot)
        before = screen_text(app)
        await pilot.press("1", "down", "enter")
        await opened(app, pilot, StacksScreen)
        opening = screen_text(app)
        await pilot.press("escape", "2")
        stuck.set()
        await until(pilot, lambda: "reading its stacks" not in screen_text(app))

        assert "reading its stacks" in before
        assert "reading the stacks of rank-0000" in opening
        assert ".py:" in screen_text(app)


async def test_a_plan_comes_when_the_run_was_read_and_keys_work_meanwhile(
    on, monkeypatch
):
    go_on, plan = threading.Event(), acting.plan_request
    monkeypatch.setattr("opsdash.jobs.errand.PATIENCE_S", 0.01)
    monkeypatch.setattr(
        acting, "plan_request", lambda *args: go_on.wait(LONG_S) and plan(*args)
    )

    async with on("live") as (app, pilot):
        await pilot.press("s")
        await until(pilot, lambda: len(app.watch.query(JobLine)) == 1, "a line")
        await pilot.press("3")
        waiting = screen_text(app)
        go_on.set()
        await opened(app, pilot, PlanDialog)

        assert "plan checkpoint-now" in waiting
        assert app.watch.shown == CHECKPOINTS
        assert plan_title(app) == "save a checkpoint now"


async def test_what_was_confirmed_is_written_beside_the_screen(on):
    async with on("live") as (app, pilot):
        run = app.attached.run
        EAR.listen(run.path)
        try:
            await pilot.press("s")
            await opened(app, pilot, PlanDialog)
            await pilot.press("enter")
            await until(pilot, lambda: "asked, waits" in screen_text(app), "a line")
        finally:
            EAR.stop()

        assert EAR.heard == []
        assert len(list(run.operations.iterdir())) == 1


async def test_a_request_that_cannot_be_written_yet_stops_no_key(on, monkeypatch):
    go_on, ask = threading.Event(), acting.ask
    monkeypatch.setattr("opsdash.jobs.errand.PATIENCE_S", 0.01)
    monkeypatch.setattr(acting, "ask", lambda *args: go_on.wait(LONG_S) and ask(*args))

    async with on("live") as (app, pilot):
        await pilot.press("s")
        await opened(app, pilot, PlanDialog)
        await pilot.press("enter")
        await until(pilot, lambda: "waits for the disk" in screen_text(app), "a line")
        await pilot.press("3", "x")
        await until(pilot, lambda: "cancelled when the disk" in screen_text(app))
        shown = app.watch.shown
        go_on.set()
        await until(pilot, lambda: "taken back" in screen_text(app), "an outcome")

        assert shown == CHECKPOINTS
        assert list(app.attached.run.requests.glob("*.json")) == []


async def test_keys_work_while_the_process_that_measures_is_started(on, monkeypatch):
    go_on, start = threading.Event(), acting.TrainerCommand
    monkeypatch.setattr("opsdash.jobs.errand.PATIENCE_S", 0.01)
    monkeypatch.setattr(
        acting, "TrainerCommand", lambda *args: go_on.wait(LONG_S) and start(*args)
    )

    async with on("live") as (app, pilot):
        await pilot.press("3", "equals_sign")
        await until(pilot, lambda: "waits for the disk" in screen_text(app), "a line")
        await pilot.press("7")
        await refreshed(app, pilot)
        shown = app.watch.shown
        go_on.set()
        await opened(app, pilot, ComparisonScreen)

        assert shown == EVENTS


async def test_why_a_request_was_not_written_stays_on_its_line(on, monkeypatch):
    def ask(*_):
        raise RunDirError("the request cannot be written", hint="df")

    monkeypatch.setattr(acting, "ask", ask)
    async with on("live") as (app, pilot):
        await pilot.press("s")
        await opened(app, pilot, PlanDialog)
        await pilot.press("enter")
        await until(pilot, lambda: len(app.watch.query(JobLine)) == 1, "a line")
        line = app.watch.query_one(JobLine).state

        assert line.outcome == "failed"
        assert line.detail == "the request cannot be written (df)"


async def test_a_home_that_does_not_answer_freezes_no_screen(on, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    may_go_on = threading.Event()
    monkeypatch.setattr(
        "opsdash.operations.preferences.write_theme",
        lambda path, name: may_go_on.wait(LONG_S),
    )
    async with on("live", config=tmp_path / "config.toml") as (app, pilot):
        await pilot.press("t", "7")
        await refreshed(app, pilot)

        assert app.theme == "light"
        assert app.watch.shown == EVENTS
        may_go_on.set()


async def test_a_theme_that_could_not_be_written_down_says_so(
    on, tmp_path, monkeypatch
):
    monkeypatch.delenv("NO_COLOR", raising=False)
    (tmp_path / "file").write_bytes(b"")
    config = tmp_path / "file" / "config.toml"
    async with on("live", config=config) as (app, pilot):
        await pilot.press("t")
        await until(pilot, lambda: any("not remembered" in one for one in app.notes))

        assert str(config.parent) in app.notes[-1]
