"""Every key of the dashboard does what the help says, on runs of every kind."""

import json
import re

import pytest
from textual.binding import Binding
from textual.command import CommandPalette
from textual.containers import VerticalScroll
from textual.widgets import Input

from agent.rundir.requests import list_requests
from opsdash.app import OpsdashApp
from opsdash.operations.preferences import read_theme
from opsdash.projections.event_words import Severity
from opsdash.screens.ask_text import AskScreen
from opsdash.screens.barriers import BarriersPane
from opsdash.screens.checkpoints import CheckpointsPane
from opsdash.screens.chunk_browser import Level
from opsdash.screens.chunks import ChunksPane
from opsdash.screens.comparison import ComparisonScreen
from opsdash.screens.event_rows import EventRows
from opsdash.screens.events import EventsPane
from opsdash.screens.help import HelpScreen
from opsdash.screens.optimizer import OptimizerPane
from opsdash.screens.overview import OverviewPane
from opsdash.screens.panes import PANES
from opsdash.screens.picker import PickerScreen
from opsdash.screens.rounds import RoundsPane
from opsdash.screens.stacks import StacksScreen
from opsdash.screens.watch import WatchScreen
from opsdash.widgets.chart import Chart
from opsdash.widgets.facts import Facts
from opsdash.widgets.filter_bar import FilterBar
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
    stacks_read,
    until,
)

OWNERS = (
    OpsdashApp,
    WatchScreen,
    *(pane.pane_class for pane in PANES),
    HelpScreen,
    StacksScreen,
    ComparisonScreen,
    PickerScreen,
    AskScreen,
)
PRESSED: set[tuple[str, str]] = set()


def presses(owner, *keys):
    """Say which keys a test is about; a test below wants every key of every owner."""
    PRESSED.update((owner.__name__, key) for key in keys)
    return lambda test: test


@presses(OpsdashApp, "s", "S", "K", "f", "space")
async def test_asking_keys_show_the_plan_and_escape_asks_nothing(on):
    titles = {
        "s": "save a checkpoint now",
        "S": "stop the run",
        "K": "write the Python stacks of every process",
        "f": "profile the next 5 steps",
        "space": "pause the run",
    }
    async with on("live") as (app, pilot):
        found = {}
        for key in titles:
            await pilot.press(key)
            await opened(app, pilot, PlanDialog)
            found[key] = plan_title(app)
            await pilot.press("escape")

        assert found == titles
        assert list_requests(app.attached.run) == []


@presses(OpsdashApp, "x")
async def test_a_confirmed_plan_becomes_a_request_that_x_takes_back(on):
    async with on("live") as (app, pilot):
        await pilot.press("space", "enter")
        await until(pilot, lambda: len(app.watch.query(JobLine)) == 1)
        (view,) = list_requests(app.attached.run)
        waiting = app.watch.query_one(JobLine).state

        await pilot.press("x")
        line = app.watch.query_one(JobLine)
        await until(pilot, lambda: not line.state.is_running)

        assert (view.request.kind, view.request.attempt) == ("pause", 2)
        assert waiting.detail == "asked, waits for a safe point"
        assert line.state.outcome == "cancelled"
        assert list_requests(app.attached.run) == []
        await pilot.press("x", "x")
        assert list(app.watch.query(JobLine)) == []
        assert app.notes[-1] == "no job is running"


async def test_what_cannot_be_undone_wants_the_name(on):
    async with on("live") as (app, pilot):
        await pilot.press("S")
        await opened(app, pilot, PlanDialog)
        await until(pilot, lambda: isinstance(app.focused, Input), "a field")
        await pilot.press("enter")
        refused = isinstance(app.screen, PlanDialog)
        await pilot.press(*"live", "enter")
        await until(pilot, lambda: bool(list_requests(app.attached.run)))

        assert refused
        assert list_requests(app.attached.run)[0].request.kind == "stop"


@presses(OpsdashApp, "p", "t", "question_mark", "q", "ctrl+p")
async def test_display_theme_help_palette_and_the_way_out(on, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    config = tmp_path / "config.toml"
    async with on("live", config=config) as (app, pilot):
        await pilot.press("p")
        held = screen_text(app)
        await pilot.press("p", "t")
        theme = app.theme
        await pilot.press("question_mark")
        await opened(app, pilot, HelpScreen)
        await pilot.press("escape", "ctrl+p")
        await opened(app, pilot, CommandPalette)
        await pilot.press("escape", "q")
        await pilot.pause()

        assert "display held" in held
        assert theme == "light" == read_theme(config)
        assert app.return_code == 0 or not app.is_running


@presses(OpsdashApp, "a")
@presses(PickerScreen, "escape", "slash")
async def test_another_run_is_picked_without_leaving(on, tmp_path):
    STATES["damaged"](tmp_path / "other")
    async with on("live") as (app, pilot):
        await pilot.press("a")
        await opened(app, pilot, PickerScreen)
        await pilot.press("escape")
        back = isinstance(app.screen, WatchScreen)
        await pilot.press("a", "a")
        await opened(app, pilot, PickerScreen)
        num_pickers = sum(isinstance(s, PickerScreen) for s in app.screen_stack)
        await until(pilot, lambda: "other" in screen_text(app))
        await pilot.press("slash", *"other", "enter")
        await pilot.pause()
        await pilot.press("enter")
        await until(pilot, lambda: app.attached.run.path.name == "other")
        await until(pilot, lambda: isinstance(app.screen, WatchScreen))

        assert back
        assert num_pickers == 1
        await until(pilot, lambda: app.attached.folded.is_caught_up)


@presses(WatchScreen, *"1234567")
async def test_digits_bring_panes(on):
    async with on("live") as (app, pilot):
        for index, pane in enumerate(PANES):
            await pilot.press(str(index + 1))
            assert type(app.watch.pane) is pane.pane_class


@presses(WatchScreen, "v", "r", "R", "slash", "z", "c")
async def test_keys_of_every_pane(on):
    async with on("live") as (app, pilot):
        await pilot.press("slash")
        typing = isinstance(app.focused, Input)
        await pilot.press("q", "escape", "z")
        is_large = app.screen.maximized is not None
        await pilot.press("z", "c")
        note, copied = app.notes[-1], app.clipboard
        await pilot.press("2", "c")
        nothing = app.notes[-1]
        await pilot.press("1", "r")
        await opened(app, pilot, PlanDialog)
        resume, command = plan_title(app), app.screen.plan.command
        await pilot.press("escape", "R")
        await pilot.pause()
        restore = type(app.watch.pane)
        await pilot.press("1", "v")
        await until(pilot, lambda: len(app.watch.query(JobLine)) > 0)

        assert typing
        assert is_large
        assert nothing == "nothing to copy here"
        assert app.screen.maximized is None
        assert note.startswith("command copied")
        assert copied == f"opsdash barriers {app.attached.run.path}"
        assert resume == "go back to step-00000100 while it runs"
        assert command.endswith(" resume --checkpoint step-00000100")
        assert restore is ChunksPane
        assert type(app.watch.pane) is CheckpointsPane


async def test_resuming_a_dead_run_shows_the_recorded_command(on):
    async with on("dead") as (app, pilot):
        await pilot.press("r")
        await until(
            pilot,
            lambda: app.watch.query(JobLine) or isinstance(app.screen, PlanDialog),
        )
        line = app.watch.query(JobLine)
        await until(
            pilot,
            lambda: isinstance(app.screen, PlanDialog) or not line[0].state.is_running,
        )
        await pilot.pause()

        # Bytes made by hand are no checkpoint of torch's: it says so.
        shown = screen_text(app)
        assert "resume" in shown
        assert "step-00000050" in shown


@presses(CheckpointsPane, "v", "V", "d", "r", "P", "equals_sign")
async def test_keys_of_the_checkpoints(on):
    async with on("live") as (app, pilot):
        await pilot.press("3", "v")
        await until(pilot, lambda: len(app.watch.query(JobLine)) == 1)
        await pilot.press("V")
        await until(pilot, lambda: len(app.watch.query(JobLine)) == 2)
        await pilot.press("d")
        await until(pilot, lambda: len(app.watch.query(JobLine)) == 3)
        titles = [line.state.title for line in app.watch.query(JobLine)]
        await pilot.press("down", "P")
        await opened(app, pilot, PlanDialog)
        unpin = plan_title(app)
        await pilot.press("escape", "up", "P")
        await opened(app, pilot, PlanDialog)
        pin = plan_title(app)
        await pilot.press("escape", "down", "down", "r")
        await opened(app, pilot, PlanDialog)
        resume = plan_title(app)
        await pilot.press("escape", "g", "equals_sign")
        await opened(app, pilot, ComparisonScreen)
        compared = screen_text(app)

        assert titles == [
            "verify step-00000100",
            "verify 3 of them",
            "verify deep step-00000100",
        ]
        assert (pin, unpin) == ("pin step-00000100", "unpin step-00000060")
        assert resume == "go back to step-00000020 while it runs"
        assert "step-00000060 with step-00000100" in compared


@presses(ComparisonScreen, "escape", "q", "slash", "question_mark")
async def test_a_comparison_is_filtered_and_closed(on):
    async with on("live") as (app, pilot):
        await pilot.press("3", "equals_sign")
        await opened(app, pilot, ComparisonScreen)
        await pilot.press("slash")
        typing = isinstance(app.focused, Input)
        await pilot.press("escape")
        await pilot.pause()
        await pilot.press("question_mark")
        await opened(app, pilot, HelpScreen)
        told = screen_text(app)
        await pilot.press("escape", "q")
        await until(pilot, lambda: isinstance(app.screen, WatchScreen))
        await pilot.press("equals_sign")
        await opened(app, pilot, ComparisonScreen)
        named = screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, WatchScreen))

        assert typing
        assert "in the comparison screen" in told
        assert "everywhere" not in told
        assert "/ Filter" in named
        assert "? Help" in named


@presses(OptimizerPane, "u", "n")
async def test_groups_and_clients_of_the_optimizer(on):
    async with on("live") as (app, pilot):
        await pilot.press("4", "u")
        first = screen_text(app)
        await pilot.press("u", "u", "n")
        every = screen_text(app)

        assert "shown       group0" in first
        assert "shown" not in every
        rates = [chart for chart in app.watch.query(Chart) if chart.id == "lr"]
        assert rates[0].series[0].latest == 1e-3


@presses(ChunksPane, "v", "F", "R", "equals_sign", "backspace", "escape")
async def test_keys_of_the_chunks(on):
    async with on("federated") as (app, pilot):
        pane = await app.watch.show_pane(4)
        await pilot.press("v")
        await until(pilot, lambda: "chunks/client-1" in app.attached.store_verdicts)
        await pilot.press("F")
        await opened(app, pilot, PlanDialog)
        repair = plan_title(app)
        await pilot.press("escape", "enter")
        await until(pilot, lambda: pane.browser.level is Level.ROUNDS)
        await pilot.press("equals_sign")
        await until(pilot, lambda: pane.browser.level is Level.DIFF)
        diff = screen_text(app)
        await pilot.press("escape", "enter", "enter")
        await until(pilot, lambda: "conv.weight" in screen_text(app))
        parts = screen_text(app)
        await pilot.press("backspace", "backspace", "R")
        await opened(app, pilot, AskScreen)
        asked = screen_text(app)
        await pilot.press("escape", "backspace")

        assert repair == "repair the chunk store of client-1"
        assert pane.browser.level is Level.STORES
        assert "round 7 beside round 8" in diff
        assert "1 of 3 chunks" in diff
        assert "client-1 > round 8 > chunk 0" in parts
        assert "conv.weight" in parts
        assert "restore round 8 of client-1" in asked


async def test_a_round_is_restored_into_the_live_federation(on):
    async with on("federated") as (app, pilot):
        await open_store(app, pilot)
        await pilot.press("R")
        await opened(app, pilot, AskScreen)
        to, _, names = app.screen.query(Input)
        to.value, names.value = "live", "conv.weight=stem.weight"
        await pilot.press("enter")
        await opened(app, pilot, PlanDialog)
        title, plan = plan_title(app), app.screen.plan
        await until(pilot, lambda: isinstance(app.focused, Input), "a field")
        await pilot.press(*"federated", "enter")
        await until(pilot, lambda: bool(list_requests(app.attached.run)))

        assert title.startswith("restore the model of client-1, round 8")
        request = list_requests(app.attached.run)[0].request
        assert (request.kind, request.args["round_num"]) == ("restore", 8)
        assert request.args["mapping"] == {"conv.weight": "stem.weight"}
        assert "under other names: conv.weight=stem.weight" in str(plan.facts)
        assert plan.command.endswith("--map conv.weight=stem.weight")


async def test_a_round_is_written_under_other_names_to_a_file(on):
    async with on("federated") as (app, pilot):
        await open_store(app, pilot)
        await pilot.press("R")
        await opened(app, pilot, AskScreen)
        names = app.screen.query(Input)[2]
        names.value = "conv.weight"
        await pilot.press("enter")
        await pilot.pause()
        wrong = screen_text(app)
        names.value += "=stem.weight"
        await pilot.press("enter")
        await opened(app, pilot, PlanDialog)

        assert "`conv.weight` is not of the form OLD=NEW" in wrong
        assert "--map conv.weight=stem.weight" in app.screen.plan.command


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "no file is named"),
        ("round.txt", "`round.txt` is neither `live` nor a .pt or .safetensors file"),
        ("alive", "`alive` is neither `live` nor a .pt or .safetensors file"),
    ],
)
async def test_a_file_that_no_round_can_be_written_to_is_asked_for_again(on, name, why):
    async with on("federated") as (app, pilot):
        await open_store(app, pilot)
        await pilot.press("R")
        await opened(app, pilot, AskScreen)
        app.screen.query(Input)[0].value = name
        await pilot.press("enter")
        await pilot.pause()

        assert isinstance(app.screen, AskScreen)
        assert f"no     {why}" in screen_text(app)


@presses(AskScreen, "escape", "up", "shift+tab", "down", "tab")
async def test_fields_are_walked_and_left(on):
    async with on("federated") as (app, pilot):
        await open_store(app, pilot)
        await pilot.press("R")
        await opened(app, pilot, AskScreen)
        fields = list(app.screen.query(Input))
        seen = [app.focused]
        for key in ("down", "up", "tab", "shift+tab"):
            await pilot.press(key)
            seen.append(app.focused)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, WatchScreen))

        assert [fields.index(one) for one in seen] == [0, 1, 0, 1, 0]


@presses(EventsPane, "w", "n", "e", "E", "escape")
async def test_keys_of_the_events(on, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with on("live") as (app, pilot):
        pane = await app.watch.show_pane(6)
        await pilot.press("w")
        severity = pane._wanted.min_severity
        await pilot.press("n")
        node = pane._wanted.node
        await pilot.press("e")
        kinds = pane._wanted.kinds
        restricted = screen_text(app)
        await pilot.press("n", "e")
        freed = (pane._wanted.node, pane._wanted.kinds)
        await pilot.press("E")
        await opened(app, pilot, AskScreen)
        await pilot.press("enter")
        await until(pilot, lambda: len(app.watch.query(JobLine)) == 1)
        line = app.watch.query_one(JobLine)
        await until(pilot, lambda: not line.state.is_running, "an end")
        await pilot.press("escape")

        assert severity is Severity.INFO
        assert (node, kinds) == ("rank-00000", frozenset({"eval_done"}))
        assert "only       info and worse, rank-00000, eval_done" in restricted
        assert freed == (None, None)
        assert pane._wanted.min_severity is Severity.DETAIL
        lines = (tmp_path / "events.jsonl").read_text().splitlines()
        assert {json.loads(line)["kind"] for line in lines} >= {"eval_done"}


async def test_a_letter_of_a_filter_waits_for_no_row(on, monkeypatch):
    async with on("live") as (app, pilot):
        pane = await app.watch.show_pane(6)
        await refreshed(app, pilot)
        looks, look = [], EventRows.advance

        def looked(rows):
            looks.append(rows)
            return look(rows)

        monkeypatch.setattr(EventRows, "advance", looked)
        typed = FilterBar.FilterChanged(pane.query_one(FilterBar), "eval")
        pane.on_filter_bar_filter_changed(typed)
        num_looks = len(looks)
        await until(pilot, lambda: 0 < len(pane._rows) < len(pane._rows.log))

        assert num_looks == 0


@presses(BarriersPane, "K")
async def test_stacks_are_asked_for_where_a_hang_is_seen(on):
    async with on("hung") as (app, pilot):
        await pilot.press("2")
        await refreshed(app, pilot)
        line = screen_text(app).splitlines()[-1]
        await pilot.press("K")
        await opened(app, pilot, PlanDialog)

        assert "K Take stacks" in line
        assert plan_title(app) == "write the Python stacks of every process"


@presses(StacksScreen, "escape", "q", "c", "question_mark")
async def test_stacks_of_a_hung_rank_are_read_and_copied(on):
    async with on("hung") as (app, pilot):
        await pilot.press("2")
        table = app.watch.query_one(RecordTable)
        app.screen.set_focus(table.table)
        await pilot.press("G", "up", "enter")
        await stacks_read(app, pilot)
        shown = screen_text(app)
        await pilot.press("question_mark")
        await opened(app, pilot, HelpScreen)
        await pilot.press("escape", "c", "q")
        await until(pilot, lambda: isinstance(app.screen, WatchScreen))
        await pilot.press("enter")
        await opened(app, pilot, StacksScreen)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, WatchScreen))

        assert "rank-00002" in shown
        assert 'File "/srv/train/data.py", line 88 in read_shard' in shown
        assert app.notes[-1].startswith("stacks copied")


@presses(HelpScreen, "j", "k")
async def test_help_is_read_on_and_tells_a_key_once(on):
    async with on("live", size=(80, 24)) as (app, pilot):
        await pilot.press("3", "question_mark")
        await opened(app, pilot, HelpScreen)
        scroll = app.screen.query_one(VerticalScroll)
        await pilot.press("j", "j", "k")
        await pilot.pause()
        lines = [fact.label for fact in app.screen.query_one(Facts).facts]

        assert scroll.scroll_y == 1
        assert lines.count("v") == 1
        assert lines.count("r") == 1


@presses(HelpScreen, "escape", "question_mark", "q")
async def test_help_names_the_keys_of_the_pane_and_closes(on):
    async with on("live") as (app, pilot):
        await pilot.press("3")
        for key in ("escape", "question_mark", "q"):
            await pilot.press("question_mark")
            await opened(app, pilot, HelpScreen)
            shown = screen_text(app)
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, WatchScreen))

            assert "in checkpoints" in shown


async def test_a_cell_leads_to_the_events_of_its_step_or_round(on):
    async with on("live") as (app, pilot):
        await pilot.press("2", "left", "enter")
        await until(pilot, lambda: isinstance(app.watch.pane, EventsPane))
        step = app.watch.pane._wanted
    async with on("federated") as (app, pilot):
        await pilot.press("6", "left", "enter")
        await until(pilot, lambda: isinstance(app.watch.pane, EventsPane))
        await refreshed(app, pilot)
        shown = screen_text(app)

    assert (step.step, step.node) == (120, "rank-00000")
    assert re.search(r"^/ +\d+ of \d+$", shown, re.MULTILINE)
    assert "round 8 (escape clears)" in shown
    assert "round 8 committed" in shown


async def test_every_table_can_be_filtered(on):
    async with on("federated") as (app, pilot):
        for number in "1567":
            await pilot.press(number, "slash")
            assert isinstance(app.focused, Input), number
            await pilot.press("escape")
            await pilot.pause()
            assert isinstance(app.focused, VirtualTable), number


async def test_a_dashboard_that_only_reads_has_no_keys_that_act(on):
    async with on("live", is_readonly=True) as (app, pilot):
        for pane in ("1", "2", "3", "5"):
            await pilot.press(pane, "s", "S", "space", "K", "f", "r", "P", "F", "R")
            await pilot.pause()
        await pilot.press("question_mark")
        await opened(app, pilot, HelpScreen)
        shown = screen_text(app)

        assert "Stop the run" not in shown
        assert len(app.screen_stack) == 3
        assert list_requests(app.attached.run) == []
        assert not app.attached.run.operations.exists()


def test_every_key_of_every_screen_is_pressed_by_a_test():
    declared = {
        (owner.__name__, binding.key)
        for owner in OWNERS
        for binding in Binding.make_bindings(owner.__dict__.get("BINDINGS", []))
    }
    without_keys = {OverviewPane, RoundsPane}

    assert declared == PRESSED
    assert all("BINDINGS" not in pane.__dict__ for pane in without_keys)
