"""Who is late, what it costs, and when it is said."""

import random

import msgspec
import pytest

from agent.rundir import events as ev
from agent.rundir.process import this_process
from tests.runs import RunWriter, Watcher

MS = 10**6


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run", world_size=3)
    writer.begin()
    return writer


def test_the_last_to_arrive_is_named_within_twenty_steps(writer):
    writer.steps(1, 50)
    watcher = Watcher(writer.run)
    before = watcher.run.lateness.straggler()
    writer.steps(51, 70, late={2: 26 * MS})

    late = watcher.read().lateness.straggler()

    assert before is None
    assert (late.rank, late.is_persistent, late.is_costly) == (2, True, True)
    assert 51 <= late.since_step <= 70
    assert late.lost_frac == pytest.approx(0.26, abs=0.01)


def test_when_it_is_over_nobody_is_named(writer):
    writer.steps(1, 40, late={2: 26 * MS})
    writer.steps(41, 100)

    late = Watcher(writer.run).run.lateness.straggler()

    assert late is None or not (late.is_persistent or late.is_costly)


def test_ever_another_rank_is_nobody_in_particular(writer):
    for step in range(1, 61):
        writer.steps(step, step, late={step % 3: 30 * MS})

    late = Watcher(writer.run).run.lateness.straggler()

    assert not late.is_persistent
    assert not late.is_costly
    assert late.is_rotating
    assert late.total_lost_frac > 0.2


def test_blame_is_in_time_and_in_rank_seconds(writer):
    writer.steps(1, 30, late={1: 10 * MS})

    blame = Watcher(writer.run).run.lateness.blame()

    assert blame[0].rank == 1
    assert blame[0].lost_ns == 30 * 10 * MS
    assert blame[0].lost_rank_ns == 2 * 30 * 10 * MS
    assert blame[0].num_last == 30
    assert blame[0].worst_ns == 10 * MS
    assert blame[0].lost_frac == pytest.approx(0.1)


def test_the_map_holds_each_ranks_lateness(writer):
    writer.steps(1, 5, late={1: 10 * MS})

    heat = Watcher(writer.run).run.lateness.heat.window(5)

    assert heat.first_step == 1
    assert heat.cells[1] == (10.0 * MS,) * 5
    assert heat.cells[0] == (0.0,) * 5


def test_clocks_of_hosts_that_differ_by_seconds_do_not_matter(tmp_path):
    here = this_process()
    writer = RunWriter(tmp_path / "run", world_size=2)
    writer.begin(started=False)
    for rank in range(2):
        host = msgspec.structs.replace(here, host=f"node-{rank}")
        writer.process = host
        writer.emit(rank, ev.RunStarted, **writer.started_fields())
    offset, noise = 5 * 10**9, random.Random(1)
    for step in range(1, 200):
        writer.wait(0.1)
        released = writer.mono_ns
        for rank, late in ((0, 0), (1, 20 * MS)):
            woke = released + noise.randrange(0, 2 * MS)
            arrived = released - 20 * MS + late
            wait = ev.Wait("b", step, arrived + rank * offset, woke - arrived)
            writer.emit(rank, ev.StepDone, step=step, step_ns=10**8, waits=(wait,))

    run = Watcher(writer.run).run
    heat = run.lateness.heat.window(50)

    assert run.lateness.straggler().rank == 1
    assert all(abs(cell - 20 * MS) < 2 * MS for cell in heat.cells[1])


def test_what_the_agent_named_from_collectives_is_taken_over(writer):
    writer.steps(1, 40)
    writer.emit(
        0,
        ev.StragglerNamed,
        straggler=2,
        lost_frac=0.3,
        is_persistent=True,
        since_step=30,
    )
    watcher = Watcher(writer.run)
    named = watcher.run.lateness.straggler()
    writer.emit(
        0,
        ev.StragglerNamed,
        straggler=None,
        lost_frac=0.0,
        is_persistent=False,
        since_step=40,
    )

    cleared = watcher.read().lateness.straggler()

    assert (named.rank, named.is_costly, named.since_step) == (2, True, 30)
    assert cleared is None


def test_one_rank_alone_is_never_late(tmp_path):
    writer = RunWriter(tmp_path / "run", world_size=1)
    writer.begin()
    writer.steps(1, 30)

    assert Watcher(writer.run).run.lateness.straggler() is None


def test_a_second_attempt_begins_its_accounts_anew(writer):
    writer.steps(1, 30, late={2: 26 * MS})
    writer.begin()
    writer.steps(11, 20, late={0: 5 * MS})

    lateness = Watcher(writer.run).run.lateness

    assert [row.rank for row in lateness.blame() if row.num_last] == [0]
    assert lateness.heat.last_step == 20


def test_a_clock_that_lies_is_bounded_by_the_longest_wait(writer):
    writer.steps(1, 10)
    for rank in range(3):
        arrived = 2**55 if rank == 1 else 10**12
        wait = ev.Wait("step.agree", 11, arrived, 3 * MS)
        writer.emit(rank, ev.StepDone, step=11, step_ns=10**8, waits=(wait,))

    blame = Watcher(writer.run).run.lateness.blame()

    assert max(row.worst_ns for row in blame) <= 3 * MS
