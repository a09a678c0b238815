from textual.containers import VerticalScroll

from opsdash.widgets.lines import LineWidget
from opsdash.widgets.spans import Span
from opsdash.widgets.thin_screen import ThinScreen
from tests.screen_text import screen_text
from tests.widget_app import WidgetApp


class Lines(LineWidget):
    def __init__(self, *texts):
        super().__init__()
        self.texts = texts

    def show(self, *texts):
        self.texts = texts
        self.changed()

    def lines(self, width, height):
        return [(Span(text, tone),) for text, tone in self.texts]


def plain(*texts):
    return [(text, "") for text in texts]


async def test_lines_are_shown_and_cut_to_the_screen():
    app = WidgetApp(Lines(*plain("loss 2.31", "a" * 99)))

    async with app.run_test(size=(20, 4)):
        assert screen_text(app).split("\n")[:3] == ["loss 2.31", "a" * 20, ""]


async def test_the_height_follows_the_number_of_lines():
    lines, below = Lines(*plain("one")), Lines(*plain("below"))
    app = WidgetApp(lines, below)

    async with app.run_test(size=(20, 6)) as pilot:
        lines.show(*plain("one", "two", "three"))
        await pilot.pause()

        assert screen_text(app).split("\n")[:4] == ["one", "two", "three", "below"]
        assert app.differing_lines() == []

        lines.show(*plain("one"))
        await pilot.pause()

        assert screen_text(app).split("\n")[:3] == ["one", "below", ""]
        assert app.differing_lines() == []


async def test_a_change_sends_little_and_the_terminal_shows_it():
    lines = Lines(*plain("x" * 60 + " 1", "y" * 60))
    app = WidgetApp(lines, screen=ThinScreen)

    async with app.run_test(size=(80, 4)) as pilot:
        await pilot.pause()
        app.num_bytes = 0
        lines.show(*plain("x" * 60 + " 2", "y" * 60))
        await pilot.pause()

        assert 0 < app.num_bytes < 100
        assert screen_text(app).split("\n")[0] == "x" * 60 + " 2"
        assert app.differing_lines() == []


async def test_nothing_is_sent_for_what_stays_the_same():
    lines = Lines(*plain("the same"))
    app = WidgetApp(lines)

    async with app.run_test(size=(80, 4)) as pilot:
        await pilot.pause()
        app.num_bytes = 0
        lines.show(*plain("the same"))
        await pilot.pause()

        assert app.num_bytes == 0


async def test_text_that_could_act_is_spelt_out():
    lines = Lines(*plain("\x1b[2J[red]bold[/red]\u202e\n"))
    app = WidgetApp(lines)

    async with app.run_test(size=(60, 4)) as pilot:
        await pilot.pause()

        assert screen_text(app).startswith(r"\x1b[2J[red]bold[/red]\u202e\x0a")
        assert app.differing_lines() == []


async def test_a_theme_changes_the_colours_of_what_is_drawn():
    app = WidgetApp(Lines(("damaged", "bad")))

    async with app.run_test(size=(20, 2)) as pilot:
        await pilot.pause()
        dark = app.screen._compositor.render_strips()[0]
        app.theme = "light"
        await pilot.pause()
        light = app.screen._compositor.render_strips()[0]

        assert dark.text == light.text
        assert next(iter(dark)).style != next(iter(light)).style


async def test_an_unknown_tone_is_plain():
    app = WidgetApp(Lines(("text", "no such tone")))

    async with app.run_test(size=(20, 2)) as pilot:
        await pilot.pause()

        assert screen_text(app).startswith("text")


async def test_it_can_be_scrolled_by_what_contains_it():
    class Scrolling(WidgetApp):
        def compose(self):
            with VerticalScroll():
                yield Lines(*plain(*map(str, range(30))))

    app = Scrolling()

    async with app.run_test(size=(20, 5)) as pilot:
        await pilot.pause()
        app.query_one(VerticalScroll).scroll_to(y=10, animate=False)
        await pilot.pause()

        assert screen_text(app).split("\n")[0].startswith("10")
