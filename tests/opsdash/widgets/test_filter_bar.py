import pytest
from textual.widgets import Input

from opsdash.widgets.filter_bar import FilterBar
from tests.screen_text import screen_text
from tests.widget_app import WidgetApp


class QuittingApp(WidgetApp):
    BINDINGS = (("q", "quit", "Quit"), ("k", "quit", "Stacks"))


def patterns(app):
    return [message.pattern for message in app.told_of(FilterBar.FilterChanged)]


async def test_what_is_typed_is_told_and_counted():
    bar = FilterBar()
    app = QuittingApp(bar)

    async with app.run_test(size=(60, 3)) as pilot:
        bar.query_one(Input).focus()
        await pilot.press("r", "k", "q")
        bar.show_count(12, 10_240)
        await pilot.pause()

        assert bar.pattern == "rkq"
        assert patterns(app)[-1] == "rkq"
        line = screen_text(app).split("\n")[0]
        assert line.startswith("/ rkq")
        assert line.endswith("12 of 10,240")


async def test_typing_q_never_quits():
    bar = FilterBar()
    app = QuittingApp(bar)

    async with app.run_test(size=(60, 3)) as pilot:
        bar.query_one(Input).focus()
        await pilot.press("q", "q", "q")

        assert app.is_running
        assert bar.pattern == "qqq"


@pytest.mark.parametrize(
    ("size", "shown"), [((60, 3), "literally 3 of 9"), ((24, 3), "3 of 9")]
)
async def test_a_half_typed_expression_is_no_error(size, shown):
    bar = FilterBar()
    app = WidgetApp(bar)

    async with app.run_test(size=size) as pilot:
        bar.query_one(Input).focus()
        await pilot.press("left_parenthesis")
        bar.show_count(3, 9)
        await pilot.pause()

        assert screen_text(app).split("\n")[0].endswith(shown)


async def test_without_a_pattern_only_all_rows_are_counted():
    bar = FilterBar()
    app = WidgetApp(bar)

    async with app.run_test(size=(60, 3)) as pilot:
        bar.show_count(9, 9)
        await pilot.pause()

        assert screen_text(app).split("\n")[0].split() == ["/", "9"]


@pytest.mark.parametrize("key", ["enter", "down"])
async def test_leaving_keeps_the_filter(key):
    bar = FilterBar()
    app = WidgetApp(bar)

    async with app.run_test(size=(60, 3)) as pilot:
        bar.query_one(Input).focus()
        await pilot.press("x", key)
        await pilot.pause()

        assert bar.pattern == "x"
        assert [m.filter_bar for m in app.told_of(FilterBar.Left)] == [bar]


async def test_escape_takes_the_filter_away():
    bar = FilterBar()
    app = WidgetApp(bar)

    async with app.run_test(size=(60, 3)) as pilot:
        bar.query_one(Input).focus()
        await pilot.press("x", "escape")
        await pilot.pause()

        assert bar.pattern == ""
        assert patterns(app)[-1] == ""
        assert len(app.told_of(FilterBar.Left)) == 1


async def test_a_saved_pattern_can_be_put_in():
    bar = FilterBar()
    app = WidgetApp(bar)

    async with app.run_test(size=(60, 3)) as pilot:
        bar.show_pattern("!heartbeat")
        await pilot.pause()

        assert patterns(app) == ["!heartbeat"]


async def test_nothing_blinks_and_all_is_ascii_where_it_must_be():
    bar = FilterBar()
    app = WidgetApp(bar, ascii_only=True)

    async with app.run_test(size=(60, 3)) as pilot:
        bar.query_one(Input).focus()
        await pilot.press(*"rank")
        bar.show_count(1, 2)
        await pilot.pause()

        assert screen_text(app).isascii()
        assert not bar.query_one(Input).cursor_blink
