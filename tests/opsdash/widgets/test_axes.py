import math
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from opsdash.widgets.axes import StepAxis, ValueAxis, round_up, step_label

STEPS = st.integers(0, 10**9)
WIDTHS = st.integers(1, 300)
VALUES = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("value", "rounded"), [(1, 1), (1.1, 2), (3, 5), (6, 10), (99, 100), (0.03, 0.05)]
)
def test_rounding_up_goes_to_one_two_or_five(value, rounded):
    assert round_up(value) == pytest.approx(rounded)


@given(STEPS, STEPS, WIDTHS)
def test_every_step_has_a_column(one, other, num_columns):
    first, last = sorted((one, other))

    axis = StepAxis.over(first, last, num_columns)

    assert 0 <= axis.column(first) <= axis.column(last) < num_columns


@given(STEPS, STEPS, WIDTHS, st.integers(1, 10**6))
def test_a_window_holds_its_steps(one, other, num_columns, window):
    first, last = sorted((one, other))

    axis = StepAxis.over(first, last, num_columns, window)

    oldest = max(first, last - window)
    assume(num_columns >= 8)
    assert axis.column(oldest) >= 0
    assert axis.column(last) < num_columns


@given(STEPS, st.integers(1, 5000), WIDTHS, st.integers(0, 300))
def test_a_step_lies_between_the_edges_of_its_column(
    start, length, num_columns, column
):
    axis = StepAxis.over(start, start + length, num_columns)
    edge = axis.edge(column)

    for step in (edge, math.nextafter(edge, -math.inf), math.nextafter(edge, math.inf)):
        found = axis.column(step)
        assert axis.edge(found) <= step < axis.edge(found + 1)


@pytest.mark.parametrize("column", range(200))
def test_a_step_on_an_edge_belongs_to_the_column_that_begins_there(column):
    axis = StepAxis(0.0, 0.006, 200)

    edge = axis.edge(column)

    assert axis.column(edge) == column
    assert axis.column(math.nextafter(edge, -math.inf)) == column - 1


def test_growing_by_a_step_moves_no_column_until_the_chart_is_full():
    axes = {StepAxis.over(0, last, 200) for last in range(1700, 1990)}

    assert axes == {StepAxis(0, 10, 200)}


def test_a_window_stands_still_for_a_quarter_of_the_chart():
    axes = [StepAxis.over(0, last, 200, 1000) for last in range(5000, 6000)]

    moves = sum(a != b for a, b in pairwise(axes))
    assert moves <= 4
    assert len({axis.per_column for axis in axes}) == 1


@given(STEPS, STEPS, st.integers(8, 300), st.integers(4, 40))
def test_ticks_are_apart_and_on_round_steps(one, other, num_columns, apart):
    first, last = sorted((one, other))
    axis = StepAxis.over(first, last, num_columns)

    ticks = axis.ticks(apart)

    columns = [column for column, _ in ticks]
    assert all(b - a >= apart - 1 for a, b in pairwise(columns))
    assert all(0 <= column < num_columns for column in columns)


@pytest.mark.parametrize(
    ("step", "label"), [(0, "0"), (1200, "1,200"), (1_200_000, "1.2M"), (0.5, "0.5")]
)
def test_a_step_is_told_with_separators(step, label):
    assert step_label(step) == label


@given(VALUES, VALUES)
def test_every_value_lies_between_the_limits(one, other):
    low, high = sorted((one, other))

    axis = ValueAxis.around(low, high, log=False)

    assert math.isfinite(axis.bottom)
    assert axis.bottom < axis.top
    heights = [axis.fraction(value) for value in (low, high)]
    assert 0 <= heights[0] <= heights[1] <= 1
    assert axis.label(0.0)
    assert axis.label(1.0)


@given(VALUES, VALUES)
def test_a_logarithmic_axis_holds_every_positive_value(one, other):
    low, high = sorted((abs(one), abs(other)))

    axis = ValueAxis.around(low, high, log=True)

    assert 0 < axis.bottom < axis.top
    assert 0 <= axis.fraction(low) <= axis.fraction(high) <= 1
    assert axis.fraction(-1.0) == 0
    assert axis.label(0.5)


def test_limits_are_round_and_stay_while_values_move_between_them():
    limits = {
        ValueAxis.around(0.41 + shake, 2.47 - shake, log=False)[:2]
        for shake in (0, 0.01, 0.02)
    }

    assert limits == {(0.0, 2.5)}
    assert ValueAxis.around(0.003, 4.0, log=True)[:2] == (0.002, 5.0)


def test_a_constant_has_room_around_it():
    axis = ValueAxis.around(2.0, 2.0, log=False)

    assert axis.fraction(2.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.4, 2.5, ["0", "1.25", "2.5"]),
        (2.301, 2.309, ["2.301", "2.305", "2.309"]),
        (-3, 12, ["-4", "4", "12"]),
        (1e-7, 4e-7, ["1e-7", "2.5e-7", "4e-7"]),
        (0, 2_500_000, ["0", "1.25M", "2.5M"]),
    ],
)
def test_labels_have_the_digits_that_tell_them_apart(low, high, labels):
    axis = ValueAxis.around(low, high, log=False)

    assert [axis.label(fraction) for fraction in (0, 0.5, 1)] == labels


@given(VALUES, VALUES, st.floats(0, 1), st.booleans())
def test_a_label_fits_into_its_room(one, other, fraction, log):
    low, high = sorted((abs(one), abs(other)) if log else (one, other))
    axis = ValueAxis.around(low, high, log=log)

    assert len(axis.label(fraction, 5)) <= 5


def test_a_small_value_keeps_its_power_in_little_room():
    axis = ValueAxis.around(0.0, 0.00183, log=False)

    assert [axis.label(11 / 24, most) for most in (7, 5, 3)] == ["0.00092", "9e-4", ""]


def test_a_label_has_plain_digits_where_they_fit():
    axis = ValueAxis(bottom=0.045, top=0.055, step=0.005, is_log=False)

    assert axis.label(0.48, 5) == "0.05"


def test_a_constant_stands_in_the_middle_between_nothing_and_its_double():
    axis = ValueAxis.around(1e-3, 1e-3, log=False)

    assert [axis.label(one, 5) for one in (0.0, 0.5, 1.0)] == ["0", "0.001", "0.002"]
