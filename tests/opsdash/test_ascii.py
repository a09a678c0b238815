"""With `--ascii` nothing on the screen is beyond ASCII, whatever lies over a pane."""

import pytest
from textual.command import CommandPalette
from textual.scrollbar import ScrollBar

from opsdash.screens.ask_text import AskScreen
from opsdash.screens.comparison import ComparisonScreen
from opsdash.screens.help import HelpScreen
from opsdash.screens.picker import PickerScreen
from opsdash.screens.stacks import StacksScreen
from opsdash.theme import PlainScrollBar
from opsdash.widgets.plan import PlanDialog
from tests.screen_text import screen_text
from tests.watched import opened, refreshed, until


@pytest.fixture(autouse=True)
def _plain_scroll_bars(monkeypatch):
    monkeypatch.setattr(ScrollBar, "renderer", PlainScrollBar)


@pytest.mark.parametrize("state", ["live", "federated", "hung"])
async def test_panes_are_ascii(on, state):
    async with on(state, ascii_only=True) as (app, pilot):
        for key in "1234567":
            await pilot.press(key)
            await refreshed(app, pilot)

            assert screen_text(app).isascii(), key


@pytest.mark.parametrize(
    ("keys", "screen"),
    [
        (["ctrl+p"], CommandPalette),
        (["question_mark"], HelpScreen),
        (["s"], PlanDialog),
        (["3", "equals_sign"], ComparisonScreen),
        (["1", "enter"], StacksScreen),
        (["7", "E"], AskScreen),
        (["a"], PickerScreen),
    ],
)
async def test_what_lies_over_them_is_ascii(on, keys, screen):
    async with on("live", ascii_only=True) as (app, pilot):
        await pilot.press(*keys)
        await opened(app, pilot, screen)
        await until(pilot, lambda: app.screen.is_mounted)
        await pilot.pause()

        assert screen_text(app).isascii()


async def test_what_is_told_in_a_corner_is_ascii(on):
    async with on("live", ascii_only=True, toasts=True) as (app, pilot):
        await pilot.press("x")
        await until(pilot, lambda: "no job is running" in screen_text(app))

        assert screen_text(app).isascii()
