import pytest

from agent.probes.activity import Activity


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 10**9

    monkeypatch.setattr("time.monotonic_ns", lambda: Clock.now)
    return Clock


def steps(activity, clock, num, step_ns):
    for _ in range(num):
        clock.now += step_ns
        activity.stepped()


def test_too_few_steps_have_no_pace(clock):
    activity = Activity()

    steps(activity, clock, 10, 100)

    assert activity.step_ns() is None
    assert not activity.has_changed_pace()


@pytest.mark.parametrize(("step_ns", "has_changed"), [(100, 0), (120, 1), (80, 1)])
def test_a_pace_that_changes_is_noticed_within_eight_steps(clock, step_ns, has_changed):
    activity = Activity()
    steps(activity, clock, 100, 100)

    steps(activity, clock, 8, step_ns)

    assert activity.has_changed_pace() == bool(has_changed)
    assert activity.step_ns() == 100


def test_steps_that_vary_by_themselves_have_not_changed(clock):
    activity = Activity()
    for num in range(100):
        steps(activity, clock, 1, 60 + 80 * (num % 2))

    steps(activity, clock, 8, 120)

    assert not activity.has_changed_pace()


def test_the_new_pace_becomes_the_usual_one(clock):
    activity = Activity()
    steps(activity, clock, 100, 100)

    steps(activity, clock, 200, 150)

    assert not activity.has_changed_pace()


def test_what_lies_between_two_phases_is_no_step(clock):
    activity = Activity()
    first = activity.stepped()
    clock.now += 100
    second = activity.stepped()

    activity.enter("saving", None)
    clock.now += 10**12
    activity.enter("training", None)

    assert (first, second, activity.stepped()) == (None, 100, None)
    assert activity.num_steps == 3


def test_who_takes_steps_without_a_word_about_phases_trains(clock):
    activity = Activity()

    steps(activity, clock, 2, 100)

    assert activity.phase.name == "training"
    assert activity.num_steps == 2
    activity.enter("evaluating", None)
    assert activity.stepped() is None
    assert activity.phase.name == "evaluating"
