"""Drills go wrong where they were asked to, and only there."""

import os
import signal

from agent.rundir.events import StepDone
from tests.ranks import on_ranks
from tests.trainer.small import events, train
from trainer.catalogue import as_flags, lasting
from trainer.config import TrainConfig


def test_every_rank_kills_itself_after_the_step_that_was_named(tmp_path):
    ended = on_ranks(2, train, str(tmp_path / "run"), {"die_at": 3}, joins=False)

    assert any(end.is_killed for end in ended)
    for rank in range(2):
        steps = [e.step for e in events(tmp_path / "run", StepDone, rank=rank)]
        assert steps == [1, 2, 3]


def test_the_rank_that_is_late_waits_least_for_the_others(tmp_path):
    settings = {"drill_rank": 0, "drill_delay_ms": 40.0, "max_epochs": 3}

    on_ranks(2, train, str(tmp_path / "run"), settings, joins=False)

    waited = [
        sum(e.waits[0].wait_ns for e in events(tmp_path / "run", StepDone, rank=rank))
        for rank in range(2)
    ]
    assert waited[1] > 5 * waited[0]


def train_and_hang(run_dir):
    if os.environ["RANK"] == "1":
        signal.alarm(6)  # ends the rank that hangs, by SIGALRM
    return train(run_dir, {"drill_hang_at": 2, "timeout_s": 2.0})


def test_a_rank_that_hangs_leaves_the_others_waiting_until_their_time_is_up(tmp_path):
    ended = on_ranks(2, train_and_hang, str(tmp_path / "run"), joins=False)

    assert ended[1].is_killed
    assert ended[0].kind == "RankMissingError"
    assert "a rank left in the middle of a step" in ended[0].error


def test_what_starts_a_run_again_has_no_drills():
    config = TrainConfig(die_at=3, drill_delay_ms=5.0, resume="never", steps=7)

    assert as_flags(lasting(config)) == ["--steps", "7"]
