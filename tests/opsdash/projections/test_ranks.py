"""Each process of the newest attempt."""

import pytest

from agent.rundir import events as ev
from agent.rundir.process import Liveness
from tests.runs import SECOND, HandClocks, RunWriter, Watcher, dead_process


@pytest.fixture
def writer(tmp_path):
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    return writer


def rows(watcher):
    return watcher.run.rank_rows(watcher.clocks.mono_ns)


def test_phase_step_and_memory_stand_in_the_row(writer):
    writer.emit(0, ev.PhaseChanged, phase="saving", previous="training")
    writer.beat(0, phase="saving", step=12, limit_ns=600 * SECOND)
    writer.emit(
        0,
        ev.HostStats,
        cpu_frac=0.5,
        rss_bytes=1 << 20,
        num_threads=3,
        num_fds=9,
        host_cpu_frac=0.1,
        mem_free_bytes=1 << 30,
        disk_free_bytes=1 << 31,
    )

    row = rows(Watcher(writer.run))[0]

    assert (row.node, row.phase, row.step) == ("rank-0", "saving", 12)
    assert (row.rss_bytes, row.cpu_frac, row.limit_ns) == (1 << 20, 0.5, 600 * SECOND)


def sample(writer, **fields):
    """What a rank tells of itself and its host."""
    host = {"cpu_frac": 0.5, "rss_bytes": 1, "num_threads": 1, "num_fds": 1}
    host |= {"host_cpu_frac": 0.1, "mem_free_bytes": 1}
    writer.emit(0, ev.HostStats, **{**host, **fields})


def test_what_goes_over_the_network_is_told_by_the_second(writer):
    sample(writer, net_sent_bytes=10**9, net_received_bytes=500)
    alone = rows(Watcher(writer.run))[0]
    writer.wait(4)
    sample(writer, net_sent_bytes=10**9 + 4_000, net_received_bytes=400, agent_bytes=7)

    row = rows(Watcher(writer.run))[0]

    assert alone.net_sent_per_s is None
    # A counter that went back is another one.
    assert (row.net_sent_per_s, row.net_received_per_s) == (1_000.0, None)
    assert row.agent_bytes == 7


@pytest.mark.parametrize("bad", [-1, 2**70, None])
def test_a_counter_that_is_none_tells_no_rate(writer, bad):
    sample(writer, net_sent_bytes=1, agent_bytes=bad)
    writer.wait(1)
    sample(writer, net_sent_bytes=bad, agent_bytes=bad)

    row = rows(Watcher(writer.run))[0]

    assert (row.net_sent_per_s, row.agent_bytes) == (None, None)


def test_progress_is_as_old_as_the_counter_stands_still(writer):
    writer.beat(0, progress=5)
    for _ in range(7):
        writer.wait(1)
        writer.beat(0, progress=5)

    row = rows(Watcher(writer.run))[0]

    assert 7 * SECOND <= row.progress_age_ns < 8 * SECOND
    assert row.heartbeat_age_ns < SECOND


def test_progress_is_known_over_a_long_log_of_heartbeats(writer):
    writer.beat(0, progress=5)
    for _ in range(900):
        writer.wait(1)
        writer.beat(0, progress=5, phase="x" * 100)
    assert writer.file("rank-00000").stat().st_size > 200_000

    row = rows(Watcher(writer.run))[0]

    assert 900 * SECOND <= row.progress_age_ns < 901 * SECOND


def test_a_dropped_event_is_counted_once_whoever_tells(writer):
    writer.beat(0)
    writer.emit(0, ev.EventsDropped, num_dropped=4, reason="disk full", seq=100)

    row = rows(Watcher(writer.run))[0]

    assert row.num_dropped == 98  # the gap; the four told are among them
    assert row.dropped_age_ns is not None


def test_what_was_missing_and_came_late_is_no_drop(writer):
    writer.beat(0, seq=0)
    writer.beat(0, seq=200)
    watcher = Watcher(writer.run)
    assert rows(watcher)[0].num_dropped == 199

    for seq in range(1, 200):
        writer.beat(0, seq=seq)

    watcher.read()
    row = rows(watcher)[0]
    assert row.num_dropped == 0
    assert row.dropped_age_ns is None


def test_an_unreadable_line_is_no_drop(writer):
    writer.beat(0)
    writer.append("rank-00000", b"garbage\n")
    writer._seqs["rank-00000"] += 1
    for _ in range(100):
        writer.beat(0)

    row = rows(Watcher(writer.run))[0]

    assert row.num_dropped == 0


def test_a_new_attempt_begins_with_empty_rows(writer):
    writer.beat(0, step=9)
    writer.begin(started=False)

    watcher = Watcher(writer.run)

    assert rows(watcher) == []
    assert watcher.run.ranks.attempt == 2


def test_a_goodbye_stays(writer):
    writer.end("error", error="CUDA out of memory")

    row = rows(Watcher(writer.run))[0]

    assert (row.ended, row.error) == ("error", "CUDA out of memory")


def test_a_segment_that_says_again_who_it_is_takes_no_goodbye_back(writer):
    writer.end("completed")
    writer.emit(0, ev.RunStarted, **writer.started_fields(), segment=2)

    row = rows(Watcher(writer.run))[0]

    assert row.ended == "completed"


def test_a_process_that_is_gone_is_said_to_be(tmp_path):
    writer = RunWriter(tmp_path / "other", process=dead_process())
    writer.begin()

    row = rows(Watcher(writer.run))[0]

    assert row.liveness is Liveness.DEAD


def test_a_clock_that_differs_is_told_from_live_lines_only(writer):
    watcher = Watcher(writer.run)
    before = rows(watcher)[0].clock_skew_ns
    writer.time_ns += 3_600 * SECOND
    writer.beat(0)
    watcher.read()

    row = rows(watcher)[0]

    assert before is None
    assert row.clock_skew_ns == pytest.approx(3_600 * SECOND, abs=60 * SECOND)


def test_a_line_that_came_late_is_no_clock_that_is_behind(writer):
    clocks = HandClocks()
    clocks.time_ns = writer.time_ns
    watcher = Watcher(writer.run, clocks)

    def skew_after(seconds, delay):
        """Let time go on; then a line is read that is `delay` seconds old."""
        writer.wait(seconds)
        clocks.time_ns = writer.time_ns + delay * SECOND
        clocks.mono_ns += seconds * SECOND
        writer.beat(0)
        watcher.read()
        return rows(watcher)[0].clock_skew_ns

    told = [skew_after(seconds, delay) for seconds, delay in ((1, 4), (1, 0), (1, 5))]
    later = skew_after(61, 3)

    assert told == [-4 * SECOND, 0, 0]
    assert later == -3 * SECOND


def test_rows_are_ordered_by_rank_and_files_of_no_rank_come_last(tmp_path):
    writer = RunWriter(tmp_path / "many", world_size=12)
    writer.begin()
    writer.emit("helper", ev.PhaseChanged, phase="x")
    writer.emit("rank-1000000000", ev.PhaseChanged, phase="x")

    found = [row.node for row in rows(Watcher(writer.run))]

    assert found[:12] == [f"rank-{rank}" for rank in range(12)]
    assert sorted(found[12:]) == ["helper", "rank-1000000000"]


def test_too_many_processes_are_counted_and_not_kept(writer, monkeypatch):
    monkeypatch.setattr("opsdash.projections.ranks.MAX_NODES", 3)
    for number in range(6):
        writer.emit(f"x-{number}", ev.PhaseChanged, phase="p")

    watcher = Watcher(writer.run)

    assert len(rows(watcher)) == 3
    assert watcher.run.ranks.num_hidden > 0
