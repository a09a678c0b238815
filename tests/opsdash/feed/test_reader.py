"""One pass after another over run directories in every condition."""

import os

import pytest

from agent.rundir import events as ev
from agent.rundir.process import Liveness
from opsdash.feed.cursor import PIECE_BYTES, read_line
from opsdash.feed.reader import RunReader
from tests.runs import SECOND, HandClocks, RunWriter, Watcher, dead_process


@pytest.fixture
def writer(tmp_path):
    return RunWriter(tmp_path / "run")


def new_lines(watcher):
    watcher.reader.look_for_files()
    batch = watcher.reader.read()
    watcher.run.fold(batch)
    return batch.lines


def test_what_is_written_while_watching_arrives_once(writer):
    writer.begin()
    watcher = Watcher(writer.run)
    writer.emit(0, ev.StepDone, step=1, loss=2.0)

    first, second = new_lines(watcher), new_lines(watcher)

    assert [e.step for lines in first for e in lines.events] == [1]
    assert second == ()


def test_a_torn_line_is_held_back_until_it_is_whole(writer):
    writer.begin()
    line = writer.emit(0, ev.StepDone, step=1)
    writer.append("rank-00000", line[:20])
    watcher = Watcher(writer.run)
    before = watcher.run.steps.step
    writer.append("rank-00000", line[20:].replace(b'"step":1', b'"step":2'))

    watcher.read()

    assert (before, watcher.run.steps.step) == (1, 2)


def test_a_torn_line_of_a_dead_writer_is_not_waited_for(writer):
    writer.begin()
    writer.append("rank-00000", b'{"kind":"step_done"')

    reader = RunReader(writer.run)
    backlogs = [reader.read().backlog_bytes for _ in range(2)]

    assert backlogs == [19, 0]


def test_an_event_can_be_read_again_where_its_row_says(writer):
    writer.begin()
    writer.append("rank-00000", b"\n  \nnot json\n")
    line = writer.emit(0, ev.StepDone, step=7)
    run = Watcher(writer.run).run

    row = next(
        row
        for row in map(run.events.row, range(run.events.first, run.events.stop))
        if row.step == 7
    )

    assert read_line(writer.run, row.file, row.offset) == line.rstrip(b"\n")


def test_offsets_hold_when_a_line_has_two_events(writer):
    writer.begin()
    line = writer.emit(0, ev.StepDone, step=1)
    writer.append("rank-00000", line.rstrip(b"\n") + line)
    last = writer.emit(0, ev.StepDone, step=9)
    run = Watcher(writer.run).run

    row = next(
        row
        for row in map(run.events.row, range(run.events.first, run.events.stop))
        if row.step == 9
    )

    assert read_line(writer.run, row.file, row.offset) == last.rstrip(b"\n")
    assert run.events.num_undecodable == 1


def test_unreadable_and_newer_lines_are_counted_apart(writer):
    writer.begin()
    writer.append("rank-00000", b'\xff\xfe\n{"kind":"from_the_future","x":1}\n[]\n')

    run = Watcher(writer.run).run

    assert (run.events.num_undecodable, run.events.num_newer) == (2, 1)


def test_a_line_without_end_is_skipped_and_told(writer):
    writer.begin()
    writer.append("rank-00000", b"x" * (3 << 20))
    writer.append("rank-00000", b"\n")
    writer.emit(0, ev.StepDone, step=3)

    run = Watcher(writer.run).run

    assert run.steps.step == 3
    assert run.events.num_overlong == 1


def test_a_new_attempt_and_a_new_segment_are_found(writer):
    writer.begin()
    watcher = Watcher(writer.run)
    segment = writer.file("rank-00000", 2)
    segment.write_bytes(ev.encode(_step(5)))
    writer.begin()
    writer.emit(1, ev.StepDone, step=6)

    run = watcher.read()

    assert run.directory.newest_attempt == 2
    assert run.steps.curve("loss").points()[0][0] == 5


def test_a_process_next_segment_waits_for_the_one_before(writer):
    writer.begin()
    writer.steps(1, 2_000)
    writer.file("rank-00000", 2).write_bytes(ev.encode(_step(2_001)))

    run = Watcher(writer.run).run

    assert run.steps.curve("loss").points()[-1][0] == 2_001
    assert len(run.steps.curve("loss").points()) == 2_001


def test_ranks_advance_together_through_a_long_history(writer):
    writer.begin()
    writer.steps(1, 3_000)
    # One rank's lines are much longer: by bytes it would fall behind.
    padded = [
        line[:-1] + b" " * 400 + b"\n"
        for line in writer.file("rank-00001").read_bytes().splitlines(keepends=True)
    ]
    writer.file("rank-00001").write_bytes(b"".join(padded))
    assert writer.file("rank-00000").stat().st_size > 4 * PIECE_BYTES

    run = Watcher(writer.run).run

    assert run.lateness.barriers()[0].num_waits == 6_000
    assert run.lateness.blame()[0].num_last == 3_000


def test_a_replaced_file_is_read_from_its_start(writer):
    writer.begin()
    watcher = Watcher(writer.run)
    path = writer.file("rank-00000")
    path.unlink()
    path.write_bytes(ev.encode(_step(77)))

    watcher.read()

    assert watcher.run.steps.step == 77


def test_a_file_that_went_is_a_problem_and_not_an_end(writer):
    writer.begin()
    watcher = Watcher(writer.run)
    writer.file("rank-00000").unlink()

    watcher.read()

    assert any("rank-00000" in text for text in watcher.reasons())


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_what_is_no_plain_file_is_shown_and_not_followed(writer, kind, tmp_path):
    writer.begin()
    path = writer.file("rank-00001")
    path.unlink()
    if kind == "symlink":
        secret = tmp_path / "secret.jsonl"
        secret.write_bytes(ev.encode(_step(1_000)))
        path.symlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()

    watcher = Watcher(writer.run)

    assert watcher.run.steps.step is None
    assert any("not a plain file" in text for text in watcher.reasons())


def test_a_fifo_in_place_of_the_lock_blocks_nobody(writer):
    writer.begin(lock=False)
    os.mkfifo(writer.run.lock)

    run = Watcher(writer.run).run

    assert run.directory.lock is None


def test_a_directory_that_goes_away_is_a_problem_and_no_exception(writer, tmp_path):
    writer.begin()
    watcher = Watcher(writer.run)
    writer.path.rename(tmp_path / "moved")

    watcher.read()

    assert watcher.verdict().state == "blind"


def test_the_age_of_history_is_the_age_of_its_file(writer):
    writer.begin()
    writer.beat()
    writer.age(3_600)

    watcher = Watcher(writer.run)
    rows = watcher.run.rank_rows(watcher.clocks.mono_ns)

    assert 3_590 * SECOND < rows[0].seen_age_ns < 3_610 * SECOND


def test_what_comes_while_watching_is_as_old_as_its_arrival(writer):
    writer.begin()
    writer.age(3_600)
    watcher = Watcher(writer.run)
    writer.beat()
    watcher.read()
    watcher.clocks.wait(2)

    rows = watcher.run.rank_rows(watcher.clocks.mono_ns)

    assert rows[0].seen_age_ns == 2 * SECOND


def test_a_file_from_the_future_is_told(writer):
    writer.begin()
    writer.age(-60)

    watcher = Watcher(writer.run)

    assert any("ahead of this host's clock" in text for text in watcher.reasons())


def test_processes_that_are_gone_are_known_to_be(tmp_path):
    writer = RunWriter(tmp_path / "run", process=dead_process())
    writer.begin()

    run = Watcher(writer.run).run

    assert run.directory.processes["rank-00000"] is Liveness.DEAD


def test_an_idle_pass_returns_the_same_directory_object(writer):
    writer.begin()
    writer.checkpoint(10)
    clocks = HandClocks()
    reader = RunReader(writer.run, clocks=clocks)
    first = reader.read()
    clocks.wait(0.1)

    second = reader.read()

    assert second.directory is first.directory


def test_a_checkpoint_published_meanwhile_is_seen(writer):
    writer.begin()
    watcher = Watcher(writer.run)
    writer.checkpoint(20)

    run = watcher.read()

    assert [row.name for row in run.checkpoints.rows()] == ["step-00000020"]


def test_a_file_cut_short_inside_a_checkpoint_is_seen_in_time(writer):
    writer.begin()
    path = writer.checkpoint(20)
    past = writer.time_ns - 60 * SECOND
    for place in (writer.run.checkpoints, writer.run.verified):
        os.utime(place, ns=(past, past))
    watcher = Watcher(writer.run)
    before = watcher.run.checkpoints.rows()[0].stage
    os.truncate(path / "state.pt", 10)
    watcher.clocks.wait(6)

    watcher.read()

    assert (before, watcher.run.checkpoints.rows()[0].stage) == ("verified", "damaged")


def _step(step):
    return ev.StepDone(
        time_ns=1, mono_ns=1, node="rank-0", rank=0, seq=0, step=step, loss=1.0
    )
