"""Numbers by attempt and step."""

import math

from hypothesis import given
from hypothesis import strategies as st

from opsdash.projections import series as module
from opsdash.projections.series import MAX_POINTS, Curves, Series

starts = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 40)), min_size=1, max_size=6
)


def test_a_later_attempt_supersedes_what_lies_above_its_start():
    curves = Curves()
    for step in range(1, 11):
        curves.append(1, "loss", step, 100.0 + step)
    for step in range(6, 9):
        curves.append(2, "loss", step, 200.0 + step)

    curve = curves.curve("loss")

    assert curve.points() == [
        *((step, 100.0 + step) for step in range(1, 6)),
        *((step, 200.0 + step) for step in range(6, 9)),
    ]
    assert [s.points() for s in curve.superseded] == [
        [(step, 100.0 + step) for step in range(6, 11)]
    ]


def test_a_resume_that_did_no_step_yet_already_gives_up_the_branch():
    curves = Curves()
    for step in range(1, 11):
        curves.append(1, "loss", step, 1.0)

    curves.begin(2, 4)

    assert curves.curve("loss").points()[-1][0] == 4


def test_steps_that_do_not_rise_are_refused():
    series = Series()

    taken = [series.append(step, 1.0) for step in (3, 3, 2, 4)]

    assert taken == [True, False, False, True]
    assert list(series.steps) == [3, 4]


def test_a_number_that_is_not_finite_is_kept_as_a_gap():
    series = Series()

    series.append(1, None)

    assert math.isnan(series.values[0])


@given(starts)
def test_the_joined_history_rises_and_takes_the_highest_attempt(attempts):
    curves, wanted = Curves(), {}
    for attempt, (base, num_steps) in enumerate(attempts, start=1):
        curves.begin(attempt, base)
        wanted = {step: a for step, a in wanted.items() if step <= base}
        for step in range(base + 1, base + 1 + num_steps):
            curves.append(attempt, "loss", step, float(attempt))
            wanted[step] = attempt

    points = curves.curve("loss").points()

    assert points == [(step, float(wanted[step])) for step in sorted(wanted)]


@given(starts)
def test_no_point_is_lost_between_joined_and_superseded(attempts):
    curves, num = Curves(), 0
    for attempt, (base, num_steps) in enumerate(attempts, start=1):
        curves.begin(attempt, base)
        for step in range(base + 1, base + 1 + num_steps):
            num += curves.append(attempt, "loss", step, 1.0)

    curve = curves.curve("loss")
    found = [len(s.points()) for s in (*curve.joined, *curve.superseded)]

    assert sum(found) == num


def test_memory_is_bounded_and_peaks_survive(monkeypatch):
    monkeypatch.setattr(module, "MAX_POINTS", 1_000)
    series = Series()

    for step in range(100_000):
        series.append(step, 50.0 if step == 1_234 else float(step % 7))

    assert len(series.steps) <= 1_000
    assert max(series.values) == 50.0
    assert list(series.steps) == sorted(set(series.steps))
    assert series.steps[-1] == 99_999
    assert series.num_thinnings > 0
    assert MAX_POINTS > 1_000


def test_thinning_keeps_gaps_and_finite_extremes_apart(monkeypatch):
    monkeypatch.setattr(module, "MAX_POINTS", 16)
    series = Series()

    for step in range(17):
        series.append(step, None if step % 2 else float(step))

    assert not math.isnan(series.values[0])
    assert list(series.steps) == sorted(series.steps)


def test_the_newest_points_reach_back_over_attempts():
    curves = Curves()
    for step in range(1, 6):
        curves.append(1, "loss", step, 1.0)
    curves.append(2, "loss", 4, 2.0)

    newest = curves.curve("loss").newest(3)

    assert newest == [(2, 1.0), (3, 1.0), (4, 2.0)]
    assert curves.curve("loss").last() == (4, 2.0)


def test_implausible_steps_and_too_many_names_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_MAX_SERIES", 2)
    curves = Curves()

    taken = [
        curves.append(1, name, step, 1.0)
        for name, step in [("a", 10**30), ("a", -1), ("a", 1), ("b", 1), ("c", 1)]
    ]

    assert taken == [False, False, True, True, False]


def test_a_rollback_within_an_attempt_gives_up_its_own_points_and_goes_on():
    curves = Curves()
    for step in range(1, 11):
        curves.append(1, "loss", step, float(step))

    curves.begin(1, 4)
    for step in range(5, 8):
        curves.append(1, "loss", step, float(100 + step))

    curve = curves.curve("loss")
    assert curve.points() == [
        *((step, float(step)) for step in range(1, 5)),
        *((step, float(100 + step)) for step in range(5, 8)),
    ]
    [given_up] = curve.superseded
    assert given_up.points() == [(step, float(step)) for step in range(5, 11)]


def test_a_rollback_does_not_bring_back_what_an_earlier_attempt_gave_up():
    curves = Curves()
    for step in range(1, 11):
        curves.append(1, "loss", step, 1.0)
    curves.begin(2, 6)
    for step in range(7, 13):
        curves.append(2, "loss", step, 2.0)

    curves.begin(2, 9)

    assert [v for _, v in curves.curve("loss").points()] == [1.0] * 6 + [2.0] * 3
