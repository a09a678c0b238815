"""Who is in, who is missing, and for how long."""

import pytest

from agent.rundir import events as ev
from tests.runs import SECOND, RunWriter, Watcher


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run", world_size=3)
    writer.begin()
    return writer


def board(watcher):
    return watcher.run.board(watcher.clocks.mono_ns)


def arrive(writer, *ranks, name="checkpoint.save", index=0, **fields):
    for rank in ranks:
        writer.emit(rank, ev.BarrierArrived, name=name, index=index, **fields)


def test_who_is_in_and_who_is_missing(writer):
    arrive(writer, 0)
    writer.wait(3)
    arrive(writer, 2)
    for rank in range(3):
        writer.beat(rank, waiting_at=None)
        # A heartbeat that waits nowhere ends a wait; these two still wait.
    arrive(writer, 0, 2)

    (row,) = board(Watcher(writer.run))

    assert {w.rank for w in row.arrived} == {0, 2}
    assert row.missing == (1,)
    assert row.num_expected == 3


def test_the_wait_lasts_on_the_readers_clock(writer):
    arrive(writer, 0, limit_ns=10 * SECOND)
    watcher = Watcher(writer.run)
    watcher.clocks.wait(4)
    early = board(watcher)[0]
    watcher.clocks.wait(7)
    late = board(watcher)[0]

    assert early.waited_ns == pytest.approx(4 * SECOND, abs=SECOND)
    assert (early.is_hung, late.is_hung) == (False, True)


def test_a_release_ends_the_wait_of_that_rank_only(writer):
    arrive(writer, 0, 1)
    writer.emit(0, ev.BarrierReleased, name="checkpoint.save", index=0, wait_ns=5)

    (row,) = board(Watcher(writer.run))

    assert [w.rank for w in row.arrived] == [1]
    assert row.missing == (2,)


def test_a_wait_of_a_step_is_seen_through_heartbeats(writer):
    writer.beat(0, waiting_at="step.agree", waiting_index=7, waiting_age_ns=2 * SECOND)

    (row,) = board(Watcher(writer.run))

    assert (row.name, row.index, row.missing) == ("step.agree", 7, (1, 2))
    assert row.waited_ns >= 2 * SECOND


def rows(watcher):
    return {
        row.name: ({w.rank for w in row.arrived}, row.missing) for row in board(watcher)
    }


def test_who_waits_further_inside_still_waits_at_the_barrier_around(writer):
    arrive(writer, 0, 2, limit_ns=5 * SECOND)
    writer.beat(0, waiting_at="verdict", waiting_index=3, waiting_age_ns=SECOND)
    watcher = Watcher(writer.run)

    assert rows(watcher) == {
        "checkpoint.save": ({0, 2}, (1,)),
        "verdict": ({0}, (1, 2)),
    }
    [around] = [row for row in board(watcher) if row.name == "checkpoint.save"]
    assert around.limit_ns == 5 * SECOND


def test_a_wait_inside_that_is_over_leaves_the_barrier_around_it(writer):
    arrive(writer, 0, limit_ns=5 * SECOND)
    writer.beat(0, waiting_at="verdict", waiting_index=3, waiting_age_ns=SECOND)
    writer.beat(0, waiting_at="checkpoint.save", waiting_index=0, waiting_age_ns=1)
    arrive(writer, 1)
    arrive(writer, 1, name="inner")
    writer.emit(1, ev.BarrierReleased, name="inner", index=0, wait_ns=5)

    (row,) = board(Watcher(writer.run))

    assert {w.rank for w in row.arrived} == {0, 1}
    assert row.limit_ns == 5 * SECOND


def lasting(*names, limit_ns=None, index=0):
    """What a beat tells of waits inside each other, those of one second."""
    waits = tuple(ev.LastingWait(name, index, SECOND, limit_ns) for name in names)
    return {
        "waiting_at": names[-1],
        "waiting_index": index,
        "waiting_age_ns": SECOND,
        "waits": waits,
    }


def test_a_beat_tells_all_waits_that_it_stands_in(writer):
    writer.beat(0, **lasting("save", "verdict", limit_ns=5 * SECOND))
    watcher = Watcher(writer.run)

    assert rows(watcher) == {"save": ({0}, (1, 2)), "verdict": ({0}, (1, 2))}
    assert [row.limit_ns for row in board(watcher)] == [5 * SECOND] * 2


def test_a_barrier_that_goes_on_around_others_keeps_when_it_was_come_to(writer):
    arrive(writer, 0, name="save", limit_ns=9 * SECOND)
    for _ in range(3):
        writer.wait(2)
        writer.beat(0, **lasting("save", "verdict"))
    writer.beat(0, **lasting("save"))

    [row] = board(Watcher(writer.run))

    assert row.waited_ns >= 6 * SECOND
    assert row.limit_ns == 9 * SECOND


def test_a_beat_that_waits_elsewhere_ends_a_barrier_whose_release_was_lost(writer):
    arrive(writer, 0, name="lost")
    writer.beat(0, **lasting("lost"))
    writer.beat(0, **lasting("verdict"))

    assert rows(Watcher(writer.run)) == {"verdict": ({0}, (1, 2))}


def test_a_step_ends_a_barrier_whose_release_was_lost(writer):
    arrive(writer, 0, 1, name="lost")
    writer.emit(0, ev.StepDone, step=1)

    assert rows(Watcher(writer.run)) == {"lost": ({1}, (0, 2))}


def test_who_comes_again_has_left_before(writer):
    arrive(writer, 0)
    arrive(writer, 0, index=1)

    [row] = board(Watcher(writer.run))

    assert row.index == 1


def test_a_step_of_the_main_thread_leaves_what_beats_tell_of_another_thread(writer):
    arrive(writer, 0, limit_ns=5 * SECOND)
    writer.beat(0, **lasting("checkpoint.save"))
    writer.emit(0, ev.StepDone, step=1)

    [row] = board(Watcher(writer.run))

    assert (row.name, row.limit_ns) == ("checkpoint.save", 5 * SECOND)


def test_a_beat_that_comes_a_line_late_brings_no_barrier_back(writer):
    arrive(writer, 0)
    writer.emit(0, ev.BarrierReleased, name="checkpoint.save", index=0, wait_ns=5)
    writer.beat(0, **lasting("checkpoint.save"))

    assert board(Watcher(writer.run)) == []


def test_a_process_that_began_anew_counts_from_the_beginning(writer):
    arrive(writer, 0, index=7)
    writer.emit(0, ev.BarrierReleased, name="checkpoint.save", index=7, wait_ns=5)
    writer.emit(0, ev.RunStarted, **writer.started_fields())
    writer.beat(0, **lasting("checkpoint.save"))

    [row] = board(Watcher(writer.run))

    assert row.index == 0


def test_a_wait_that_a_beat_tells_twice_counts_once(writer):
    writer.beat(0, **lasting("save", "save"))

    [row] = board(Watcher(writer.run))

    assert len(row.arrived) == 1


def test_of_two_waits_that_only_beats_tell_of_the_first_is_over(writer):
    writer.beat(0, waiting_at="step.agree", waiting_index=7, waiting_age_ns=SECOND)
    writer.beat(0, waiting_at="step.loss", waiting_index=7, waiting_age_ns=SECOND)

    assert rows(Watcher(writer.run)) == {"step.loss": ({0}, (1, 2))}


def test_the_steps_line_ends_the_wait(writer):
    writer.beat(0, waiting_at="step.agree", waiting_index=7, waiting_age_ns=SECOND)
    writer.emit(0, ev.StepDone, step=1, waits=(ev.Wait("step.agree", 7, 1, 1),))

    assert board(Watcher(writer.run)) == []


def test_who_has_passed_is_not_missing(writer):
    writer.emit(1, ev.StepDone, step=9, waits=(ev.Wait("step.agree", 9, 1, 1),))
    writer.beat(0, waiting_at="step.agree", waiting_index=9, waiting_age_ns=SECOND)

    (row,) = board(Watcher(writer.run))

    assert row.missing == (2,)


def test_who_said_goodbye_is_expected_nowhere(writer):
    arrive(writer, 0)
    writer.emit(1, ev.RunEnded, reason="completed")

    (row,) = board(Watcher(writer.run))

    assert row.missing == (2,)


def test_a_new_attempt_clears_the_board(writer):
    arrive(writer, 0)
    writer.begin()

    assert board(Watcher(writer.run)) == []


def test_a_release_with_an_error_is_remembered(writer):
    arrive(writer, 1)
    writer.emit(
        1,
        ev.BarrierReleased,
        name="checkpoint.save",
        index=0,
        wait_ns=5,
        error="timed out",
    )

    failed = Watcher(writer.run).run.barriers.last_failed

    assert (failed.name, failed.rank, failed.error) == (
        "checkpoint.save",
        1,
        "timed out",
    )


def test_the_longest_wait_stands_first(writer):
    arrive(writer, 0, name="a")
    writer.wait(5)
    arrive(writer, 1, name="b")

    found = [row.name for row in board(Watcher(writer.run))]

    assert found == ["a", "b"]
