from dataclasses import replace

import pytest

from opsdash.widgets.facts import Fact
from opsdash.widgets.plan import Plan, PlanDialog
from tests.screen_text import assert_screen, screen_text
from tests.widget_app import WidgetApp

PLAN = Plan(
    "restore round 5 of client-1 into the live run",
    (
        Fact("reads", "chunks/client-1/client-1_chunks.db, 25 chunks, 96.3 MiB"),
        Fact("writes", "checkpoints/round-000005, 96.3 MiB", "warn"),
        Fact("loses", "rounds 6 to 9 (4 rounds, about 12 min)", "bad"),
        Fact("agree", "server and 3 of 4 clients; client-4 is missing"),
    ),
    "opsdash restore /data/runs/fl-7 --node client-1 --round 5 --live",
)
NAMED = replace(PLAN, confirm_name="round-000005")
ELSEWHERE = replace(PLAN, why_not="this host did not start the run")


class Asking(WidgetApp):
    """Asks once, and keeps the answer."""

    BINDINGS = (("q", "quit", "Quit"),)

    def __init__(self, plan, **options):
        super().__init__(**options)
        self.plan = plan
        self.answers = []

    def on_mount(self):
        self.push_screen(PlanDialog(self.plan), self.answers.append)


@pytest.mark.parametrize(
    ("name", "plan", "size", "options"),
    [
        ("80x14", PLAN, (80, 14), {}),
        ("named-80x16", NAMED, (80, 16), {}),
        ("elsewhere-ascii-60x16", ELSEWHERE, (60, 16), {"ascii_only": True}),
        ("30x10", PLAN, (30, 10), {}),
    ],
)
async def test_a_plan_at_every_size(name, plan, size, options):
    app = Asking(plan, **options)

    async with app.run_test(size=size) as pilot:
        await pilot.pause()

        assert_screen(app, f"widgets/plan-{name}")
        assert not options or screen_text(app).isascii()


@pytest.mark.parametrize(("key", "answer"), [("enter", True), ("escape", False)])
async def test_it_is_answered_by_a_key(key, answer):
    app = Asking(PLAN)

    async with app.run_test(size=(80, 20)) as pilot:
        await pilot.pause()
        await pilot.press(key)
        await pilot.pause()

        assert app.answers == [answer]


async def test_c_copies_the_command():
    app = Asking(PLAN)

    async with app.run_test(size=(80, 20)) as pilot:
        await pilot.pause()
        await pilot.press("c")
        await pilot.pause()

        assert app.clipboard == PLAN.command
        assert "copied" in screen_text(app)
        assert app.answers == []


async def test_a_destructive_plan_is_confirmed_by_its_name_only():
    app = Asking(NAMED)

    async with app.run_test(size=(80, 20)) as pilot:
        await pilot.pause()
        await pilot.press("enter")
        await pilot.press(*"round-00000", "enter", "q")
        await pilot.pause()

        assert app.is_running
        assert app.answers == []
        assert "that is not round-000005" in screen_text(app)

        await pilot.press("backspace", "5", "enter")
        await pilot.pause()

        assert app.answers == [True]


async def test_while_a_name_is_typed_c_is_a_letter_and_ctrl_y_copies():
    app = Asking(NAMED)

    async with app.run_test(size=(80, 20)) as pilot:
        await pilot.pause()
        await pilot.press("c")
        assert app.clipboard == ""

        await pilot.press("ctrl+y")
        assert app.clipboard == PLAN.command

        await pilot.press("escape")
        await pilot.pause()
        assert app.answers == [False]


async def test_what_must_not_be_done_here_can_only_be_copied():
    app = Asking(ELSEWHERE)

    async with app.run_test(size=(80, 20)) as pilot:
        await pilot.pause()
        await pilot.press("enter", "c")
        await pilot.pause()

        assert app.answers == []
        assert app.clipboard == PLAN.command

        await pilot.press("escape")
        await pilot.pause()
        assert app.answers == [False]


async def test_a_plan_beyond_the_screen_is_read_to_its_end_first():
    app = Asking(PLAN)

    async with app.run_test(size=(30, 10)) as pilot:
        await pilot.pause()
        assert "the plan goes on" in screen_text(app)
        await pilot.press("enter")
        await pilot.pause()
        assert app.answers == []
        assert "it to its end" in screen_text(app)

        await pilot.press(*["j"] * 30)
        await pilot.pause()
        assert "--live" in screen_text(app)
        await pilot.press("k", "up", "enter")
        await pilot.pause()

        assert app.answers == [True]


async def test_text_of_a_plan_is_data():
    plan = Plan("resume [b]\x1b[2J", (Fact("reads", "\u202eevil"),), "opsdash \x07x")
    app = Asking(plan)

    async with app.run_test(size=(80, 20)) as pilot:
        await pilot.pause()

        text = screen_text(app)
        assert r"resume [b]\x1b[2J" in text
        assert r"\u202eevil" in text
        assert r"opsdash \x07x" in text


async def test_where_no_name_is_typed_c_copies_also_of_what_would_ask_for_one():
    app = Asking(replace(NAMED, why_not="nothing runs here"))

    async with app.run_test(size=(80, 20)) as pilot:
        await pilot.pause()
        said = screen_text(app)
        await pilot.press("c")
        await pilot.pause()

        assert " c copies the command, escape closes" in said
        assert app.clipboard == PLAN.command
