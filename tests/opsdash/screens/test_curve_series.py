"""A drawn series follows a curve that grows, is thinned, or takes another's place."""

from opsdash.projections.series import Curves
from opsdash.screens.curve_series import CurveSeries


def filled(*points, attempt=1):
    curves = Curves()
    for step, value in points:
        curves.append(attempt, "loss", step, value)
    return curves


def drawn(series):
    return [
        (x, series.at(x)) for x in map(float, range(200)) if series.step_from(x) == x
    ]


def test_only_what_is_new_is_taken_over():
    curves = filled((1, 1.0), (2, 2.0))
    follower = CurveSeries("loss")
    first = follower.follow(curves.curve("loss"))
    curves.append(1, "loss", 3, 3.0)

    second = follower.follow(curves.curve("loss"))

    assert second is first
    assert drawn(second) == [(1, 1), (2, 2), (3, 3)]


def test_a_resume_from_further_back_starts_over():
    curves = filled((1, 1.0), (2, 2.0), (3, 3.0))
    follower = CurveSeries("loss")
    follower.follow(curves.curve("loss"))
    curves.begin(2, 1)
    curves.append(2, "loss", 2, 20.0)

    series = follower.follow(curves.curve("loss"))

    assert drawn(series) == [(1, 1), (2, 20)]


def test_a_curve_that_takes_another_s_place_is_drawn_whole():
    preview = filled((8, 8.0), (9, 9.0))
    follower = CurveSeries("loss")
    follower.follow(preview.curve("loss"))
    whole = filled(*((step, float(step)) for step in range(1, 11)))

    series = follower.follow(whole.curve("loss"))

    assert drawn(series) == [(step, step) for step in range(1, 11)]
