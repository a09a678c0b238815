import random

from textual.screen import Screen

from opsdash.widgets.chart import Chart
from opsdash.widgets.lines import LineWidget
from opsdash.widgets.series import Series
from opsdash.widgets.spans import Span
from opsdash.widgets.thin_screen import ThinScreen
from tests.widget_app import WidgetApp


class Noise(LineWidget):
    """Changes a few cells anywhere, wide characters among them."""

    DEFAULT_CSS = "Noise { height: 1fr; }"

    def __init__(self, seed):
        super().__init__()
        self.random = random.Random(seed)
        self.grid = [["."] * 40 for _ in range(6)]

    def shake(self):
        for _ in range(self.random.randrange(1, 12)):
            row = self.random.choice(self.grid)
            row[self.random.randrange(40)] = self.random.choice(
                ["x", " ", "模", "é", "⣿"]
            )
        self.changed()

    def lines(self, width, height):
        tones = ["", "bad", "cursor"]
        return [
            tuple(Span(cell, tones[x // 7 % 3]) for x, cell in enumerate(row))
            for row in self.grid
        ]


async def test_partial_updates_add_up_to_the_screen():
    widgets = [Noise(seed) for seed in range(3)]
    app = WidgetApp(*widgets, screen=ThinScreen)

    async with app.run_test(size=(60, 18)) as pilot:
        await pilot.pause()
        for _ in range(40):
            for widget in widgets:
                widget.shake()
            await pilot.pause()

            assert app.differing_lines() == []


async def test_what_follows_a_picture_waits_for_a_few_milliseconds_at_most():
    app = WidgetApp(Noise(1), screen=ThinScreen)

    async with app.run_test() as pilot:
        await pilot.pause()

        # Textual sleeps through up to two of its ticks after one that painted.
        assert 2 * app.screen._update_timer._interval < 0.01


async def test_a_new_point_costs_less_than_on_a_plain_screen():
    thin = await bytes_for_new_points(ThinScreen)
    plain = await bytes_for_new_points(Screen)

    assert 0 < thin < plain / 2


async def test_a_new_focus_repaints_no_more_than_who_has_it():
    thin = await bytes_for_a_focus(ThinScreen)
    plain = await bytes_for_a_focus(Screen)

    assert 0 < thin < plain / 2


class Small(Noise, can_focus=True):
    """One line that shows whether it has the focus."""

    DEFAULT_CSS = "Small { height: 1; &:focus > .tone--title { text-style: reverse; } }"

    def lines(self, width, height):
        return [(Span("here", "title"),)]


async def bytes_for_a_focus(screen):
    small = [Small(seed) for seed in range(2)]
    app = WidgetApp(*small, Noise(2), screen=screen)
    async with app.run_test(size=(60, 18)) as pilot:
        small[0].focus()
        await pilot.pause()
        app.num_bytes = 0
        small[1].focus()
        await pilot.pause()
        assert app.differing_lines() == []
        return app.num_bytes


async def bytes_for_new_points(screen):
    series = Series("loss")
    series.extend((step, 2.0 + step % 7 / 100) for step in range(1800))
    chart = Chart(series, title="loss")
    app = WidgetApp(chart, screen=screen)
    async with app.run_test(size=(120, 20)) as pilot:
        await pilot.pause()
        app.num_bytes = 0
        for step in range(1800, 1830):
            series.append(step, 2.0 + step % 7 / 100)
            chart.changed()
            await pilot.pause()
        assert app.differing_lines() == []
        return app.num_bytes
