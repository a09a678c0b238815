from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from opsdash.widgets.canvas import NOBODY, Layer, Reach, joined
from opsdash.widgets.spans import Span


def point(dot):
    return Reach(dot, dot, dot)


def picture(layer):
    return [
        "".join(c for c, _ in layer.cells(row, "*+")) for row in range(layer.height)
    ]


def test_braille_has_two_columns_and_four_dots_per_cell():
    layer = Layer(1, 1, ascii_only=False)

    layer.fill(0, 0, 0, owner=0)
    layer.fill(1, 3, 3, owner=0)

    assert (layer.num_columns, layer.num_dots) == (2, 4)
    assert picture(layer) == ["⡈"]


def test_ascii_has_a_character_per_cell_and_owner():
    layer = Layer(3, 2, ascii_only=True)

    layer.fill(0, 0, 1, owner=0)
    layer.fill(2, 1, 1, owner=1)

    assert picture(layer) == ["* +", "*  "]


def test_a_curve_is_joined_over_columns_without_points():
    layer = Layer(5, 5, ascii_only=True)

    last = layer.trace([point(0), None, None, None, point(4)], set(), owner=0)

    assert last == 4
    assert picture(layer) == ["    *", "   * ", "  *  ", " *   ", "*    "]


def test_a_steep_step_leaves_no_hole():
    layer = Layer(2, 4, ascii_only=True)

    layer.trace([point(0), point(3)], set(), owner=0)

    assert picture(layer) == [" *", " *", " *", "* "]


def test_a_curve_ends_at_a_break_and_begins_anew():
    layer = Layer(5, 1, ascii_only=True)

    layer.trace([point(0), None, None, None, point(0)], {2}, owner=0)

    assert picture(layer) == ["*   *"]


def test_what_lies_outside_is_not_drawn():
    layer = Layer(1, 1, ascii_only=True)

    layer.fill(0, -5, 99, owner=0)

    assert picture(layer) == ["*"]


def test_the_last_owner_of_a_cell_counts():
    layer = Layer(1, 1, ascii_only=False)

    layer.fill(0, 0, 0, owner=0)
    layer.fill(1, 3, 3, owner=1)

    assert list(layer.cells(0, "")) == [("⡈", 1)]
    assert list(Layer(1, 1, ascii_only=False).cells(0, "")) == [(" ", NOBODY)]


@given(st.lists(st.none() | st.integers(0, 31), min_size=2, max_size=60))
def test_a_curve_without_breaks_is_connected(dots):
    reaches = [None if dot is None else point(dot) for dot in dots]
    layer = Layer(len(dots), 32, ascii_only=True)

    layer.trace(reaches, set(), owner=0)

    rows = picture(layer)
    columns = [
        [31 - y for y, row in enumerate(rows) if row[x] != " "]
        for x in range(len(dots))
    ]
    drawn = [i for i, dot in enumerate(dots) if dot is not None]
    inside = columns[drawn[0] : drawn[-1] + 1] if drawn else []
    for before, after in pairwise(inside):
        assert any(abs(a - b) <= 1 for a in before for b in after)


def test_cells_of_equal_tone_are_joined_and_a_blank_takes_the_tone_before_it():
    cells = [("a", "bad"), (" ", ""), ("b", "bad"), ("c", ""), (" ", "dim")]

    assert joined(cells) == (Span("a b", "bad"), Span("c ", ""))


def test_a_blank_under_the_cursor_is_not_joined_away():
    cells = [("a", ""), (" ", "cursor"), (" ", ""), ("b", "")]

    assert joined(cells) == (Span("a", ""), Span(" ", "cursor"), Span(" b", ""))
