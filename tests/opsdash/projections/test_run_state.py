"""The verdict: five states, each at its threshold."""

import os

import msgspec
import pytest

from agent.rundir import events as ev
from agent.rundir.process import this_process
from opsdash.projections.run_state import State
from tests.runs import SECOND, RunWriter, Watcher, dead_process, remote_process


@pytest.fixture
def writer(tmp_path):
    """A run of two ranks that trains."""
    writer = RunWriter(tmp_path / "run")
    writer.begin()
    writer.steps(1, 20)
    writer.checkpoint(15)
    writer.beat()
    return writer


def run_of(tmp_path, process, **fields):
    writer = RunWriter(tmp_path / "other", process=process)
    writer.begin(**fields)
    writer.steps(1, 5)
    writer.beat()
    return writer


def state_after(watcher, seconds):
    watcher.clocks.wait(seconds)
    return watcher.verdict().state


def test_a_run_that_beats_and_steps_is_healthy(writer):
    verdict = Watcher(writer.run).verdict()

    assert (verdict.state, verdict.exit_code) == (State.HEALTHY, 0)
    assert verdict.headline == "training at step 20"
    assert verdict.reasons == ()


def test_work_since_the_last_verified_checkpoint_is_at_risk(writer):
    verdict = Watcher(writer.run).verdict()

    assert verdict.last_verified.number == 15
    assert (verdict.steps_at_risk, verdict.at_risk_ns) == (5, 5 * 100_000_000)
    assert 0 <= verdict.verified_age_ns < 60 * SECOND


@pytest.mark.parametrize(
    ("seconds", "state"), [(4.5, State.HEALTHY), (5.5, State.DEGRADED)]
)
def test_a_heartbeat_older_than_five_seconds_degrades(writer, seconds, state):
    watcher = Watcher(writer.run)

    assert state_after(watcher, seconds) is state


def test_a_rank_that_beats_and_does_not_move_degrades(writer):
    for _ in range(7):
        writer.wait(1)
        writer.beat(1, progress=3)
        writer.beat(0)
    watcher = Watcher(writer.run)

    verdict = watcher.verdict()

    assert verdict.state is State.DEGRADED
    assert "rank-1 has made no progress for 6" in verdict.headline


def test_ranks_that_stand_still_together_are_told_in_one_line(tmp_path):
    writer = RunWriter(tmp_path / "together", world_size=8)
    writer.begin()
    writer.steps(1, 20)
    for _ in range(7):
        writer.wait(1)
        writer.beat(*range(6), progress=3)
        writer.beat(6, 7, progress=3, phase="evaluating")

    reasons = Watcher(writer.run).reasons()

    assert len([text for text in reasons if "progress" in text]) == 1
    assert "ranks 0-5 have made no progress for 6" in reasons[0]


def test_a_process_that_began_and_never_beat_is_silent(tmp_path):
    writer = RunWriter(tmp_path / "still")
    writer.begin()
    watcher = Watcher(writer.run)
    watcher.clocks.wait(7)
    writer.beat(0)
    watcher.read()

    assert "rank 1: no heartbeat for 7.0 s" in watcher.reasons()


def test_a_slow_step_is_no_standstill(tmp_path):
    writer = RunWriter(tmp_path / "slow")
    writer.begin()
    writer.steps(1, 5, step_ns=20 * SECOND)
    for _ in range(30):
        writer.wait(1)
        writer.beat(progress=3)

    assert Watcher(writer.run).verdict().state is State.HEALTHY


@pytest.mark.parametrize(
    ("limit_s", "state"), [(600, State.HEALTHY), (10, State.DEGRADED)]
)
def test_a_phase_has_the_limit_that_the_trainer_gave(writer, limit_s, state):
    writer.emit(0, ev.PhaseChanged, phase="saving", previous="training")
    for _ in range(20):
        writer.wait(1)
        writer.beat(0, phase="saving", progress=3, limit_ns=limit_s * SECOND)
        writer.beat(1)

    assert Watcher(writer.run).verdict().state is state


def test_a_paused_run_may_stand_still(writer):
    for _ in range(100):
        writer.wait(1)
        writer.beat(phase="paused", progress=3)

    assert Watcher(writer.run).verdict().state is State.HEALTHY


def test_a_barrier_past_its_limit_names_who_is_missing(writer):
    writer.emit(
        0, ev.BarrierArrived, name="checkpoint.save", index=0, limit_ns=3 * SECOND
    )
    for _ in range(4):
        writer.wait(1)
        writer.beat(0, waiting_at="checkpoint.save", waiting_index=0, phase="saving")
        writer.beat(1, step=20)

    verdict = Watcher(writer.run).verdict()

    assert verdict.state is State.DEGRADED
    assert verdict.headline.startswith("rank 0 waiting at checkpoint.save for 4")
    assert verdict.headline.endswith("missing: rank 1 (training, step 20)")
    assert verdict.reasons[0].fix.text == f"opsdash barriers {writer.path}"


def test_a_straggler_that_costs_more_than_a_tenth_degrades(writer):
    writer.steps(21, 60, late={1: 30_000_000})
    writer.beat()

    verdict = Watcher(writer.run).verdict()

    assert verdict.state is State.DEGRADED
    assert verdict.headline.startswith("rank 1 costs 30 % of the time, persistent")


def test_a_run_that_was_paused_waits_for_nobody(writer):
    writer.steps(21, 60, late={1: 30_000_000})
    writer.beat(phase="paused")

    verdict = Watcher(writer.run).verdict()

    assert (verdict.state, verdict.headline) == (State.HEALTHY, "paused at step 60")


def test_a_newest_checkpoint_that_is_not_verified_degrades_after_a_while(writer):
    writer.time_ns -= 120 * SECOND
    writer.checkpoint(19, verified=False)

    verdict = Watcher(writer.run).verdict()

    assert verdict.state is State.DEGRADED
    assert "step-00000019 is not verified" in verdict.headline
    assert verdict.last_verified.number == 15


def test_a_checkpoint_that_is_being_read_back_is_no_reason(writer):
    writer.checkpoint(19, verified=False)

    assert Watcher(writer.run).verdict().state is State.HEALTHY


def test_a_damaged_newest_checkpoint_degrades_at_once(writer):
    path = writer.checkpoint(19)
    (path / "state.pt").write_bytes(b"short")

    verdict = Watcher(writer.run).verdict()

    assert "step-00000019 is damaged: `state.pt` has 5 bytes" in verdict.headline
    assert verdict.reasons[0].fix.text == f"opsdash verify {writer.path}"


def test_a_number_that_is_not_finite_degrades_for_a_hundred_steps(writer):
    writer.emit(0, ev.StepDone, step=21, nonfinite="loss", is_skipped=True)
    writer.beat()
    watcher = Watcher(writer.run)
    soon = watcher.verdict()
    writer.steps(22, 130)
    writer.beat()
    watcher.read()

    assert soon.headline == "loss was not finite at step 21"
    assert watcher.verdict().state is State.HEALTHY


def test_dropped_events_degrade_for_ten_minutes(writer):
    writer.emit(0, ev.EventsDropped, num_dropped=3, reason="disk full")
    watcher = Watcher(writer.run)
    soon = watcher.verdict()
    writer.wait(601)
    writer.beat()
    watcher.clocks.wait(601)
    watcher.read()

    assert soon.headline == "rank 0: 3 events were dropped"
    assert watcher.verdict().state is State.HEALTHY


def test_a_disk_with_room_for_two_checkpoints_degrades(writer):
    writer.emit(
        0,
        ev.HostStats,
        cpu_frac=1.0,
        rss_bytes=1,
        num_threads=1,
        num_fds=1,
        host_cpu_frac=0.1,
        mem_free_bytes=1,
        disk_free_bytes=2 * 4_096,
    )

    verdict = Watcher(writer.run).verdict()

    assert verdict.headline == "8 KiB free: room for 2 checkpoints"


def test_events_that_wait_for_a_disk_degrade(writer):
    writer.beat(0, backlog=40)

    verdict = Watcher(writer.run).verdict()

    assert verdict.headline == "rank 0: 40 events wait for a disk that blocks"


def test_a_rank_that_never_wrote_degrades_a_minute_after_the_start(tmp_path):
    writer = RunWriter(tmp_path / "three", world_size=3)
    writer.begin(started=False)
    for rank in (0, 2):
        writer.emit(rank, ev.RunStarted, **writer.started_fields())
        writer.beat(rank)
    watcher = Watcher(writer.run)
    soon = watcher.verdict().state
    watcher.clocks.time_ns += 61 * SECOND

    assert soon is State.HEALTHY
    assert watcher.verdict().headline == "rank 1 wrote no telemetry"


def test_lines_that_cannot_be_read_are_told_and_degrade_nothing(writer):
    writer.append("rank-00000", b'rubbish\n{"kind":"from_the_future"}\n')

    watcher = Watcher(writer.run)

    assert watcher.verdict().state is State.HEALTHY
    assert watcher.reasons() == [
        "1 events of a newer kind",
        "1 lines could not be read",
    ]


def test_processes_that_are_gone_without_goodbye_are_dead(tmp_path):
    writer = run_of(tmp_path, dead_process())

    verdict = Watcher(writer.run).verdict()

    assert (verdict.state, verdict.exit_code) == (State.DEAD, 2)
    assert verdict.headline == "every process of attempt 1 is gone; last heard now"


def test_an_orphan_that_beats_on_is_not_dead(tmp_path):
    writer = RunWriter(tmp_path / "orphan", process=dead_process())
    writer.begin(started=False)
    writer.emit(0, ev.RunStarted, **writer.started_fields())
    writer.process = this_process()
    writer.emit(1, ev.RunStarted, **writer.started_fields())
    writer.beat()

    verdict = Watcher(writer.run).verdict()

    assert verdict.state is State.DEGRADED
    assert verdict.headline == "rank 0: the process is gone without a goodbye"


@pytest.mark.parametrize(("seconds", "state"), [(29, State.DEGRADED), (31, State.DEAD)])
def test_silence_is_death_when_the_holder_is_gone(tmp_path, seconds, state):
    # The other ranks ran in a container: their processes cannot be asked for.
    here = this_process()
    writer = RunWriter(
        tmp_path / "mixed",
        process=msgspec.structs.replace(here, pid_namespace="pid:[other]"),
    )
    writer.begin()
    writer.lock(dead_process())
    writer.beat()
    watcher = Watcher(writer.run)

    assert state_after(watcher, seconds) is state


def test_a_run_without_any_attempt_never_started(tmp_path):
    writer = RunWriter(tmp_path / "empty")

    verdict = Watcher(writer.run).verdict()

    assert (verdict.state, verdict.headline) == (State.DEAD, "no attempt was started")


def test_an_attempt_that_died_before_its_first_event_is_dead(tmp_path):
    writer = RunWriter(tmp_path / "early", process=dead_process())
    writer.begin(started=False)

    verdict = Watcher(writer.run).verdict()

    assert verdict.headline == "every process of attempt 1 is gone"


def test_an_attempt_that_just_began_is_starting(tmp_path):
    writer = RunWriter(tmp_path / "fresh")
    writer.begin(started=False)
    watcher = Watcher(writer.run)
    soon = watcher.verdict()
    watcher.clocks.wait(61)
    late = watcher.verdict()

    assert (soon.state, soon.headline) == (State.HEALTHY, "attempt 1 is starting")
    assert late.headline == "no telemetry 1 min 01 s after the start"


def test_a_run_elsewhere_that_writes_is_healthy(tmp_path):
    writer = run_of(tmp_path, remote_process())
    watcher = Watcher(writer.run)
    watcher.clocks.wait(1)
    writer.beat()
    watcher.read()

    assert watcher.verdict().state is State.HEALTHY


def test_a_run_elsewhere_that_is_silent_cannot_be_judged(tmp_path):
    writer = run_of(tmp_path, remote_process())
    writer.age(3_600)
    watcher = Watcher(writer.run)
    soon = watcher.verdict()
    watcher.clocks.wait(4)
    late = watcher.verdict()

    assert (soon.state, soon.is_provisional) == (State.BLIND, True)
    assert (late.state, late.is_provisional, late.exit_code) == (State.BLIND, False, 3)
    assert "it runs on host node-b.example, silent for" in late.headline


def test_a_run_that_completed_is_finished(writer):
    writer.end()
    watcher = Watcher(writer.run)
    watcher.clocks.wait(3_600)

    verdict = watcher.verdict()

    assert (verdict.state, verdict.exit_code) == (State.FINISHED, 0)
    assert verdict.headline == "completed at step 20"
    assert (verdict.steps_at_risk, verdict.at_risk_ns) == (None, None)


def test_a_run_that_was_asked_to_stop_is_finished(writer):
    writer.end("stopped")

    verdict = Watcher(writer.run).verdict()

    assert verdict.headline == "stopped as asked at step 20"


def test_a_run_that_ended_with_an_error_is_dead_and_says_which(tmp_path):
    writer = run_of(tmp_path, dead_process())
    writer.end("error", error="CUDA out of memory")

    verdict = Watcher(writer.run).verdict()

    assert verdict.state is State.DEAD
    assert verdict.headline == "rank-0 ended with an error: CUDA out of memory"


def test_a_process_that_fell_silent_first_is_named_before_who_noticed_it(tmp_path):
    writer = run_of(tmp_path, dead_process())
    os.utime(writer.file("rank-00001"), (1, 1))
    fault = "RankMissingError: " + "a rank left in the middle of a step " * 9
    writer.emit(0, ev.RunEnded, reason="error", error=fault)

    verdict = Watcher(writer.run).verdict()

    gone = "rank-1 is gone without a goodbye (process "
    noticed = "; rank-0 ended with an error: RankMissingError: a rank left"
    assert verdict.state is State.DEAD
    assert verdict.headline.startswith(gone)
    assert verdict.headline.endswith(f"{noticed} in the middle of a step a...")


def test_one_rank_that_failed_while_others_go_on_degrades(writer):
    writer.emit(1, ev.RunEnded, reason="error", error="boom")
    writer.beat(0)

    verdict = Watcher(writer.run).verdict()

    assert verdict.state is State.DEGRADED
    assert verdict.headline == "rank-1 ended with an error: boom"


def test_a_resumed_run_lives_by_its_newest_attempt(tmp_path):
    writer = run_of(tmp_path, dead_process())
    dead = Watcher(writer.run).verdict().state
    writer.process = this_process()
    writer.begin()
    writer.beat()

    verdict = Watcher(writer.run).verdict()

    assert dead is State.DEAD
    assert (verdict.state, verdict.attempt) == (State.HEALTHY, 2)


def test_a_newer_schema_makes_blind(writer):
    identity = msgspec.json.decode(writer.run.identity.read_bytes())
    identity["schema"] = 99
    writer.run.identity.write_bytes(msgspec.json.encode(identity))

    verdict = Watcher(writer.run).verdict()

    assert verdict.state is State.BLIND
    assert "has schema 99" in verdict.headline


def test_a_damaged_identity_makes_blind(writer):
    writer.run.identity.write_bytes(b"{")

    assert Watcher(writer.run).verdict().state is State.BLIND


def test_the_worst_reason_stands_first(writer):
    writer.append("rank-00000", b"rubbish\n")
    writer.emit(0, ev.EventsDropped, num_dropped=3, reason="disk full")
    writer.emit(1, ev.RunEnded, reason="error", error="boom")

    severities = [r.severity for r in Watcher(writer.run).verdict().reasons]

    assert severities == sorted(severities, reverse=True)
    assert len(severities) >= 3
