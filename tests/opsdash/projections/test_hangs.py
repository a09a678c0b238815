"""Collectives that hang with no barrier around them: who is in, who is missing."""

import pytest

from agent.rundir import events as ev
from opsdash.projections.run_state import State
from opsdash.reports.barriers import make_barriers, render_barriers
from tests.runs import SECOND, RunWriter, Watcher

_GROUP = "0 default_pg"
_NAME = f"gloo:all_reduce 70 of group {_GROUP}"


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run", world_size=4)
    writer.begin()
    writer.steps(1, 5)
    return writer


def stand_still(writer, *ranks, seconds=1, progress=7):
    """Ranks that beat on over a main thread that stands still."""
    for _ in range(seconds):
        writer.wait(1)
        writer.beat(*ranks, progress=progress, step=5)


def name_hang(writer, rank=0, missing=(1,), **fields):
    told = {
        "barrier": _NAME,
        "missing": missing,
        "waited_ns": 60 * SECOND,
        "index": 70,
        "group": _GROUP,
        "limit_ns": 60 * SECOND,
    }
    writer.emit(rank, ev.HangNamed, **{**told, **fields})


def sample(writer, rank, last_id, age_s, group=_GROUP, **fields):
    """Two collectives, the later one started so long ago."""
    started_ns = writer.time_ns - age_s * SECOND
    writer.emit(
        rank,
        ev.CollectivesSampled,
        **{
            "group": group,
            "first_id": last_id - 1,
            "started_ns": (started_ns - SECOND, started_ns),
            "is_still": True,
            **fields,
        },
    )


def board(watcher):
    return watcher.run.board(watcher.clocks.mono_ns)


def test_a_collective_that_hangs_is_on_the_board_with_who_stands_in_it(writer):
    stand_still(writer, 0, 2, 3)
    sample(writer, 2, 70, age_s=55)
    sample(writer, 3, 69, age_s=50)
    name_hang(writer)
    stand_still(writer, 0, 2, 3, seconds=4)

    (row,) = board(Watcher(writer.run))

    assert (row.name, row.index, row.missing) == (_NAME, 70, (1,))
    waits = {w.rank: w.waited_ns / SECOND for w in row.arrived}
    assert waits == {0: pytest.approx(64, abs=1), 2: pytest.approx(59, abs=1)}
    assert row.is_hung


def test_the_verdict_says_who_waits_in_it_before_who_is_silent(writer):
    writer.beat(1, progress=7)
    stand_still(writer, 0, 2, 3, seconds=60)
    name_hang(writer)
    watcher = Watcher(writer.run)
    watcher.clocks.wait(10)
    stand_still(writer, 0, 2, 3)
    watcher.read()

    verdict = watcher.verdict()

    assert verdict.state is State.DEGRADED
    assert verdict.headline.startswith(f"rank 0 waiting at {_NAME} for 1 min 01 s")
    assert "missing: rank 1" in verdict.headline
    assert any("rank 1: no heartbeat for" in one.text for one in verdict.reasons)


def _goes_on(writer):
    name_hang(writer, missing=())


def _takes_a_step(writer):
    writer.emit(0, ev.StepDone, step=6)


def _begins_anew(writer):
    writer.emit(0, ev.RunStarted, **writer.started_fields())


def _is_started_again(writer):
    writer.begin()


def _ends(writer):
    writer.emit(0, ev.RunEnded, reason="stopped")


@pytest.mark.parametrize(
    "what", [_goes_on, _takes_a_step, _begins_anew, _is_started_again, _ends]
)
def test_a_hang_is_over_when_who_told_it_goes_on(writer, what):
    name_hang(writer)
    watcher = Watcher(writer.run)
    before = board(watcher)
    what(writer)
    watcher.read()

    assert [row.name for row in before] == [_NAME]
    assert board(watcher) == []


def test_a_barrier_with_a_name_is_told_by_its_arrivals_alone(writer):
    name_hang(writer, barrier="checkpoint.save", index=0, group=None)

    assert board(Watcher(writer.run)) == []


def test_two_who_tell_of_one_hang_make_one_row_and_the_later_one_counts(writer):
    name_hang(writer, rank=0, missing=(1, 3))
    writer.wait(2)
    name_hang(writer, rank=2, missing=(1,), waited_ns=62 * SECOND)

    (row,) = board(Watcher(writer.run))

    assert ({w.rank for w in row.arrived}, row.missing) == ({0, 2}, (1,))


def standing(watcher, stem="rank-00002"):
    return watcher.run.standing(stem, watcher.clocks.mono_ns)


def test_where_a_process_stands_is_known_from_its_latest_collective(writer):
    stand_still(writer, 2)
    sample(writer, 2, 70, age_s=55)
    sample(writer, 2, 9, age_s=70, group="1 undefined")

    found = standing(Watcher(writer.run))

    assert (found.group, found.number) == (_GROUP, 70)
    assert found.age_ns == pytest.approx(55 * SECOND, abs=SECOND)


def test_a_sample_of_a_process_that_moves_tells_of_no_standstill(writer):
    stand_still(writer, 2)
    sample(writer, 2, 70, age_s=1, is_still=False)
    moving = standing(Watcher(writer.run))
    sample(writer, 2, 71, age_s=1)
    writer.beat(2, progress=8)

    assert moving is None
    assert standing(Watcher(writer.run)) is None


def test_the_report_tells_who_stands_still_where_nobody_waits(writer):
    writer.beat(1, progress=7, step=5)
    stand_still(writer, 0, 2, 3, seconds=3)
    watcher = Watcher(writer.run)
    watcher.clocks.wait(8)
    stand_still(writer, 0, 2, 3, seconds=8)
    sample(writer, 2, 70, age_s=10)
    watcher.read()

    clocks = watcher.clocks
    report = make_barriers(watcher.run, clocks.mono_ns, clocks.time_ns)
    lines = render_barriers(report)

    assert lines[0].startswith("SILENT    rank-1 for 8.0 s, training, step 5")
    inside = f"in collective 70 of group {_GROUP}"
    assert [inside in line for line in lines[1:4]] == [False, True, False]
    assert all(line.startswith("STILL     rank-") for line in lines[1:4])
    assert "nobody waits at a barrier now" not in lines


@pytest.mark.parametrize("first_id", [-1, 10**30])
def test_a_number_that_cannot_be_is_no_collective(writer, first_id):
    stand_still(writer, 2)
    sample(writer, 2, 70, age_s=1, first_id=first_id)

    assert standing(Watcher(writer.run)) is None
