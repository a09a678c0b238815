import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsdash.glyphs import ASCII, UNICODE
from opsdash.widgets.axes import StepAxis
from opsdash.widgets.chart import Chart
from opsdash.widgets.plot import Plot
from opsdash.widgets.series import Mark, Series
from tests.screen_text import assert_screen, screen_text
from tests.widget_app import WidgetApp

VALUES = st.floats() | st.none()


def falling(num_points=400, name="train", broken=()):
    """A loss that falls with a ripple; not finite at the steps in `broken`."""
    series = Series(name)
    for step in range(num_points):
        ripple = 0.2 * math.sin(step * 2.3) * math.cos(step / 31)
        loss = 2.4 * math.exp(-step / 120) + 0.5 + ripple
        series.append(step, None if step in broken else loss)
    return series


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("80x16", (80, 16), {}),
        ("20x5", (20, 5), {}),
        ("ascii-60x14", (60, 14), {"ascii_only": True}),
        ("8x3", (8, 3), {}),
    ],
)
async def test_a_chart_at_every_size(name, size, options):
    chart = Chart(falling(broken={250, 251}), title="loss")
    app = WidgetApp(chart, **options)

    async with app.run_test(size=size) as pilot:
        await pilot.pause()

        assert_screen(app, f"widgets/chart-{name}")


async def test_several_series_have_heads_and_marks():
    validation = Series("val")
    validation.extend((step, 2.0 - step / 300) for step in range(0, 400, 40))
    chart = Chart(falling(), validation, title="loss")
    app = WidgetApp(chart)

    async with app.run_test(size=(80, 14)) as pilot:
        chart.show_marks([Mark(120, "r", "resumed"), Mark(310, "x", "optimizer reset")])
        await pilot.pause()

        assert_screen(app, "widgets/chart-two-series")


async def test_a_chart_without_values_says_so():
    empty, broken = Series("loss"), Series("loss")
    broken.extend([(1, None), (2, math.nan)])
    app = WidgetApp(Chart(empty, title="loss"), Chart(broken, title="grad norm"))

    async with app.run_test(size=(40, 12)) as pilot:
        await pilot.pause()

        text = screen_text(app)
        assert "no values yet" in text
        assert "no finite value yet" in text
        assert "grad norm nan" in text


async def test_the_cursor_goes_from_point_to_point_and_is_told():
    series = Series("loss")
    series.extend([(10, 1.0), (500, 2.0), (900, 3.0)])
    chart = Chart(series, title="loss")
    app = WidgetApp(chart)

    async with app.run_test(size=(60, 10)) as pilot:
        chart.focus()
        visited = []
        for key in ("left", "left", "h", "h", "right", "l", "home", "end", "g", "G"):
            await pilot.press(key)
            visited.append(chart.cursor_x)

        assert visited == [900, 500, 10, 10, 500, 900, 10, 900, 10, 900]
        told = [message.x for message in app.told_of(Chart.CursorMoved)]
        assert told == [900, 500, 10, 500, 900, 10, 900, 10, 900]
        assert "loss 3 at 900" in screen_text(app)

        await pilot.press("escape")

        assert chart.cursor_x is None
        assert app.told_of(Chart.CursorMoved)[-1].x is None


async def test_big_strides_of_the_cursor():
    chart = Chart(falling(), title="loss")
    app = WidgetApp(chart)

    async with app.run_test(size=(107, 10)) as pilot:
        chart.focus()
        await pilot.press("end", "shift+left")
        back = 399 - chart.cursor_x
        await pilot.press("shift+right")

        assert 30 < back < 60
        assert chart.cursor_x > 399 - back


async def test_a_cursor_that_is_set_from_outside_is_shown_and_not_told():
    chart = Chart(falling(), title="loss")
    app = WidgetApp(chart)

    async with app.run_test(size=(60, 10)) as pilot:
        chart.show_marks([Mark(100, "r", "resumed")])
        chart.cursor_x = 100
        await pilot.pause()

        assert "at 100 resumed" in screen_text(app)
        assert "│" in screen_text(app)
        assert app.told_of(Chart.CursorMoved) == []


async def test_a_click_inspects_the_step_under_the_mouse():
    chart = Chart(falling(), title="loss")
    app = WidgetApp(chart)

    async with app.run_test(size=(80, 10)) as pilot:
        await pilot.click(chart, offset=(40, 4))

        assert 150 < chart.cursor_x < 260

        await pilot.click(chart, offset=(2, 4))

        assert 150 < chart.cursor_x < 260


async def test_y_switches_to_logarithmic_heights_and_back():
    series = Series("lr")
    series.extend((step, 10 ** (-step / 100)) for step in range(400))
    chart = Chart(series, title="lr")
    app = WidgetApp(chart)

    async with app.run_test(size=(60, 12)) as pilot:
        chart.focus()
        await pilot.pause()
        linear = screen_text(app)
        await pilot.press("y")

        assert_screen(app, "widgets/chart-log")

        await pilot.press("y")
        assert screen_text(app) == linear


async def test_what_is_not_positive_lies_below_a_logarithmic_chart():
    series = Series("lr")
    series.extend([(0, 0.0), (1, 0.01), (2, -5.0), (3, 1.0)])
    chart = Chart(series, title="lr")
    app = WidgetApp(chart)

    async with app.run_test(size=(40, 10)) as pilot:
        chart.log_y = True
        await pilot.pause()

        labels = [line[:6].strip() for line in screen_text(app).split("\n")[1:8]]
        assert (labels[0], labels[-1]) == ("1", "0.01")


async def test_a_window_keeps_to_the_last_steps():
    chart = Chart(falling(2000), title="loss", window=200)
    app = WidgetApp(chart)

    async with app.run_test(size=(80, 10)) as pilot:
        await pilot.pause()

        ticks = screen_text(app).split("\n")[9].split()
        assert all(int(tick.replace(",", "")) >= 1700 for tick in ticks)


async def test_names_from_disk_are_data():
    series = Series("[red]\x1b[31mgroup\u202e")
    series.append(1, 2.0)
    other = Series("plain")
    other.append(1, 2.0)
    app = WidgetApp(Chart(series, other, title="lr"))

    async with app.run_test(size=(80, 8)) as pilot:
        await pilot.pause()

        assert r"[red]\x1b[31mgroup\u202e 2" in screen_text(app)


async def test_it_is_ascii_where_it_must_be():
    chart = Chart(falling(broken={100}), falling(300, "val"), title="loss")
    app = WidgetApp(chart, ascii_only=True)

    async with app.run_test(size=(60, 12)) as pilot:
        chart.show_marks([Mark(120, "r", "resumed")])
        chart.focus()
        await pilot.press("left", "y")

        assert screen_text(app).isascii()


async def test_finished_columns_stand_still_while_points_are_added():
    series = falling(262)
    chart = Chart(series, title="loss")
    app = WidgetApp(chart)

    async with app.run_test(size=(107, 12)) as pilot:
        await pilot.pause()
        before = screen_text(app).split("\n")[1:10]
        for step in range(262, 280):
            series.append(step, 0.5)
        chart.changed()
        await pilot.pause()
        after = screen_text(app).split("\n")[1:10]

        assert before != after
        # 100 cells of 3 steps each: nothing left of the newest point has moved.
        newest = 7 + 261 // 3
        assert [line[:newest] for line in before] == [line[:newest] for line in after]


async def test_a_rollback_is_drawn_anew():
    series = falling(400)
    chart = Chart(series, title="loss")
    app = WidgetApp(chart)

    async with app.run_test(size=(60, 10)) as pilot:
        await pilot.pause()
        series.cut(100)
        chart.changed()
        await pilot.pause()

        assert app.differing_lines() == []
        assert "300" not in screen_text(app).split("\n")[9]


async def test_another_set_of_series_can_be_shown():
    chart = Chart(falling(), title="loss")
    app = WidgetApp(chart)

    async with app.run_test(size=(60, 10)) as pilot:
        chart.show(falling(50, "one"), falling(80, "two"))
        await pilot.pause()

        assert "one" in screen_text(app)
        assert "two" in screen_text(app)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 10**9), VALUES), max_size=60),
    st.integers(1, 60),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from([UNICODE, ASCII]),
)
def test_any_values_can_be_drawn_at_any_size(points, width, height, log, glyphs):
    series = Series("x")
    series.extend(points)
    first, last = series.span or (0, 0)
    columns = width if glyphs.ascii_only else 2 * width
    plot = Plot(
        series=(series, series),
        steps=StepAxis.over(first, last, columns),
        width=width,
        height=height,
        log=log,
        glyphs=glyphs,
        marks=(Mark(first, "r"),),
        cursor_x=last,
    )

    sums = plot.columns()
    axis = plot.value_axis(sums)

    if axis is None:
        assert not any(y is not None and math.isfinite(y) for _, y in points)
        return
    rows = plot.rows(sums, axis)
    assert len(rows) == height
    assert all(sum(len(span.text) for span in row) == width for row in rows)


def test_points_that_lie_far_apart_are_drawn_where_they_are():
    drop = Series("loss")
    drop.extend([(0, 1.0), (50, 0.0), (99, 0.0)])
    plot = Plot(
        series=(drop,),
        steps=StepAxis.over(0, 99, 100),
        width=50,
        height=10,
        log=False,
        glyphs=UNICODE,
    )
    columns = plot.columns()

    rows = plot.rows(columns, plot.value_axis(columns))

    tones = [{span.tone for span in row if span.text.strip()} for row in rows]
    # Only the line: nothing is left of the band that it does not cover.
    assert tones[-1] == {"series-1"}


@pytest.mark.parametrize(("smoothing", "is_exact"), [(1.0, True), (0.3, False)])
def test_values_that_are_set_are_drawn_where_they_are(smoothing, is_exact):
    rate = Series("lr")
    rate.extend((step, float(step >= 50)) for step in range(100))
    plot = Plot(
        series=(rate,),
        steps=StepAxis.over(0, 99, 100),
        width=50,
        height=10,
        log=False,
        glyphs=UNICODE,
        smoothing=smoothing,
    )
    columns = plot.columns()

    rows = plot.rows(columns, plot.value_axis(columns))

    band = {span.text for row in rows for span in row if span.tone == "band"}
    assert all(not text.strip() for text in band) is is_exact
