import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsdash.glyphs import ASCII, UNICODE
from opsdash.units import number
from opsdash.widgets.heat_view import HeatView, NoHeat, first_row, heat_legend, tone_of

SPANS = st.tuples(st.integers(0, 10**7), st.integers(0, 10**6)).map(
    lambda pair: (pair[0], pair[0] + pair[1])
)
COLUMNS = st.integers(1, 300)


@given(SPANS, COLUMNS, st.integers(0, 12))
def test_the_newest_step_is_in_sight_and_columns_begin_at_multiples(
    span, columns, zoom
):
    view = HeatView(zoom=zoom)

    view.resize(columns, span)
    view.follow(span)

    assert view.start <= span[1] < view.stop
    assert view.start % view.per_column == 0


@given(SPANS, COLUMNS)
def test_everything_can_be_seen_at_once(span, columns):
    view = HeatView()
    view.resize(columns, span)

    view.fit(span)

    assert view.start <= span[0]
    if view.zoom < len(view.zooms) - 1:
        assert span[1] < view.stop


@given(SPANS, st.integers(10, 300), st.integers(0, 10**7))
def test_a_step_that_is_revealed_is_in_sight(span, columns, step):
    view = HeatView()
    view.resize(columns, span)

    view.reveal(step)

    assert view.start <= step < view.stop


def test_columns_stand_still_until_the_view_is_full():
    view = HeatView()
    view.resize(100, (0, 10))
    starts = set()
    for last in range(10, 200):
        view.follow((0, last))
        starts.add(view.start)

    assert starts == {0, 26, 52, 78, 104}


def test_zooming_keeps_a_step_in_its_place():
    view = HeatView(zoom=3)
    view.resize(100, (0, 5000))
    before = (4800 - view.start) // view.per_column

    view.set_zoom(1, 4800)

    assert view.per_column == 2
    assert (4800 - view.start) // view.per_column == before
    view.set_zoom(-5, 4800)
    assert view.per_column == 1
    view.set_zoom(99, 4800)
    assert view.zoom == len(view.zooms) - 1


def test_an_owner_with_other_zooms_is_asked_for_those():
    view = HeatView(zooms=(1, 8, 64))
    view.resize(10, (0, 500))

    view.fit((0, 500))

    assert view.per_column == 64


@pytest.mark.parametrize(
    ("top", "cursor", "first"),
    [(0, None, 0), (50, None, 12), (0, 7, 0), (0, 9, 2), (5, 3, 3), (0, 99, 12)],
)
def test_the_row_of_the_cursor_is_in_sight(top, cursor, first):
    assert first_row(top, rows=8, num_ranks=20, cursor=cursor) == first


def test_the_legend_says_from_which_value_on_a_density_stands():
    line = heat_legend("late", (1, 2, 3, 4, 5), number, ASCII, 80)

    text = "".join(span.text for span in line)
    assert text == "late  . 1  : 2  = 3  % 4  # 5  - no data"
    assert [tone_of(level) for level in (None, 0, 3, 4)] == [
        "dim",
        "cool",
        "cool",
        "hot",
    ]
    assert heat_legend("", (1,), number, UNICODE, 2)[-1].text.endswith("…")


def test_no_model_has_no_ranks():
    assert NoHeat().peak(0, 0, 9) is None
    assert NoHeat().label(3) == "rank 3"
