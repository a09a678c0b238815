"""Drills go wrong where they were asked to, and only there."""

from agent.rundir.events import StepDone
from tests.ranks import on_ranks, started
from tests.trainer.small import events, train
from trainer.catalogue import as_flags, lasting
from trainer.config import TrainConfig


def test_every_rank_kills_itself_after_the_step_that_was_named(tmp_path):
    ended = on_ranks(2, train, str(tmp_path / "run"), {"die_at": 3}, joins=False)

    assert any(end.is_killed for end in ended)
    for rank in range(2):
        steps = [e.step for e in events(tmp_path / "run", StepDone, rank=rank)]
        assert steps == [1, 2, 3]


def test_a_rank_that_is_late_is_waited_for_at_every_step(tmp_path):
    settings = {"drill_rank": 0, "drill_delay_ms": 300.0, "steps": 4}

    on_ranks(2, train, str(tmp_path / "run"), settings, joins=False)

    waited = [
        sorted(e.waits[0].wait_ns for e in events(tmp_path / "run", StepDone, rank=r))
        for r in range(2)
    ]
    # Whoever is not late waits for the delay; the median is of no busy moment.
    assert waited[1][2] > waited[0][2] + 150e6


def test_a_rank_that_hangs_leaves_the_others_waiting_until_their_time_is_up(tmp_path):
    settings = {"drill_hang_at": 2, "timeout_s": 2.0}

    with started(2, train, str(tmp_path / "run"), settings, joins=False) as ranks:
        waiting = ranks.ended_of(0)
        is_hanging = ranks.processes[1].is_alive()

    assert is_hanging
    assert waiting.kind == "RankMissingError"
    assert "a rank left in the middle of a step" in waiting.error
    for rank in range(2):
        assert max(e.step for e in events(tmp_path / "run", StepDone, rank=rank)) == 2


def test_what_starts_a_run_again_has_no_drills():
    config = TrainConfig(die_at=3, drill_delay_ms=5.0, resume="never", steps=7)

    assert as_flags(lasting(config)) == ["--steps", "7"]
