import pytest

from opsdash.units import duration
from opsdash.widgets.heat_map import HeatMap
from opsdash.widgets.heat_view import Peak
from tests.screen_text import assert_screen, screen_text
from tests.widget_app import WidgetApp

MS = 1_000_000
BOUNDS = (1 * MS, 5 * MS, 25 * MS, 100 * MS, 500 * MS)


class Lateness:
    """Rank 2 is late every seventh step, rank 5 was not heard of after 300."""

    def __init__(self, num_ranks=8, last=400):
        self.ranks = range(num_ranks)
        self.last = last
        self.asked = []

    @property
    def span(self):
        return (0, self.last)

    def label(self, rank):
        return f"rank {rank}"

    def peak(self, rank, start, stop):
        self.asked.append((rank, start))
        stop = min(stop, self.last + 1, 301 if rank == 5 else self.last + 1)
        found = [Peak(self.at(rank, step), step) for step in range(start, stop)]
        return max(found, default=None)

    def at(self, rank, step):
        if rank == 2 and step % 7 == 0:
            return 120 * MS if step % 2 else 700 * MS
        return (step * (rank + 3)) % 11 * MS


def heat_map(model=None):
    widget = HeatMap(BOUNDS, title="lateness", say=lambda ns: duration(int(ns)))
    widget.model = model or Lateness()
    return widget


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("80x10", (80, 10), {}),
        ("24x5", (24, 5), {}),
        ("ascii-60x10", (60, 10), {"ascii_only": True}),
    ],
)
async def test_a_heat_map_at_every_size(name, size, options):
    widget = heat_map()
    app = WidgetApp(widget, **options)

    async with app.run_test(size=size) as pilot:
        widget.focus()
        await pilot.press("j", "j", "j", "h", "h")

        assert_screen(app, f"widgets/heat-{name}")
        assert not options or screen_text(app).isascii()


async def test_without_steps_it_says_so():
    app = WidgetApp(HeatMap(BOUNDS, title="lateness"))

    async with app.run_test(size=(60, 6)) as pilot:
        await pilot.press("j", "plus", "enter", "0", "g")

        assert "none was measured yet" in screen_text(app)


@pytest.mark.parametrize(
    ("keys", "cursor"),
    [
        (["j"], (0, 400)),
        (["right", "down"], (1, 400)),
        (["j", "j", "j", "k"], (1, 400)),
        (["up", "up"], (0, 400)),
        (["left", "left", "h"], (0, 398)),
        (["l", "h", "h", "l"], (0, 399)),
        (["j", "g"], (0, 0)),
        (["home"], (0, 0)),
        (["home", "end"], (0, 400)),
        (["home", "G", "left"], (0, 399)),
        (["j", "escape"], None),
        (["j", *["down"] * 20], (7, 400)),
    ],
)
async def test_keys_move_the_cursor(keys, cursor):
    widget = heat_map()
    app = WidgetApp(widget)

    async with app.run_test(size=(80, 6)) as pilot:
        widget.focus()
        await pilot.press(*keys)

        assert widget.cursor == cursor
        if cursor is not None:
            assert f"rank {cursor[0]} · step" in screen_text(app)


async def test_zoom_changes_the_steps_per_column():
    widget = heat_map()
    app = WidgetApp(widget)

    async with app.run_test(size=(80, 10)) as pilot:
        widget.focus()
        seen = []
        for key in ("minus", "minus", "plus", "equals_sign", "0"):
            await pilot.press(key)
            seen.append(screen_text(app).split("\n")[9])

        assert "2 steps per column" in seen[0]
        assert "5 steps per column" in seen[1]
        assert "2 steps per column" in seen[2]
        assert "1 step per column" in seen[3]
        assert "steps 0-" in seen[4]


async def test_enter_opens_the_worst_step_of_a_cell():
    widget = heat_map()
    app = WidgetApp(widget)

    async with app.run_test(size=(80, 10)) as pilot:
        widget.focus()
        await pilot.press("enter", "minus", "minus", "minus", "j", "j", "j", "enter")
        await pilot.pause()

        (told,) = app.told_of(HeatMap.CellSelected)
        assert (told.rank, told.start, told.until) == (2, 400, 410)
        assert told.step == 400
        await pilot.press("left", "enter")
        await pilot.pause()
        told = app.told_of(HeatMap.CellSelected)[-1]
        assert (told.start, told.step, told.until) == (390, 392, 400)


async def test_a_click_puts_the_cursor_and_two_open_the_cell():
    widget = heat_map()
    app = WidgetApp(widget)

    async with app.run_test(size=(80, 10)) as pilot:
        await pilot.click(widget, offset=(79, 3))
        assert widget.cursor == (2, 400)

        await pilot.click(widget, offset=(3, 3))
        await pilot.click(widget, offset=(50, 0))
        assert widget.cursor == (2, 400)

        await pilot.click(widget, offset=(78, 1), times=2)
        await pilot.pause()
        assert [m.step for m in app.told_of(HeatMap.CellSelected)] == [399]


async def test_only_new_columns_are_asked_for():
    model = Lateness()
    widget = heat_map(model)
    app = WidgetApp(widget)

    async with app.run_test(size=(80, 10)) as pilot:
        widget.action_fit()
        await pilot.pause()
        model.asked.clear()
        model.last = 403
        widget.changed(since=401)
        await pilot.pause()

        assert {start for _, start in model.asked} == {400}
        assert app.differing_lines() == []

        model.asked.clear()
        widget.changed()

        assert len({start for _, start in model.asked}) > 40


async def test_rows_beyond_the_screen_are_reached():
    widget = heat_map(Lateness(num_ranks=64))
    app = WidgetApp(widget)

    async with app.run_test(size=(60, 8)) as pilot:
        widget.focus()
        await pilot.press(*["j"] * 41)

        assert "rank 40 ·" in screen_text(app)
        assert screen_text(app).split("\n")[6].startswith("rank 40")


async def test_a_model_that_shrank_under_the_cursor_is_survived():
    widget = heat_map()
    app = WidgetApp(widget)

    async with app.run_test(size=(60, 8)) as pilot:
        widget.focus()
        await pilot.press(*["j"] * 8)
        widget.show(Lateness(num_ranks=2, last=20))
        await pilot.press("enter", "j")

        assert "rank 1" in screen_text(app)
        assert app.told_of(HeatMap.CellSelected) == []
