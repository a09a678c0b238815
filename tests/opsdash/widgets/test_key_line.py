"""The keys that work here, in one line."""

from textual.binding import Binding

from opsdash.widgets.key_line import KeyLine
from tests.screen_text import screen_text
from tests.widget_app import WidgetApp


class KeysApp(WidgetApp):
    BINDINGS = [  # noqa: RUF012 - Textual's declaration
        Binding("s", "save", "Save"),
        Binding("slash", "filter", "Filter"),
        Binding("x", "hidden", "Hidden", show=False),
        Binding("d", "forbidden", "Forbidden"),
        Binding("question_mark", "help", "Help"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, *widgets):
        super().__init__(*widgets)
        self.done = []

    def check_action(self, action, parameters):
        return action != "forbidden"

    def action_save(self):
        self.done.append("save")


async def test_it_shows_what_works_and_ends_with_help_and_quit():
    async with KeysApp(KeyLine()).run_test(size=(60, 1)) as pilot:
        await pilot.pause()
        line = screen_text(pilot.app).rstrip()

    assert line.startswith(" s Save  / Filter ")
    assert line.endswith(" ? Help  q Quit")
    assert "Hidden" not in line
    assert "Forbidden" not in line


async def test_what_is_not_offered_is_not_named_and_works_all_the_same():
    line = KeyLine(lambda action: action != "save")

    async with KeysApp(line).run_test(size=(60, 1)) as pilot:
        await pilot.pause()
        shown = screen_text(pilot.app)
        await pilot.press("s")

        assert "Save" not in shown
        assert "/ Filter" in shown
        assert pilot.app.done == ["save"]


async def test_where_there_is_no_room_keys_go_whole_and_help_stays():
    async with KeysApp(KeyLine()).run_test(size=(26, 1)) as pilot:
        await pilot.pause()
        line = screen_text(pilot.app).rstrip()

    assert line.startswith(" s Save ")
    assert "Filter" not in line
    assert line.endswith("? Help  q Quit")


async def test_a_click_presses_the_key():
    async with KeysApp(KeyLine()).run_test(size=(60, 1)) as pilot:
        await pilot.pause()
        await pilot.click(KeyLine, offset=(3, 0))
        await pilot.pause()

        assert pilot.app.done == ["save"]
