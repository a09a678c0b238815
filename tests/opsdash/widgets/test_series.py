import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsdash.widgets.series import Series

STEPS = st.integers(0, 400)
VALUES = st.floats(-1e300, 1e300) | st.sampled_from(
    [math.nan, math.inf, -math.inf, None]
)
FEW = st.lists(st.tuples(STEPS, VALUES), max_size=40)


def many(seed):
    """Enough points for three levels of blocks, most of them in order."""
    source = random.Random(seed)
    points = [
        (step // 16, source.gauss(0, 1) if source.random() < 0.99 else None)
        for step in range(source.randrange(6000))
    ]
    late = [(source.randrange(400), source.gauss(0, 9)) for _ in range(5)]
    return [*points, *late, *points[:7]]


POINTS = FEW | st.integers(0, 10**6).map(many)


def series_of(points):
    series = Series("loss")
    series.extend(points[:-12])
    series.extend(points[-12:])  # what comes late comes after blocks were built
    return series


def finite(points, start=-math.inf, stop=math.inf):
    kept = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    return [y for x, y in sorted(kept, key=lambda p: p[0]) if start <= x < stop]


@given(POINTS, STEPS, STEPS)
def test_a_summary_is_that_of_the_points_in_the_window(points, one, other):
    start, stop = sorted((one, other))
    series = series_of(points)

    summary = series.summary(start, stop)

    expected = finite(points, start, stop)
    if not expected:
        assert summary is None
        return
    assert (summary.low, summary.high) == (min(expected), max(expected))
    assert summary.last == expected[-1]
    # Totals of huge values cancel differently in blocks; the mean stays inside.
    largest = max(map(abs, expected))
    mean = math.fsum(y / len(expected) for y in expected)
    assert summary.low <= summary.mean <= summary.high
    assert summary.mean == pytest.approx(mean, abs=largest * 1e-9, rel=1e-9)


@given(FEW)
def test_one_point_at_a_time_is_the_same_as_all_at_once(points):
    grown = Series("loss")
    for x, y in points:
        grown.append(x, y)

    assert all(
        grown.summary(start, start + 50) == series_of(points).summary(start, start + 50)
        for start in range(0, 400, 50)
    )


@given(POINTS, STEPS)
def test_a_rollback_leaves_what_was_before_it(points, step):
    series = series_of(points)

    series.cut(step)

    before = series_of([(x, y) for x, y in points if x < step])
    assert len(series) == len(before)
    assert series.span == before.span
    assert series.summary(-1, 500) == before.summary(-1, 500)
    for one in (series, before):
        one.extend((500 + x, x) for x in range(600))
    assert series.summary(-1, 1200) == before.summary(-1, 1200)


@given(POINTS, STEPS)
def test_the_next_value_that_is_not_finite_is_found(points, start):
    found = series_of(points).next_nonfinite(start)

    assert found == min(
        (x for x, y in points if x >= start and (y is None or not math.isfinite(y))),
        default=None,
    )


@given(POINTS, STEPS)
def test_the_steps_around_a_step_are_found(points, step):
    series = series_of(points)

    steps = [x for x, _ in points]
    assert series.step_before(step) == max((x for x in steps if x < step), default=None)
    assert series.step_from(step) == min((x for x in steps if x >= step), default=None)


def test_the_value_at_a_step_is_the_newest_one_before_it():
    series = series_of([(10, 1.0), (20, 2.0), (30, None)])

    assert series.at(9) is None
    assert series.at(10) == 1.0
    assert series.at(25) == 2.0
    assert math.isnan(series.at(99))
    assert math.isnan(series.latest)


def test_an_empty_series_has_no_span_and_no_value():
    series = Series("loss")

    assert len(series) == 0
    assert series.span is None
    assert series.latest is None
    assert series.summary(0, 10) is None


def test_totals_beyond_a_double_do_not_leave_the_range_of_the_values():
    series = series_of([(x, 1.7e308) for x in range(40)])

    assert series.summary(0, 40).mean == 1.7e308
